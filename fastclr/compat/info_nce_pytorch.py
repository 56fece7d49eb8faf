"""InfoNCE with the call conventions of info-nce-pytorch (RElbers/info-nce-pytorch)."""

from __future__ import annotations

from torch import Tensor, nn

from fastclr.losses import InfoNCELoss
from fastclr.losses.inputs import Reduction


class InfoNCE(nn.Module):
    """``info_nce.InfoNCE``: rows are normalised; the same values in O((N + M) D) memory."""

    def __init__(
        self, temperature: float = 0.1, reduction: Reduction = "mean", negative_mode: str = "unpaired"
    ) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau.
            reduction: "mean", "sum" or "none".
            negative_mode: "unpaired" for negatives ``[M, D]``, "paired" for ``[N, M, D]``.

        Raises:
            TypeError, ValueError: an argument is another one.
        """
        super().__init__()
        if negative_mode not in ("paired", "unpaired"):
            raise ValueError(f"negative_mode must be 'paired' or 'unpaired', got {negative_mode!r}")
        self.negative_mode = negative_mode
        self.loss = InfoNCELoss(temperature, reduction=reduction)

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        """Loss of the queries.

        Args:
            query: ``[N, D]``.
            positive_key: ``[N, D]``.
            negative_keys: ``[M, D]`` or ``[N, M, D]`` by the mode, or None for the other queries' positives.

        Raises:
            TypeError, ValueError: as :class:`fastclr.InfoNCELoss`, or the negatives have the other mode's rank.
        """
        rank = 3 if self.negative_mode == "paired" else 2
        if negative_keys is not None and negative_keys.dim() != rank:
            raise ValueError(
                f"negative_keys must have {rank} dimensions with negative_mode={self.negative_mode!r}, "
                f"got {list(negative_keys.shape)}"
            )
        loss: Tensor = self.loss(query, positive_key, negative_keys)
        return loss


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float = 0.1,
    reduction: Reduction = "mean",
    negative_mode: str = "unpaired",
) -> Tensor:
    """:class:`InfoNCE` as a function, with the arguments of both.

    Raises:
        TypeError, ValueError: as there.
    """
    loss: Tensor = InfoNCE(temperature, reduction, negative_mode)(query, positive_key, negative_keys)
    return loss
