"""What methods of images and texts share: two towers into one space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastclr.data.batch import Batch
from fastclr.methods.base import Facts, Method, ViewPlan, Views, rows_of
from fastclr.methods.clip_start import Started, start_texts
from fastclr.methods.heads import projected_width
from fastclr.methods.model import build_model
from fastclr.methods.options import ModelOptions
from fastclr.methods.pair_ids import pair_ids
from fastclr.methods.text import OPEN_CLIP, TextTower, build_tower
from fastclr.methods.tokenizers import TRAINED, make_tokenizer
from fastclr.parallel import resolve_group
from fastclr.sources.packages import needed


class ImageText(Method):
    """An image encoder f with its head g, and a text tower with a linear map: z = g(f(x)) and t = W tower(text).

    Args:
        encoder: f, from images ``[n, 3, S, S]`` to features ``[n, F]``.
        head: g, from features to embeddings ``[n, D]``.
        text: from token ids ``[n, L]`` to features ``[n, F']``.
        text_head: from these to embeddings; None makes a linear map without bias.
        views: what the augmenter makes.
        options: the method's own.
        gathers: whether several processes share the loss.

    Raises:
        ValueError: the head has no linear layer.
    """

    uses_texts = True
    text: TextTower
    text_head: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        text: TextTower,
        text_head: nn.Module | None,
        views: ViewPlan,
        options: Any,
        *,
        gathers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.text = encoder, head, text
        self.text_head = text_head or linear(text, head, self.title)
        self.options, self.views, self.gathers = options, views, gathers
        self.criterion = self.make_criterion()
        self.extend()

    @classmethod
    def build(cls, config: ModelOptions, facts: Facts) -> ImageText:
        """Build the method, initialised from torch's global generator.

        Raises:
            TypeError: the options belong to another method.
            ValueError: the configuration does not fit the method or the data, or there are no captions.
        """
        if not isinstance(config.options, cls.Options):
            raise TypeError(f"options must be {cls.Options.__name__}, got {type(config.options).__name__}")
        if facts.vocabulary is None:
            raise ValueError(f"{cls.title} needs captions of its images, and there are none")
        cls.check(config, facts)
        options: Any = config.options
        model = build_model(config)
        text = build_tower(options, facts.vocabulary, fresh=config.fresh)
        text_head = linear(text, model.head, cls.title)
        # before the method is made: its twins start as copies
        started = start_texts(config, model.head, text, text_head) if config.fresh else Started()
        plan = cls.plan(config)
        method = cls(model.encoder, model.head, text, text_head, plan, options, gathers=facts.world_size > 1)
        method.take_scale(started.scale, started.bias)
        method.started = tuple(started.lines)
        return method

    @classmethod
    def prepare(cls, config: ModelOptions) -> None:
        """Raise what is wrong with tokenizer and text tower, as far as that is known without the captions."""
        options: Any = config.options
        if options.tokenizer != TRAINED:
            tokenizer = make_tokenizer(options.tokenizer, None, context=options.context)
            build_tower(options, tokenizer.vocabulary, fresh=False)
            return
        needed("tokenizers", "captions need tokenizers", "text")
        library = "open_clip" if options.text.startswith(OPEN_CLIP) else "transformers"
        needed(library, f"this text tower needs {library}", "text")

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Raise a ValueError if the configuration does not fit the method or the data."""
        return

    def take_scale(self, scale: float | None, bias: float | None) -> None:
        """Start from the factor of the cosines, and what is added to them, that come with starting weights."""
        return

    def make_criterion(self) -> nn.Module:
        """Return the loss; it may have parameters."""
        raise NotImplementedError

    def extend(self) -> None:
        """Add what the method has beside its towers, such as twins; nothing by default."""
        return

    def encode_image(self, images: Tensor) -> Tensor:
        """Return embeddings of images as the encoder takes them, ``[N, D]``, not of unit length."""
        found: Tensor = self.head(self.encoder(images))
        return found

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Return embeddings of texts in the same space, ``[N, D]``, not of unit length.

        Args:
            token_ids: int64 ``[N, L]``, of the run's tokenizer.
        """
        found: Tensor = self.text_head(self.text(token_ids))
        return found

    def forward(self, views: Views, texts: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of the images ``[n, F]``, and the embeddings of images and texts, each ``[n, D]``."""
        h = self.encoder(rows_of(views))
        return h, (self.head(h), self.encode_text(needed_texts(texts, self.title)))

    def ids(self, batch: Batch, device: torch.device) -> Tensor | None:
        """Return what `pair_ids` does over all processes of the loss; None if nothing is to be masked."""
        if not self.options.mask:
            return None
        return pair_ids(batch, device, resolve_group(None) if self.gathers else None)


def linear(text: TextTower, head: nn.Module, title: str) -> nn.Linear:
    """Return a map from the features of texts to embeddings as wide as those of `head`."""
    return nn.Linear(text.width, projected_width(head, title), bias=False)


def needed_texts(texts: Tensor | None, title: str) -> Tensor:
    """Return the token ids; a ValueError if a batch has none."""
    if texts is None:
        raise ValueError(f"{title} needs the captions of a batch as token ids [n, L], got None")
    return texts
