"""LeJEPA: views that agree, and embeddings that are distributed like a standard Gaussian; nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, distributed

from fastclr.data.batch import Batch
from fastclr.methods.one_branch import OneBranch, widened
from fastclr.methods.options import Check, MethodOptions
from fastclr.parallel import resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class LeJEPAOptions(MethodOptions):
    """The options of LeJEPA."""

    views: int = 2
    """Random views of an image; the authors take 4 and more."""
    weight: float = 0.02
    """Weight of the distribution against the agreement of the views."""
    slices: int = 256
    """Random directions along which the distribution is compared, others in each step."""
    knots: int = 17
    """Points of its characteristic function from 0 to 3 that are compared."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("views", 2 <= self.views <= 64, "2 to 64"),
            ("weight", 0 < self.weight < 1, "a number between 0 and 1"),
            ("slices", self.slices >= 1, "at least 1"),
            ("knots", self.knots >= 2, "at least 2"),
        ]

    @property
    def view_count(self) -> int:
        """Number of views of an image."""
        return self.views


class LeJEPA(OneBranch):
    """``loss = (1 - w) mean_v |z_v - mean_v z|^2 / D + w SIGReg(z)``, z not normalised.

    SIGReg compares the N images' ``<z, a>`` along random unit directions a with a standard Gaussian (Epps and Pulley):
    ``N int exp(-t^2 / 2) |mean_n exp(i t <z_n, a>) - exp(-t^2 / 2)|^2 dt`` over t from -3 to 3, the mean over
    directions and views. N counts the images of all processes.

    Source: Balestriero and LeCun, LeJEPA, 2025; rbalestr-lab/lejepa, MINIMAL.md.
    """

    title = "LeJEPA"
    Options = LeJEPAOptions
    # the authors' minimal example: 3 layers of 2048 to 16 values, AdamW 2e-3 at 256 images, decay 0.05
    recipe: ClassVar[dict[str, Any]] = {
        "head": "mlp",
        "head_layers": 3,
        "head_hidden": 2048,
        "head_dim": 16,
        "head_bn": True,
        "head_last_bn": "bias",
        "bn_per_view": False,
        "optimizer": "adamw",
        "lr": 2e-3,
        "lr_scaling": "none",
        "weight_decay": 0.05,
    }
    cause = "Unusual with LeJEPA, whose second term forbids it: raise --lejepa.weight or lower the rate."
    tune = "--lejepa.weight, --lr, --lejepa.views."
    when = "No twin, no queue, no predictor, one weight to tune; small batches and any encoder; new, so less is known."

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its two terms before their weights."""
        z = torch.stack([widened(each) for each in embeddings])
        agreement = (z - z.mean(dim=0)).square().mean()
        chosen = self.options
        group = resolve_group(None) if self.gathers else None
        # of the step alone: the same on every process
        generator = torch.Generator().manual_seed(step)
        directions = torch.randn(z.shape[-1], chosen.slices, generator=generator, dtype=torch.float64).to(z)
        spread = sig_reg(z, directions / directions.norm(dim=0), chosen.knots, group)
        loss = (1.0 - chosen.weight) * agreement + chosen.weight * spread
        return loss, {"agreement": agreement.detach(), "gaussianity": spread.detach()}


def sig_reg(z: Tensor, directions: Tensor, knots: int, group: ProcessGroup | None = None) -> Tensor:
    """Return SIGReg of embeddings: the distance of their distribution from a standard Gaussian, 0-dim.

    Args:
        z: ``[V, n, D]``, of this process.
        directions: ``[D, K]``, unit columns, the same on every process.
        knots: points of the trapezoidal rule from 0 to 3; the other half is its mirror image.
        group: the embeddings of these processes are one distribution; each has the same number. The value is that of
            all, the gradient that times their number, which DistributedDataParallel divides by.
    """
    t = torch.linspace(0.0, 3.0, knots, dtype=z.dtype, device=z.device)
    gaussian = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 6.0 / (knots - 1))  # twice the distance of the knots: for both halves
    weights[0] = weights[-1] = 3.0 / (knots - 1)
    angles = (z @ directions)[..., None] * t
    real, imaginary = angles.cos().mean(dim=1), angles.sin().mean(dim=1)
    count = z.shape[1]
    if group is not None:
        size = distributed.get_world_size(group)
        own = torch.stack([real, imaginary])
        mean = own.detach().clone()
        distributed.all_reduce(mean, group=group)
        # the gradient of the mean times the number of processes: nothing is communicated in the backward
        real, imaginary = (mean / size + (own - own.detach())).unbind()
        count *= size
    distance = (real - gaussian).square() + imaginary.square()
    statistic: Tensor = (distance * gaussian * weights).sum(dim=-1).mean() * count
    return statistic
