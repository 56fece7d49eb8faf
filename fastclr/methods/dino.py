"""DINO: a student tells from small parts of an image what its momentum twin makes of the whole; no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.methods.base import Facts, Views
from fastclr.methods.heads import projected_width
from fastclr.methods.multi_crop import GLOBAL, MultiCropOptions
from fastclr.methods.one_branch import OneBranch, widened
from fastclr.methods.options import Check, ModelOptions, momentum_check, temperature_check
from fastclr.methods.prototypes import Centre, Prototypes
from fastclr.methods.twin import MomentumTwin, ramped_momentum
from fastclr.parallel import resolve_group


@dataclass(frozen=True, kw_only=True)
class DINOOptions(MultiCropOptions):
    """The options of DINO."""

    prototypes: int = 4096
    """Classes that the network makes up, the last layer's outputs; 65536 for ImageNet."""
    temperature: float = 0.04
    """Temperature of the targets, after its warm-up; at most 0.07."""
    warmup_temperature: float = 0.04
    """Temperature of the targets at the start."""
    temperature_epochs: int = 0
    """Epochs over which the temperature of the targets goes from the one to the other, epoch by epoch."""
    student_temperature: float = 0.1
    """Temperature of the predictions."""
    momentum: float = 0.996
    """Momentum of the twin at the start; it rises to 1 along a cosine. 0.9995 for batches of 256."""
    centre_momentum: float = 0.9
    """Momentum of the centre that is subtracted from the targets' logits."""
    frozen_epochs: int = 1
    """Epochs at the start in which the prototypes stay as they are."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            *super().checks(),
            temperature_check(self.temperature),
            momentum_check(self.momentum),
            ("prototypes", self.prototypes >= 2, "at least 2"),
            ("temperature_epochs", self.temperature_epochs >= 0, "at least 0"),
            *(temperature_check(getattr(self, n), n) for n in ("warmup_temperature", "student_temperature")),
            ("centre_momentum", 0 <= self.centre_momentum <= 1, "a number in [0, 1]"),
            ("frozen_epochs", self.frozen_epochs >= 0, "at least 0"),
        ]


class DINO(OneBranch):
    """``loss = mean over pairs (i, v), i < 2, v != i of mean_n -sum_k p_ik log q_vk`` of every image n.

    ``p_i = softmax((t_i - c) / tau_t)`` of the logits that the momentum twin has of the large view i, c their centre;
    ``q_v = softmax(s_v / tau_s)`` of the student's logits of any view v. The centre keeps one prototype from taking
    all images, the low temperature keeps the targets from being uniform.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021; facebookresearch/dino.
    """

    twin: MomentumTwin
    title = "DINO"
    Options = DINOOptions
    # lightly's benchmark on CIFAR-10: head of 2048 and 256 with batch norm and GELU, SGD 0.06 B/128, decay 5e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_layers": 2,
        "head_hidden": 2048,
        "head_dim": 256,
        "head_bn": True,
        "head_last_bn": "bias",
        "head_activation": "gelu",
        "bn_per_view": False,
        "optimizer": "sgd",
        "lr": 0.12,
        "lr_scaling": "linear",
        "weight_decay": 5e-4,
    }
    evaluated = "the encoder that was trained, not its momentum twin, which the authors take"
    cause = (
        "Usual with DINO: targets that are too soft or too sharp (--dino.temperature), or a twin that moves too fast."
    )
    tune = "--dino.momentum (higher for small batches), --dino.temperature, --dino.local-views, --lr."
    when = "ViTs, and large images: small views are cheap; it needs many epochs and watching, see target_entropy."
    epoch_steps: int = 1

    @classmethod
    def build(cls, config: ModelOptions, facts: Facts) -> OneBranch:
        """Build the method, which counts some of its options in epochs."""
        made = super().build(config, facts)
        if isinstance(made, cls):
            made.epoch_steps = max(1, facts.images // facts.batch_size)
        return made

    def extend(self) -> None:
        """Add prototypes, twin and centre; a ValueError without a projection head."""
        self.prototypes = Prototypes(projected_width(self.head, self.title), self.options.prototypes)
        self.twin = MomentumTwin(self.encoder, self.head, self.prototypes)
        self.centre = Centre(self.options.prototypes)

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of all views ``[V n, F]``, the student's logits of each and the twin's of the large."""
        h, projections = self.project(views)
        return h, (*self.each(self.prototypes, projections), *self.each(self.twin, views[:GLOBAL]))

    def temperature(self, step: int) -> float:
        """Return the temperature of the targets in a step."""
        chosen, epoch = self.options, step // self.epoch_steps
        if epoch >= chosen.temperature_epochs:
            return float(chosen.temperature)
        share = epoch / max(1, chosen.temperature_epochs - 1)
        return float(chosen.warmup_temperature + share * (chosen.temperature - chosen.warmup_temperature))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean entropy of the targets: 0 or log K where they have collapsed."""
        logits = [widened(each) for each in embeddings]
        students, targets = logits[:-GLOBAL], torch.stack(logits[-GLOBAL:]).detach()
        log_q = torch.stack([F.log_softmax(s / self.options.student_temperature, dim=1) for s in students])
        p = F.softmax((targets - self.centre.value) / self.temperature(step), dim=2)
        # of all views but the target's own
        others = log_q.sum(dim=0) - log_q[:GLOBAL]
        self.fresh = targets.mean(dim=(0, 1))
        entropy = torch.special.entr(p).sum(dim=2).mean()
        return -(p * others).sum(dim=2).mean() / (len(students) - 1), {"target_entropy": entropy}

    def before_step(self, step: int, total: int) -> None:
        """Keep the prototypes as they are in the first epochs; weight decay changes their length alone."""
        gradient = self.prototypes.weight.grad
        if gradient is not None and step < self.options.frozen_epochs * self.epoch_steps:
            gradient.zero_()

    def after_step(self, step: int, total: int) -> None:
        """Move the twin, and the centre towards the mean of this step's targets over all processes."""
        momentum = ramped_momentum(self.options.momentum, step, total)
        self.twin.follow(self.encoder, self.head, self.prototypes, momentum=momentum)
        if self.gathers:
            group = resolve_group(None)
            distributed.all_reduce(self.fresh, group=group)
            self.fresh /= distributed.get_world_size(group)
        self.centre.value.lerp_(self.fresh.to(self.centre.value), 1.0 - self.options.centre_momentum)
