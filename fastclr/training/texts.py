"""The tokenizer of a run: made of its captions, stored in its folder, the same on every process."""

from __future__ import annotations

import hashlib
from typing import Any

from fastclr.data import Splits
from fastclr.methods import METHODS
from fastclr.methods.tokenizers import Tokenizer, make_tokenizer
from fastclr.parallel import World
from fastclr.training.config import PretrainConfig


def tokenizer_for(config: PretrainConfig, data: Splits, world: World) -> Tokenizer:
    """Return the tokenizer that the method's options name, trained on the captions of the training images if need be.

    Raises:
        FileNotFoundError: it is in a folder that is not there.
        ModuleNotFoundError: a package of ``fastclr[text]`` is missing.
        ValueError: the images have no captions, it is unsuitable, or the processes have different ones.
    """
    captions = data.train.captions
    if captions is None:
        raise ValueError(
            f"{METHODS[config.method].title} needs captions, and the images of {config.data!r} have none: --captions "
            "says where they are"
        )
    options: Any = config.options
    every = (text for texts in captions for text in texts)
    tokenizer = make_tokenizer(options.tokenizer, every, size=options.vocabulary, context=options.context)
    if not agreed(tokenizer.stored(), world):
        raise ValueError(
            f"the processes do not have the same tokenizer {options.tokenizer!r}: every machine needs the same "
            "captions, files and version of tokenizers"
        )
    return tokenizer


def agreed(text: str, world: World) -> bool:
    """Tell, on every process, whether all processes have the same text."""
    if world.group is None:
        return True
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
    return world.any(digest) == -world.any(-digest)
