"""Supervised contrastive loss: every row of the same label is a positive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastclr.losses.class_sums import class_sizes, class_sums, number_classes
from fastclr.losses.inputs import check_option
from fastclr.losses.options import RowOptions
from fastclr.losses.row_inputs import check_ids
from fastclr.losses.row_loss import Comparison, RowLoss
from fastclr.losses.tiles import vector_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SupConLoss(RowLoss):
    """``L_out,i = log sum_{a != i} exp(s_ia) - mean_{p in P(i)} s_ip``, the mean over the rows that have a positive.

    With ``form="in"`` it is ``L_in,i = log sum_{a != i} exp(s_ia) - log mean_{p in P(i)} exp(s_ip) <= L_out,i``.
    ``s_ij = <z_i, z_j> / tau``, P(i) the other rows with the label of row i. O(M D) memory: the positives of L_out are
    sums of classes, outside the tiles. Without any positive it is 0, with gradient 0.

    Source: Khosla et al., Supervised Contrastive Learning, 2020, equations 2 and 3. The paper's code multiplies by
    tau / 0.07 and counts rows without a positive in the mean: :mod:`fastclr.compat.supcontrast` does.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        *,
        form: Literal["out", "in"] = "out",
        **options: Unpack[RowOptions],
    ) -> None:
        """Check and store the options.

        Args:
            form: "out" or "in".
            temperature, gather_distributed: as in :class:`fastclr.losses.row_loss.RowLoss`.
            **options: its other options.

        Raises:
            TypeError, ValueError: as there, or the form is unknown.
        """
        super().__init__(temperature, gather_distributed, **options)
        check_option("form", form, ("out", "in"))
        self.form = form

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss of a batch with labels.

        Args:
            features: ``[N, V, D]`` with V views of every image, or ``[M, D]``: float32, float64, float16 or bfloat16,
                any strides, any device.
            labels: ``[N]`` or ``[M]`` integers. -1 is a label that equals no other: only an image's own views are its
                positives then, and a row of ``[M, D]`` has none. None for -1 everywhere, which needs ``[N, V, D]``.

        Returns:
            0-dim; for reduction "none" ``[N, V]`` or ``[M]``, 0 for rows without a positive. float64 for float64
            inputs and float32 otherwise.

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`; the labels have another length or
                are not integers.
        """
        check_features(features, labels, self.group())
        views = features.shape[1] if features.dim() == 3 else 1
        rows = features.flatten(0, 1) if features.dim() == 3 else features
        comparison = self.compare({"features": rows})
        if labels is None:
            labels = torch.full((len(features),), -1, device=features.device)
        with torch.autocast(features.device.type, enabled=False):
            # rows are numbered image by image, so views follow each other
            classes = number_classes(comparison.every(labels.long())).repeat_interleave(views)
            loss, has_positive = sup_con_rows(comparison, comparison.rows(rows), classes, self.form)
            reduced = comparison.reduce(loss, has_positive)
        return reduced.view(features.shape[:-1]) if self.reduction == "none" else reduced


def check_features(features: Tensor, labels: Tensor | None, group: ProcessGroup | None) -> None:
    """Raise unless features are ``[N, V, D]`` or ``[M, D]`` and the labels fit them; N may be 0 with a group."""
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a tensor, got {type(features).__name__}")
    if features.dim() not in (2, 3) or 0 in features.shape[group is not None :]:
        raise ValueError(f"features must be [N, V, D] or [M, D] without an empty side, got {list(features.shape)}")
    if labels is not None:
        check_ids("labels", labels, features, features.shape[0])
    elif features.dim() == 2:
        raise ValueError("features [M, D] need labels; without labels, pass the views of every image as [N, V, D]")


def sup_con_rows(comparison: Comparison, z: Tensor, classes: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """The loss of every row of all ranks, 0 without a positive, and 1.0 for those that have one.

    Args:
        comparison: what compares the rows.
        z: ``[m, D]``, rows of this rank.
        classes: ``[M]``, numbers below M, of the rows of all ranks.
        form: "out" or "in".
    """
    wide = vector_dtype(z.device)
    count = class_sizes(classes).to(wide)
    positives = count[classes] - 1.0
    has_positive = (positives > 0).to(wide)
    positives = positives.clamp_min(1.0)
    everything = comparison.lse(z, exclude="self")
    if form == "in":
        own = comparison.own(classes, z.shape[0])
        same = comparison.lse(z, exclude="other", ids=(own, None))
        loss = everything - same + positives.log()
    else:
        every = comparison.every(z).to(wide)
        sums = class_sums(every, classes, comparison.options.deterministic)
        mean = torch.linalg.vecdot(every, sums[classes] - every) / positives
        loss = everything - mean * comparison.replicated_scale()
    # a row alone in its world has lse -inf; where, since 0 * inf would be NaN
    return torch.where(has_positive > 0, loss, 0.0), has_positive
