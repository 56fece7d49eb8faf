"""SimCLR: the two views of an image are each other's positives, and all other images in the batch are negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastclr.data.batch import Batch
from fastclr.losses import NTXentLoss, nt_xent
from fastclr.losses.scalars import SMALLEST
from fastclr.methods.base import Facts, Method, ViewPlan, Views, rows_of
from fastclr.methods.model import build_model
from fastclr.methods.options import Check, MethodOptions, ModelOptions
from fastclr.parallel import resolve_group


@dataclass(frozen=True, kw_only=True)
class SimCLROptions(MethodOptions):
    """The options of SimCLR."""

    temperature: float = 0.5
    """Temperature of NT-Xent."""
    learnable_temperature: bool = False
    """Train the temperature as well."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        good = SMALLEST <= abs(self.temperature) < float("inf")
        return [("temperature", good, "a finite number other than 0")]


class SimCLR(Method):
    """NT-Xent between z = g(f(x)) of two random views of each image, over the global batch.

    ``loss_i = log sum_{j != i} exp(s_ij) - s_ip`` with ``s_ij = <z_i, z_j> / tau``, z of unit length, p the other view.

    Args:
        encoder: f, from images ``[n, 3, S, S]`` to features ``[n, F]``.
        head: g, from features to projections ``[n, D]``.
        views: what the augmenter makes.
        options: temperature of the loss.
        per_view: run the views through the networks separately, so that batch norm sees one view at a time.
        gathers: whether several processes contrast their rows with one another.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """

    title = "SimCLR"
    Options = SimCLROptions
    criterion: NTXentLoss

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        views: ViewPlan,
        options: SimCLROptions,
        *,
        per_view: bool = False,
        gathers: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.criterion = NTXentLoss(options.temperature, learnable_temperature=options.learnable_temperature)
        self.views, self.per_view, self.gathers = views, per_view, gathers

    @classmethod
    def build(cls, config: ModelOptions, facts: Facts) -> SimCLR:
        """Build the method, initialised from torch's global generator."""
        model, options = build_model(config), config.options
        if not isinstance(options, SimCLROptions):
            raise TypeError(f"options must be SimCLROptions, got {type(options).__name__}")
        views = ViewPlan(config.augment, 2)
        gathers = facts.world_size > 1
        return cls(model.encoder, model.head, views, options, per_view=config.bn_per_view, gathers=gathers)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of both views ``[2n, F]`` and the projections z0 and z1, ``[n, D]`` each."""
        if self.per_view:
            features, projections = [], []
            for view in views:
                features.append(self.encoder(view))
                projections.append(self.head(features[-1]))
            return torch.cat(features), tuple(projections)
        h = self.encoder(rows_of(views))  # both views in one pass: batch norm sees them together
        return h, tuple(self.head(h).chunk(len(views)))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent, and the accuracy and entropy of picking the positive among the other views."""
        z0, z1 = embeddings
        group = resolve_group(None) if self.gathers else None
        loss, stats = nt_xent(z0, z1, self.criterion.temperature, return_stats=True, group=group)
        return loss, {"contrastive_accuracy": stats.accuracy.mean(), "contrastive_entropy": stats.entropy.mean()}

    def scalars(self) -> dict[str, float]:
        """Return the temperature."""
        return {"temperature": float(torch.as_tensor(self.criterion.temperature).detach())}
