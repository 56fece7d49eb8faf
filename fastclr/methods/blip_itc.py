"""BLIP's image-text contrast: keys and soft targets of momentum twins, and queues of the keys of earlier batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import BLIPLoss
from fastclr.methods.base import Facts, Views, rows_of
from fastclr.methods.clip import TWO_TOWERS
from fastclr.methods.heads import projected_width
from fastclr.methods.image_text import ImageText, needed_texts
from fastclr.methods.key_ring import IdRing, KeyRing, check_divides
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check, ModelOptions, momentum_check
from fastclr.methods.pair_ids import id_columns, joined
from fastclr.methods.text import TextOptions
from fastclr.methods.twin import MomentumTwin
from fastclr.parallel import gather_rows, resolve_group

LEAST, MOST = 0.001, 0.5  # temperatures


@dataclass(frozen=True, kw_only=True)
class BLIPOptions(TextOptions):
    """The options of BLIP's image-text contrast."""

    momentum: float = 0.995
    """Momentum of the twins; 0.9 to 0.99 suits runs of few steps."""
    queue: int = 4096
    """Keys kept of images and of texts, a multiple of the batch size; the paper has 57600."""
    alpha: float = 0.4
    """Weight of the soft targets."""
    ramp: float = 0.1
    """Share of the steps over which that weight rises from 0: 2 of the paper's 20 epochs."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            ("temperature", LEAST <= self.temperature <= MOST, f"from {LEAST} to {MOST}"),
            momentum_check(self.momentum),
            ("queue", self.queue >= 1, "at least 1"),
            ("alpha", 0 <= self.alpha <= 1, "a number in [0, 1]"),
            ("ramp", 0 <= self.ramp <= 1, "a number in [0, 1]"),
        ]


class BLIPITC(ImageText):
    """``loss_i = log sum_j exp(s_ij) - sum_j y_ij s_ij``, the mean of image to text and text to image.

    ``s_ij = <q_i, k_j> / tau`` with the keys k: what the twin makes of the other modality, of all processes, then the
    queue. ``y_i = alpha softmax_j(<m_i, k_j> / tau) + (1 - alpha) h_i``: m_i the twin's embedding of row i, h_i one at
    its own key, or equal shares of the keys with its caption or picture. tau is learnt itself, from 0.001 to 0.5.

    Source: Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022, without its matching and captioning.
    """

    image_twin: MomentumTwin
    text_twin: MomentumTwin
    title = "BLIP's contrast"
    Options = BLIPOptions
    flags = "blip"
    recipe: ClassVar[dict[str, Any]] = TWO_TOWERS
    cause = "Usual with BLIP: twins that move too fast (raise --blip.momentum), or a rate that is too high."
    tune = "--blip.momentum, --blip.queue, --blip.alpha (0 for clean captions), --lr."
    when = "Captions from the web, which describe their images badly: soft targets, and negatives in little memory."

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Raise a ValueError if the batch does not divide the queue."""
        check_divides("queue", config.options.queue, facts.batch_size)  # type: ignore[attr-defined]

    def make_criterion(self) -> nn.Module:
        """Return the loss, with its temperature."""
        tau = nn.Parameter(torch.tensor(self.options.temperature), requires_grad=self.options.learnable_temperature)
        criterion = BLIPLoss(tau, self.gathers)
        criterion.register_parameter("tau", tau)
        return criterion

    @torch.no_grad()
    def take_scale(self, scale: float | None, bias: float | None) -> None:
        """Start from the factor that comes with starting weights."""
        temperature: Any = self.criterion.tau
        if scale is not None:
            temperature.fill_(min(max(1.0 / scale, LEAST), MOST))

    def extend(self) -> None:
        """Add the twins and the queues."""
        self.image_twin, self.text_twin = (MomentumTwin(*side) for side in self.sides)
        size, width = self.options.queue, projected_width(self.head, self.title)
        self.image_ring, self.text_ring, self.id_ring = KeyRing(size, width), KeyRing(size, width), IdRing(size)

    @property
    def sides(self) -> tuple[tuple[nn.Module, nn.Module], tuple[nn.Module, nn.Module]]:
        """The networks that the twins of images and of texts follow."""
        return (self.encoder, self.head), (self.text, self.text_head)

    def forward(self, views: Views, texts: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features h of the images, embeddings of images and texts, and those of the twins, each ``[n, D]``."""
        images, tokens = rows_of(views), needed_texts(texts, self.title)
        h = self.encoder(images)
        own = (self.head(h), self.encode_text(tokens))
        return h, (*own, self.image_twin(images), self.text_twin(tokens))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine of image and caption."""
        z, t, image_keys, text_keys = (widened(each) for each in embeddings)
        columns, group = id_columns(batch, z.device), resolve_group(None) if self.gathers else None
        self.fresh = [each if group is None else gather_rows(each, group) for each in (image_keys, text_keys)]
        self.fresh_ids = columns if columns is None or group is None else gather_rows(columns, group)
        ids: dict[str, Tensor] = {}
        if self.options.mask and columns is not None and self.fresh_ids is not None:
            every = joined(torch.cat([self.fresh_ids, self.id_ring.ids[:, : columns.shape[1]]]))
            count = len(self.fresh_ids)
            start = 0 if group is None else torch.distributed.get_rank(group) * len(z)
            ids = {"ids": every[start : start + len(z)], "queue_ids": every[count:]}
        queues = [ring.keys.to(z.dtype) for ring in (self.image_ring, self.text_ring)]
        loss = self.criterion(z, t, image_keys, text_keys, *queues, alpha=self.alpha(step, total), **ids)
        return loss, {"positive_cosine": F.cosine_similarity(z.detach(), t.detach()).mean()}

    def alpha(self, step: int, total: int) -> float:
        """Return the weight of the soft targets in a step."""
        steps = self.options.ramp * total
        share = 1.0 if steps == 0 else min(1.0, step / steps)
        return float(self.options.alpha * share)

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Move the twins, push the keys of all processes, and keep the temperature in its bounds."""
        for twin, side in zip((self.image_twin, self.text_twin), self.sides, strict=True):
            twin.follow(*side, momentum=self.options.momentum)
        for ring, keys in zip((self.image_ring, self.text_ring), self.fresh, strict=True):
            ring.push(keys, step)
        if self.fresh_ids is not None:
            self.id_ring.push(self.fresh_ids, step)
        self.criterion.tau.clamp_(LEAST, MOST)  # type: ignore[operator]

    def scalars(self) -> dict[str, float]:
        """Return the temperature."""
        temperature: Any = self.criterion.tau
        return {"temperature": float(temperature.detach())}
