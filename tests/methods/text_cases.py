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
from fastclr.data import Batch
from fastclr.methods import METHODS, Facts, ViewPlan
from fastclr.methods.heads import build_head
from fastclr.methods.image_text import ImageText
from fastclr.methods.text import TextTower
from fastclr.methods.tokenizers import Tokenizer, Vocabulary
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method

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
    """The mean of a few numbers for each letter, through one layer."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(LETTERS.size, 6), 6, LETTERS)
        self.layer = nn.Linear(6, 6)

    def states(self, tokens: Tensor) -> Tensor:
        """Return the features of every token."""
        found: Tensor = torch.tanh(self.layer(self.model(tokens)))
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean over the letters."""
        kept = (tokens != 0)[..., None]
        return (self.states(tokens) * kept).sum(1) / kept.sum(1)


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
    plan = ViewPlan(config.augment, 1)
    return made(tiny_encoder(False), head, TinyText(), plan, options, gathers=facts.world_size > 1)


def batch_of(count: int, texts: Tensor, text_ids: Tensor | None = None, image_ids: Tensor | None = None) -> Batch:
    """Return a batch of black images with texts."""
    images = torch.zeros(count, 4, 4, 3, dtype=torch.uint8)
    return Batch(images, torch.arange(count), torch.full((count,), -1), texts, text_ids, image_ids)
