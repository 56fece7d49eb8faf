"""Losses with the call conventions of open_clip."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from fastclr.losses import SigLIPLoss


class SigLipLoss(nn.Module):
    """``open_clip.loss.SigLipLoss``: features as they come, ``logit_scale`` the factor itself.

    The original passes texts from rank to rank, forth in the forward and back in the backward; this gathers rows in the
    forward, for any `dist_impl`, with the same gradient. The value on a rank is that of its images.
    """

    def __init__(
        self, cache_labels: bool = False, rank: int = 0, world_size: int = 1, dist_impl: str | None = None
    ) -> None:
        """Take the original's arguments.

        Args:
            cache_labels, rank: not needed.
            world_size: above 1, compare the rows of all ranks.
            dist_impl: "bidir", "shift", "reduce", "gather" or None, without effect.

        Raises:
            ValueError: `dist_impl` is another one.
        """
        super().__init__()
        if dist_impl not in (None, "bidir", "shift", "reduce", "gather"):
            raise ValueError(f"dist_impl must be 'bidir', 'shift', 'reduce', 'gather' or None, got {dist_impl!r}")
        self.loss = SigLIPLoss(normalize=False, gather_distributed=world_size > 1)

    @overload
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None,
        output_dict: Literal[False] = ...,
    ) -> Tensor:
        """Return the loss."""

    @overload
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None,
        output_dict: Literal[True],
    ) -> dict[str, Tensor]:
        """Return the loss under its name."""

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of N pairs.

        Args:
            image_features: ``[N, D]``, of unit length if the model normalises.
            text_features: ``[N, D]``.
            logit_scale: factor of the similarities.
            logit_bias: what is added to them; None for nothing.
            output_dict: return ``{"contrastive_loss": loss}``.

        Raises:
            TypeError, ValueError: as :class:`fastclr.SigLIPLoss`.
        """
        loss = self.loss(image_features, text_features, logit_scale, 0.0 if logit_bias is None else logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss
