"""Methods of images and texts on networks of a few parameters, with tokens that need no library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from method_cases import SMALL, tiny_encoder
from tiny_run import TINY
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.data import Batch, Splits, make_shapes
from fastclr.methods import METHODS, BLIPOptions, CLIPOptions, CoCaOptions, Facts, SigLIPOptions, ViewPlan
from fastclr.methods.heads import build_head
from fastclr.methods.image_text import ImageText
from fastclr.methods.text import TextTower
from fastclr.methods.tokenizers import Tokenizer, Vocabulary
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method

# the methods of images and texts, with options for small batches
TEXT_METHODS: dict[str, Any] = {
    "clip": CLIPOptions(),
    "siglip": SigLIPOptions(bias=-3.0),
    "blip-itc": BLIPOptions(queue=64, momentum=0.9),
    "coca": CoCaOptions(text_heads=2, decoder_layers=1),
}
LETTERS = Vocabulary(size=30, context=16, end=1, pad=0)


class Letters(Tokenizer):
    """One token for each letter, so that tests need no library."""

    vocabulary = LETTERS

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids ``[n, 16]``."""
        rows = [[*(3 + ord(letter) % 27 for letter in text.lower()[:15]), 1] for text in texts]
        return torch.tensor([row + [0] * (16 - len(row)) for row in rows], dtype=torch.int64).view(-1, 16)

    def stored(self) -> str:
        """Return what `restored` does not read: tests hand the tokenizer on."""
        return "letters"


class TinyText(TextTower):
    """The mean of a few numbers for each letter up to a place, through one layer."""

    causal = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(nn.Embedding(vocabulary.size, 6), 6, vocabulary)
        self.layer = nn.Linear(6, 6)

    def states(self, tokens: Tensor) -> Tensor:
        """Return the features of every token, which see those before it."""
        counts = torch.arange(1, tokens.shape[1] + 1)[:, None]
        found: Tensor = torch.tanh(self.layer(self.model(tokens).cumsum(1) / counts))
        return found


def text_config(name: str, **changes: Any) -> PretrainConfig:
    """Return a run of the method with its recipe, a small head, and views that keep what captions say."""
    augment = AugmentConfig(32, crop_scale=(0.8, 1.0), flip_p=0.0, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    return dataclasses.replace(with_method(TINY, name), **{**SMALL, "augment": augment, **changes})


def make_tiny_pair(config: PretrainConfig, facts: Facts) -> ImageText:
    """Make the method of a run around networks of one's own, without batch norm."""
    made = METHODS[config.method]
    assert issubclass(made, ImageText)
    head = build_head("linear", 8, config.head_dim, 1, 8, bn=True, last_bn="none")
    options: Any = config.options
    plan, text = ViewPlan(config.augment, 1), TinyText(facts.vocabulary or LETTERS)
    return made(tiny_encoder(False), head, text, None, plan, options, gathers=facts.world_size > 1)


def coarse_shapes(train: int) -> Splits:
    """Return shapes whose captions are size and colour, of which a batch has many twice."""
    made = make_shapes(train=train, test=8, captions=True)
    short = tuple((" ".join(texts[0].split()[:2]),) for texts in made.train.captions or ())
    return Splits(dataclasses.replace(made.train, captions=short), None)


def batch_of(count: int, texts: Tensor, text_ids: Tensor | None = None, image_ids: Tensor | None = None) -> Batch:
    """Return a batch of black images with texts."""
    images = torch.zeros(count, 4, 4, 3, dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.full((count,), -1), texts, text_ids, image_ids)
