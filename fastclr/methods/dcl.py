"""DCL: SimCLR without the positive in the denominator, for small batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from fastclr.data.batch import Batch
from fastclr.losses import DCLLoss
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.options import Check, MethodOptions, temperature_check
from fastclr.methods.simclr import partner_stats

Weighting = Literal["none", "mises_fisher"]


@dataclass(frozen=True, kw_only=True)
class DCLOptions(MethodOptions):
    """The options of decoupled contrastive learning."""

    temperature: float = 0.1
    """Temperature of the loss."""
    weighting: Weighting = "none"
    """`mises_fisher`: pairs that differ more weigh more (DCLW)."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            temperature_check(self.temperature),
            ("weighting", self.weighting in get_args(Weighting), f"one of {get_args(Weighting)}"),
        ]


class DCL(OneBranch):
    """``loss_i = log sum_{j not i, p} exp(s_ij) - w_i s_ip`` with ``s_ij = <z_i, z_j> / tau``, p the other view of i.

    Source: Yeh et al., Decoupled Contrastive Learning, 2022.
    """

    title = "DCL"
    Options = DCLOptions
    cause = "Usual with DCL: a rate that is too high for its temperature."
    tune = "--dcl.temperature, --lr."
    when = "SimCLR in batches of 256 images or fewer."

    def make_criterion(self) -> nn.Module:
        """Return the loss."""
        return DCLLoss(self.options.temperature, self.gathers, weighting=self.options.weighting)

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the accuracy and entropy of picking the positive among the other views."""
        z0, z1 = embeddings
        return self.criterion(z0, z1), partner_stats(z0, z1, self.options.temperature, self.gathers)
