"""What methods with an encoder and a projection head share: the forward of all views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.methods.base import Facts, Method, ViewPlan, Views, by_size, rows_of
from fastclr.methods.model import build_model
from fastclr.methods.options import ModelOptions


class OneBranch(Method):
    """An encoder f and a projection head g, applied to every view: z = g(f(x)).

    Args:
        encoder: f, from images ``[n, 3, S, S]`` to features ``[n, F]``.
        head: g, from features to projections ``[n, D]``.
        views: what the augmenter makes.
        options: the method's own.
        per_view: run the views through the networks separately, so that batch norm sees one view at a time.
        gathers: whether several processes share the loss.
        synced: whether they share the statistics of batch norm.
        facts: the run; needed by methods that remember its images.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        views: ViewPlan,
        options: Any,
        *,
        per_view: bool = False,
        gathers: bool = False,
        synced: bool = True,
        facts: Facts | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.options, self.views, self.per_view = options, views, per_view
        self.gathers, self.synced = gathers, synced
        self.facts = facts or Facts(images=0, labelled=0, classes=0, world_size=1)
        self.criterion = self.make_criterion()
        self.extend()

    @classmethod
    def build(cls, config: ModelOptions, facts: Facts) -> OneBranch:
        """Build the method, initialised from torch's global generator.

        Raises:
            TypeError: the options belong to another method.
            ValueError: the configuration does not fit the method or the data.
        """
        if not isinstance(config.options, cls.Options):
            raise TypeError(f"options must be {cls.Options.__name__}, got {type(config.options).__name__}")
        cls.check(config, facts)
        model, plan = build_model(config), cls.plan(config)
        return cls(
            model.encoder,
            model.head,
            plan,
            config.options,
            per_view=config.bn_per_view,
            gathers=facts.world_size > 1,
            synced=config.sync_bn,
            facts=facts,
        )

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Raise a ValueError if the configuration does not fit the method or the data; warn of what rarely works."""
        return

    def make_criterion(self) -> nn.Module:
        """Return the loss, if it is a module; it may have parameters."""
        return nn.Identity()

    def extend(self) -> None:
        """Add what the method has beside encoder and head, such as a predictor; nothing by default."""
        return

    def project(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of all views ``[V n, F]`` and the projections of each, ``[n, D]``."""
        if self.per_view:
            features, projections = [], []
            for view in views:
                features.append(self.encoder(view))
                projections.append(self.head(features[-1]))
            return torch.cat(features), tuple(projections)
        # all views of one size in one pass: batch norm sees them together
        passes = [self.encoder(rows_of(run)) for run in by_size(views)]
        h = passes[0] if len(passes) == 1 else torch.cat(passes)
        return h, tuple(self.head(h).chunk(len(views)))

    def each(self, network: nn.Module, inputs: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
        """Return what a network makes of each view, in one pass unless batch norm is to see them separately."""
        if self.per_view:
            return tuple(network(view) for view in inputs)
        return tuple(network(rows_of(inputs)).chunk(len(inputs)))

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of all views ``[V n, F]`` and the projections of each, ``[n, D]``."""
        return self.project(views)


def widened(x: Tensor) -> Tensor:
    """Return half-precision embeddings in float32; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
