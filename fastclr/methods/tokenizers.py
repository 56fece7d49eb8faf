"""From captions to token ids: CLIP's tokens, a BPE trained on the captions of a run, or a tokenizer of Hugging Face."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastclr.sources.packages import needed

TRAINED, OPEN_CLIP = "bpe", "open_clip"
CLIP_CONTEXT = 77
LEAST_CONTEXT = 16
BYTES = 256
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"


@dataclass(frozen=True)
class Vocabulary:
    """What a text tower must know of the tokens.

    Args:
        size: number of different tokens; ids are below it.
        context: length L of a tokenised text.
        end: id of the token that ends every text, where CLIP reads the text's features.
        pad: id behind the end.
    """

    size: int
    context: int
    end: int
    pad: int


class Tokenizer(ABC):
    """A callable from n texts to token ids, int64 ``[n, L]``, each ended by a token of its own, cut off or padded to L.

    Attributes:
        vocabulary: what a text tower must know of the tokens.
    """

    vocabulary: Vocabulary

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, int64 ``[n, L]``."""

    @abstractmethod
    def stored(self) -> str:
        """Return JSON from which `restored` makes the same tokenizer."""


class OpenClipTokenizer(Tokenizer):
    """The tokens of CLIP, whose list comes with open_clip: lower case, 49,408 ids, padded with 0.

    Args:
        context: length L.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    """

    def __init__(self, context: int = CLIP_CONTEXT) -> None:
        library = needed("open_clip.tokenizer", "the tokens of CLIP need open_clip_torch", "text")
        self.tokens: Any = library.SimpleTokenizer(context_length=context)
        self.vocabulary = Vocabulary(self.tokens.vocab_size, context, self.tokens.eot_token_id, 0)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, int64 ``[n, L]``."""
        found: Tensor = self.tokens(list(texts))
        return found

    def stored(self) -> str:
        """Return the name and the length: the list of tokens is open_clip's."""
        return json.dumps({OPEN_CLIP: {"context": self.vocabulary.context}})


class FileTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`, as its ``tokenizer.json`` describes it.

    Args:
        description: the contents of that file.
        context: length L; None: that of the file, which must have one.
        pad: the token behind the end; None: that of the file.

    Raises:
        ValueError: it adds no token at the end of a text, or there is nothing to pad with.
    """

    def __init__(self, description: str, context: int | None = None, pad: str | None = None) -> None:
        self.tokens: Any = library().Tokenizer.from_str(description)
        before = self.tokens.padding or {}
        length = context or (self.tokens.truncation or {}).get("max_length")
        self.tokens.no_padding()
        added = self.tokens.encode("").ids
        if not added:
            raise ValueError("the tokenizer must end every text with a token of its own, and this one adds none")
        padding = before.get("pad_id") if pad is None else self.tokens.token_to_id(pad)
        if padding is None or length is None or length <= len(added):
            raise ValueError(
                f"the tokenizer must have a token to pad with and more than {len(added)} tokens for a text, got "
                f"{pad or before.get('pad_token')!r} and {length}"
            )
        self.tokens.enable_truncation(max_length=length)
        self.tokens.enable_padding(length=length, pad_id=padding, pad_token=self.tokens.id_to_token(padding))
        self.vocabulary = Vocabulary(self.tokens.get_vocab_size(), length, added[-1], padding)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, int64 ``[n, L]``."""
        rows = [encoding.ids for encoding in self.tokens.encode_batch(list(texts))]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.vocabulary.context)

    def stored(self) -> str:
        """Return the contents of a ``tokenizer.json``, which `tokenizers.Tokenizer.from_file` reads too."""
        description: str = self.tokens.to_str()
        return description


def library() -> Any:
    """Return `tokenizers`, which would start threads, and then warn of every process of a loader."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return needed("tokenizers", "captions need tokenizers", "text")


def make_tokenizer(
    name: str, captions: Iterable[str] | None, *, size: int = 4096, context: int | None = None
) -> Tokenizer:
    """Return the tokenizer that `name` means.

    Args:
        name: ``bpe``: trained on the captions, the same for the same captions; ``open_clip``: CLIP's; otherwise the
            folder of a tokenizer as Hugging Face stores it, or its ``tokenizer.json``. Nothing is fetched.
        captions: to train on, in any order; only ``bpe`` reads them.
        size: most tokens of ``bpe``, at least 259: every byte and three more.
        context: length L of a text. Default: 77, for ``bpe`` what the longest caption takes, from 16 to 77.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ModuleNotFoundError: a package of ``fastclr[text]`` is missing.
        ValueError: there are no captions to train on, or the tokenizer is unsuitable.
    """
    if name == OPEN_CLIP:
        return OpenClipTokenizer(context or CLIP_CONTEXT)
    if name == TRAINED:
        return train_bpe(captions or (), size, context)
    return read_tokenizer(Path(name), context or CLIP_CONTEXT)


def train_bpe(captions: Iterable[str], size: int, context: int | None) -> FileTokenizer:
    """Return byte pairs of the captions, in lower case; any text has tokens, since single bytes are among them."""
    tokenizers: Any = library()
    for part in ("models", "normalizers", "pre_tokenizers", "processors", "trainers"):
        needed(f"tokenizers.{part}", "captions need tokenizers", "text")
    texts = list(captions)
    if not texts:
        raise ValueError("the tokenizer bpe is trained on captions, and there are none")
    tokens = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    tokens.normalizer = tokenizers.normalizers.Sequence(steps)
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[PAD, START, END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokens.train_from_iterator(texts, trainer)
    ends = [(token, tokens.token_to_id(token)) for token in (START, END)]
    tokens.post_processor = tokenizers.processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    if context is None:
        longest = max(len(encoding.ids) for encoding in tokens.encode_batch(texts))
        context = min(CLIP_CONTEXT, max(LEAST_CONTEXT, -(-longest // 8) * 8))
    return FileTokenizer(tokens.to_str(), context, PAD)


def read_tokenizer(path: Path, context: int) -> FileTokenizer:
    """Return the tokenizer in a folder of Hugging Face, or in a ``tokenizer.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is unsuitable, or no such file.
    """
    path = path.expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"tokenizer must be bpe, open_clip, or a folder with a tokenizer.json, got {str(path)!r}; "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes one"
        )
    pad = None
    about = file.with_name("tokenizer_config.json")
    try:
        if about.is_file():
            named = json.loads(about.read_text(encoding="utf-8")).get("pad_token")
            pad = named.get("content") if isinstance(named, dict) else named
        return FileTokenizer(file.read_text(encoding="utf-8"), context, pad)
    except Exception as error:  # the library raises plain ones
        raise ValueError(f"{file}: {error}") from error


def restored(description: str) -> Tokenizer:
    """Return the tokenizer of which `description` is the stored form.

    Raises:
        ValueError: it is none.
    """
    try:
        own = json.loads(description).get(OPEN_CLIP)
        return FileTokenizer(description) if own is None else OpenClipTokenizer(int(own["context"]))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"this is no stored tokenizer: {error}") from error
