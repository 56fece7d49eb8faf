"""CoCa: CLIP's contrast, and a decoder that writes the caption from what the encoder sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.methods.base import Views, rows_of
from fastclr.methods.clip import CLIP, CLIPOptions
from fastclr.methods.encoders import trial
from fastclr.methods.image_text import needed_texts
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check
from fastclr.parallel import gather_rows, resolve_group


@dataclass(frozen=True, kw_only=True)
class CoCaOptions(CLIPOptions):
    """The options of CoCa."""

    caption: float = 2.0
    """Weight of the loss of the captions; 0 leaves the contrast alone, without a decoder."""
    decoder_layers: int = 2
    """Layers of the decoder, as wide as the text tower; the paper has as many as there."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            ("caption", 0 <= self.caption < float("inf"), "a number of at least 0"),
            ("decoder_layers", 1 <= self.decoder_layers <= 256, "1 to 256"),
        ]


class CoCa(CLIP):
    """``loss = CLIP + w / T sum over the T tokens of all captions of -log p(token | tokens before it, image)``.

    The text tower is causal; p comes of a decoder that takes its states and looks at the features of the image at every
    place, or at its one feature if the encoder gives no more. Padding does not count.

    Source: Yu et al., CoCa: Contrastive Captioners are Image-Text Foundation Models, 2022. There a token of its own
    reads the text for the contrast, and learnt queries pool the image: here the end of the text does, and the encoder.
    """

    title = "CoCa"
    Options = CoCaOptions
    tune = "--coca.caption, --coca.decoder-layers, and what is CLIP's: --lr, --batch-size, --coca.text-width."
    when = "As CLIP, with captions rich enough to be worth writing; about half as many images a second."

    def extend(self) -> None:
        """Add the decoder.

        Raises:
            ValueError: the text tower is not causal, or its width no multiple of `text_heads`.
        """
        width, heads = self.text.width, self.options.text_heads
        if self.options.caption == 0:
            return
        if not self.text.causal:
            raise ValueError(f"{self.title} needs a causal text tower, such as clip, got {self.options.text!r}")
        if width % heads:
            raise ValueError(f"text_heads must be a divisor of the text tower's {width} features, got {heads}")
        shape = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, **shape)  # type: ignore[arg-type]
        features = next(module.in_features for module in self.head.modules() if isinstance(module, nn.Linear))
        self.sees_places = has_places(self.encoder, self.views.each[0].size)
        self.seen = nn.Linear(features, width)
        self.decoder = nn.TransformerDecoder(layer, self.options.decoder_layers, nn.LayerNorm(width))
        self.words = nn.Linear(width, self.text.vocabulary.size, bias=False)

    def forward(self, views: Views, texts: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features h of the images, costs and lengths of captions ``[n]``, and both embeddings ``[n, D]``."""
        images, tokens = rows_of(views), needed_texts(texts, self.title)
        if self.options.caption == 0:
            h, pair = super().forward(views, texts)
            none = torch.zeros(len(h), device=h.device)
            return h, (none, none, *pair)
        h, places = features_and_places(self.encoder, images, self.sees_places)
        states = self.text.states(tokens)
        pair = (self.head(h), self.text_head(self.text.at_end(states, tokens)))
        length = tokens.shape[1] - 1
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        written = self.words(self.decoder(states[:, :-1], self.seen(places), tgt_mask=later))
        costs = F.cross_entropy(widened(written).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        kept = self.text.kept(tokens)[:, 1:]
        return h, ((costs.view(-1, length) * kept).sum(1), kept.sum(1).to(costs.dtype), *pair)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, the mean cosine of image and caption, and the mean cost of a token."""
        costs, counts, *pair = embeddings
        loss, sums = super().loss(pair, batch, step, total)
        if self.options.caption == 0:
            return loss, sums
        group = resolve_group(None) if self.gathers else None
        every, share = (counts, 1) if group is None else (gather_rows(counts, group), distributed.get_world_size(group))
        # the mean over the processes is that over all tokens
        caption = costs.sum() * share / every.sum()
        weighted = loss + self.options.caption * caption.to(loss.dtype)
        return weighted, {**sums, "caption_loss": caption.detach()}


def has_places(encoder: nn.Module, size: int) -> bool:
    """Tell whether an encoder has timm's two halves, and the first returns the features of h at places of the image.

    Not so where layers after the pooling widen them, or where a module of one's own has the first half alone.
    """
    halves: Any = encoder
    if not (hasattr(halves, "forward_features") and hasattr(halves, "forward_head")):
        return False
    with trial(encoder, size) as images:
        found = halves.forward_features(images)
        h = halves.forward_head(found) if isinstance(found, Tensor) else None
    return isinstance(h, Tensor) and h.dim() == 2 and places_of(found, h).shape[2:] == h.shape[1:]


def features_and_places(encoder: nn.Module, images: Tensor, places: bool) -> tuple[Tensor, Tensor]:
    """Return the features of images ``[n, F]``, and those of all places in them ``[n, P, F]``; P is 1 without places.

    Args:
        encoder: from images to features.
        images: ``[n, C, S, S]``.
        places: whether it has them, see `has_places`.
    """
    if not places:
        h = encoder(images)
        return h, h[:, None]
    halves: Any = encoder
    found = halves.forward_features(images)
    h = halves.forward_head(found)
    return h, places_of(found, h)


def places_of(found: Tensor, h: Tensor) -> Tensor:
    """Return the features ``[n, F, y, x]``, ``[n, y, x, F]`` or ``[n, P, F]`` of a timm model as ``[n, P, F]``."""
    if found.dim() != 4:
        return found
    return found.flatten(2).transpose(1, 2) if found.shape[1] == h.shape[1] else found.flatten(1, 2)
