"""The loss of SupContrast, the code of the paper Supervised Contrastive Learning."""

from __future__ import annotations

from torch import Tensor, nn

from fastclr.losses import SupConLoss as _SupConLoss


class SupConLoss(nn.Module):
    """``losses.SupConLoss`` of HobbitLong/SupContrast: L_out times ``temperature / base_temperature``.

    Features as they come (the code normalises them in its model); anchors without a positive count in the mean, as 0;
    labels of -1 are a class like any other. O(M D) memory instead of several M x M matrices.
    """

    def __init__(
        self, temperature: float = 0.07, contrast_mode: str = "all", base_temperature: float | None = 0.07
    ) -> None:
        """Take the original's arguments.

        Args:
            temperature: tau.
            contrast_mode: must be "all": every view is an anchor.
            base_temperature: the loss is multiplied by tau over it; None for the paper's formula.

        Raises:
            TypeError, ValueError: the mode is another one, or a temperature is not a number but 0.
        """
        super().__init__()
        if contrast_mode != "all":
            raise ValueError(f"contrast_mode must be 'all', got {contrast_mode!r}")
        self.factor = 1.0 if base_temperature is None else temperature / base_temperature
        self.loss = _SupConLoss(temperature, normalize=False, reduction="none")

    def forward(self, features: Tensor, labels: Tensor | None = None, mask: None = None) -> Tensor:
        """Loss of a batch.

        Args:
            features: ``[N, V, ...]``; everything behind the views is one vector.
            labels: ``[N]`` or ``[N, 1]`` integers, or None for SimCLR's loss.
            mask: must be None.

        Returns:
            0-dim tensor.

        Raises:
            TypeError, ValueError: as :class:`fastclr.SupConLoss`, or a mask is passed.
        """
        if mask is not None:
            raise ValueError("mask must be None: pass labels")
        if features.dim() < 3:
            raise ValueError(f"features must be [N, V, ...], got {list(features.shape)}")
        if labels is not None:
            labels = labels.reshape(-1)
            # no -1, which has no class in the loss itself
            labels = labels - labels.min()
        rows: Tensor = self.loss(features.flatten(2), labels)
        return self.factor * rows.mean()
