"""Losses with the call conventions of open_clip."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from fastclr.losses import CLIPLoss, SigLIPLoss


class ClipLoss(nn.Module):
    """``open_clip.loss.ClipLoss``: features as they come, ``logit_scale`` the factor itself.

    Over several ranks the value is that of the local pairs and the gradient that of the whole batch, whatever the
    flags. The original's defaults (``local_loss=False, gather_with_grad=False``) give the towers 1/W of it, and the
    scale all of it; `original_gradient` reproduces that. Its ``local_loss=True`` without ``gather_with_grad`` gives a
    gradient of another direction, which is not reproduced.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        original_gradient: bool = False,
    ) -> None:
        """Take the original's arguments.

        Args:
            local_loss, gather_with_grad, cache_labels, rank: without effect, unless `original_gradient` is set.
            world_size: above 1, compare the rows of all ranks.
            use_horovod: must be False.
            original_gradient: the towers' gradients are 1/W of the true ones without `gather_with_grad`.

        Raises:
            ValueError: use_horovod, or `original_gradient` with local_loss and without gather_with_grad.
        """
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod must be False: ranks are those of torch.distributed")
        if original_gradient and local_loss and not gather_with_grad:
            raise ValueError("original_gradient cannot reproduce local_loss=True without gather_with_grad=True")
        self.share = 1.0 / world_size if original_gradient and not gather_with_grad else 1.0
        self.loss = CLIPLoss(normalize=False, gather_distributed=world_size > 1)

    @overload
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = ...,
        output_dict: Literal[False] = ...,
    ) -> Tensor:
        """Return the loss."""

    @overload
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = ...,
        *,
        output_dict: Literal[True],
    ) -> dict[str, Tensor]:
        """Return the loss under its name."""

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of N pairs.

        Args:
            image_features: ``[N, D]``, of unit length if the model normalises.
            text_features: ``[N, D]``.
            logit_scale: factor of the similarities.
            logit_bias: without effect: a softmax does not see it.
            output_dict: return ``{"contrastive_loss": loss}``.

        Raises:
            TypeError, ValueError: as :class:`fastclr.CLIPLoss`.
        """
        images, texts = (_shared(x, self.share) for x in (image_features, text_features))
        loss = self.loss(images, texts, logit_scale)
        return {"contrastive_loss": loss} if output_dict else loss


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


def _shared(rows: Tensor, share: float) -> Tensor:
    """The rows, with a share of their gradient."""
    return rows if share == 1.0 else rows.detach() + share * (rows - rows.detach())
