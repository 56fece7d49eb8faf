"""PIRL: an image and its shuffled patches are both like what a bank remembers of the image."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.data.batch import Batch
from fastclr.losses import InfoNCELoss
from fastclr.losses.nce import SMALLEST_TEMPERATURE, NCELoss
from fastclr.methods.base import Facts, Views
from fastclr.methods.encoders import feature_dim
from fastclr.methods.heads import projected_width
from fastclr.methods.image_bank import ImageBank
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check, MethodOptions, ModelOptions, momentum_check, temperature_check
from fastclr.methods.patches import cut_patches, patch_side, shuffled_patches
from fastclr.methods.pretext import OneView
from fastclr.parallel import gather_rows, resolve_group

BankLoss = Literal["nce", "info-nce"]
MOST_BYTES = 2**28  # of a bank that nobody needs to be told of


@dataclass(frozen=True, kw_only=True)
class PIRLOptions(MethodOptions):
    """The options of PIRL."""

    loss: BankLoss = "nce"
    """Noise-contrastive estimation as in the paper, or the softmax over positive and negatives."""
    temperature: float = 0.07
    """Temperature of the loss."""
    negatives: int = 4096
    """Rows of the bank drawn as negatives in each step, for all images: 32000 on ImageNet."""
    momentum: float = 0.5
    """How much of a row stays when its image is seen."""
    weight: float = 0.5
    """Weight of the shuffled patches against the whole image."""
    grid: int = 3
    """Patches per side, 2 or 3."""
    patch: float = 0.75
    """Side of a patch as a share of its cell's; it lies anywhere inside the cell."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("loss", self.loss in get_args(BankLoss), f"one of {get_args(BankLoss)}"),
            temperature_check(self.temperature, least=SMALLEST_TEMPERATURE),
            ("negatives", self.negatives >= 1, "at least 1"),
            momentum_check(self.momentum),
            ("weight", 0 <= self.weight <= 1, "a number in [0, 1]"),
            ("grid", self.grid in (2, 3), "2 or 3"),
            ("patch", 0 < self.patch <= 1, "a share up to 1"),
        ]

    def pair(self, augment: AugmentConfig) -> tuple[AugmentConfig, AugmentConfig]:
        """Return the augmentation of the image, and of what is cut into patches: a larger crop."""
        return augment, dataclasses.replace(augment, crop_scale=(0.6, 1.0))


class PIRL(OneView):
    """``loss = (1 - w) C(g(f(x)), m) + w C(g'(f(x_1), ..., f(x_C)), m)``; m: the image's row in the bank, x_c: patches.

    C tells m from K other rows: ``NCELoss``, or the cross-entropy of a softmax. The patches come in random order; each
    goes through a linear layer, and all together through another. Rows follow g(f(x)) of their image when it is seen.

    Source: Misra and van der Maaten, Self-Supervised Learning of Pretext-Invariant Representations, 2020;
    facebookresearch/vissl.
    """

    bank: ImageBank
    title = "PIRL"
    Options = PIRLOptions
    # vissl: linear heads to 128, SGD 0.03 B/256, decay 1e-4
    recipe: ClassVar[dict[str, Any]] = {
        "head": "linear",
        "head_layers": 1,
        "head_hidden": None,
        "head_dim": 128,
        "head_bn": False,
        "bn_per_view": False,
        "optimizer": "sgd",
        "lr": 0.03,
        "lr_scaling": "linear",
        "weight_decay": 1e-4,
    }
    cause = "Usual with PIRL: a rate that is too high, or epochs too few for the bank to follow."
    tune = "--pirl.negatives, --pirl.temperature, --pirl.loss info-nce, --pirl.grid 2 for small images, --lr."
    when = "To see what invariance to a pretext task gives; it remembers every image, so not for millions of them."

    @classmethod
    def check(cls, config: ModelOptions, facts: Facts) -> None:
        """Warn of a bank that takes much memory."""
        size = 4 * facts.images * config.head_dim
        if size > MOST_BYTES:
            warnings.warn(
                f"PIRL remembers every image: {facts.images} rows of {config.head_dim} values take {size / 1e9:.1f} GB "
                "in each process and in every checkpoint; MoCo has a queue of fixed size",
                UserWarning,
                stacklevel=2,
            )

    def extend(self) -> None:
        """Add bank and patch heads; a ValueError without a head, or if the patches do not suit the encoder."""
        dim, cells = projected_width(self.head, self.title), self.options.grid**2
        self.side = patch_side(self.size, self.options.grid, self.options.patch, self.encoder, self.title)
        self.patch_head = nn.Linear(feature_dim(self.encoder, self.size), dim)
        self.joint_head = nn.Linear(cells * dim, dim)
        self.bank = ImageBank(self.facts.image_ids(), dim)

    def make_criterion(self) -> nn.Module:
        """Return the loss; the bank is the same on every process, so nothing is gathered."""
        if self.options.loss == "info-nce":
            return InfoNCELoss(self.options.temperature)
        return NCELoss(self.options.temperature, projected_width(self.head, self.title))

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of the image ``[n, F]``, and the embeddings of patches and image, ``[n, D]`` each."""
        h = self.encoder(views[0])
        patches = shuffled_patches(cut_patches(views[1], self.options.grid, self.side))
        each = self.patch_head(self.encoder(patches.flatten(0, 1)))
        return h, (self.joint_head(each.unflatten(0, patches.shape[:2]).flatten(1)), self.head(h))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its two terms before their weights."""
        patches, image = (widened(z) for z in embeddings)
        slots, rows = self.bank.slots(batch.ids), self.bank.rows.to(image.dtype)
        # of the step alone: the same on every process
        drawn = torch.randint(len(rows), (self.options.negatives,), generator=torch.Generator().manual_seed(step))
        own, others = rows[slots], rows[drawn.to(rows.device)]
        whole, parts = self.criterion(image, own, others), self.criterion(patches, own, others)
        self.fresh = image.detach(), slots
        loss = torch.lerp(whole, parts, self.options.weight)
        return loss, {"image_loss": whole.detach(), "patch_loss": parts.detach()}

    def after_step(self, step: int, total: int) -> None:
        """Move the rows of the images of all processes."""
        group = resolve_group(None) if self.gathers else None
        image, slots = self.fresh if group is None else (gather_rows(each, group) for each in self.fresh)
        self.bank.move(slots, image, self.options.momentum)
