"""MoCo v1 and v2: keys of a momentum twin, and the keys of the last batches as negatives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import InfoNCELoss
from fastclr.methods.base import Facts, Views
from fastclr.methods.encoders import batch_norms
from fastclr.methods.heads import projected_width
from fastclr.methods.key_ring import KeyRing, check_divides
from fastclr.methods.one_branch import OneBranch, widened
from fastclr.methods.options import Check, MethodOptions, ModelOptions, momentum_check, temperature_check
from fastclr.methods.shuffle_bn import check_parts, in_parts, shuffled
from fastclr.methods.twin import MomentumTwin
from fastclr.parallel import gather_rows, resolve_group


@dataclass(frozen=True, kw_only=True)
class MoCoOptions(MethodOptions):
    """The options of MoCo."""

    temperature: float = 0.1
    """Temperature of the loss; the paper of v2 has 0.2 on ImageNet."""
    momentum: float = 0.99
    """Momentum of the twin: 0.999 on ImageNet."""
    queue: int = 4096
    """Keys kept as negatives, a multiple of those of a step: 65536 on ImageNet."""
    symmetric: bool = False
    """Let both views be queries, with the same queue: twice the keys and the work of a step. The loss is the mean of
    both, where the authors' notebook has the sum, at half the rate and twice the decay."""
    bn_splits: int = 1
    """Parts of a process's images that batch norm sees separately: one device normalises like so many."""
    shuffle: bool = True
    """Let batch norm see the keys in another order: among the parts, and among processes without sync_bn."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            temperature_check(self.temperature),
            momentum_check(self.momentum),
            ("queue", self.queue >= 1, "at least 1"),
            ("bn_splits", self.bn_splits >= 1, "at least 1"),
        ]


class MoCo(OneBranch):
    """``loss_i = log(exp(s_ik) + sum_{b in queue} exp(s_ib)) - s_ik``, ``s = <q, .> / tau`` of unit vectors.

    q = g(f(x)) of the first view, k of the twin for the second, b the keys of earlier batches; symmetric: the mean of
    both directions.

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020; Chen et al., Improved
    Baselines with Momentum Contrastive Learning, 2020; facebookresearch/moco, for CIFAR-10 its notebook.
    """

    twin: MomentumTwin
    ring: KeyRing
    title = "MoCo v2"
    Options = MoCoOptions
    flags = "moco"
    # the authors' notebook for CIFAR-10: SGD 0.06 at 512 images, decay 5e-4 of everything
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_layers": 2,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "bn_per_view": False,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    evaluated = "the encoder that was trained, not its momentum twin"
    cause = "Usual with MoCo: a twin that moves too fast (raise --moco.momentum), or a rate that is too high."
    tune = "--moco.temperature, --moco.momentum (0.99 for small sets), --moco.queue, --moco.bn-splits, --lr."
    when = "Many negatives in little memory; the loss rises first, while the queue fills with real keys."

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Raise a ValueError if the batch does not divide the queue."""
        options: Any = config.options
        check_divides("queue", options.queue, facts.batch_size * (2 if options.symmetric else 1))
        share = facts.batch_size // facts.world_size
        check_parts(options.bn_splits, share, getattr(config, "micro_batch", None))

    def extend(self) -> None:
        """Add the twin and the ring of keys; warn where batch norm can leak; a ValueError without a projection head."""
        self.twin = MomentumTwin(self.encoder, self.head)
        self.ring = KeyRing(self.options.queue, projected_width(self.head, self.title))
        apart = self.facts.world_size > 1 and not self.synced
        parted = self.options.shuffle and (apart or self.options.bn_splits > 1)
        if not parted and (batch_norms(self.encoder) or batch_norms(self.head)):
            text = (
                "batch norm can leak which key belongs to a query: in one process, or synchronised, both are beside "
                "the same images. Keep --moco.shuffle, and set --moco.bn-splits 8 or train in several with --no-sync-bn"
            )
            warnings.warn(text, UserWarning, stacklevel=2)

    def make_criterion(self) -> nn.Module:
        """Return the loss; the queue is the same on every process, so nothing is gathered."""
        return InfoNCELoss(self.options.temperature)

    def query(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and queries of one view."""
        h = in_parts(self.encoder, images, self.options.bn_splits)
        return h, in_parts(self.head, h, self.options.bn_splits)

    def key(self, images: Tensor) -> Tensor:
        """Return the keys of one view, in the order of the images."""
        exchanges = self.gathers and not self.synced
        if self.options.shuffle and (exchanges or self.options.bn_splits > 1):
            group = resolve_group(None) if exchanges else None
            return shuffled(self.twin, images, self.options.bn_splits, group)
        return in_parts(self.twin, images, self.options.bn_splits)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of the first view (symmetric: of both), and query and key of every direction."""
        h, q = self.query(views[0])
        if not self.options.symmetric:
            return h, (q, self.key(views[1]))
        other, back = self.query(views[1])
        return torch.cat([h, other]), (q, self.key(views[1]), back, self.key(views[0]))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine between query and key."""
        wide = [widened(each) for each in embeddings]
        pairs = list(zip(wide[::2], wide[1::2], strict=True))
        losses = [self.criterion(q, k, self.ring.keys) for q, k in pairs]
        self.fresh = [k for _, k in pairs]
        cosines = [F.cosine_similarity(q.detach(), k).mean() for q, k in pairs]
        return torch.stack(losses).mean(), {"positive_cosine": torch.stack(cosines).mean()}

    def after_step(self, step: int, total: int) -> None:
        """Move the twin, and push the keys of all processes."""
        self.twin.follow(self.encoder, self.head, momentum=self.options.momentum)
        group = resolve_group(None) if self.gathers else None
        keys = self.fresh if group is None else [gather_rows(k, group) for k in self.fresh]
        self.ring.push(torch.cat(keys), step)
