"""CLIP's loss: two towers, each image against all texts and each text against all images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastclr.losses.likely_positives import FilteringLoss
from fastclr.losses.row_inputs import check_ids, check_same_rows, softplus


class CLIPLoss(FilteringLoss):
    """``loss_i = (log sum_j exp(s_ij) + log sum_j exp(s_ji)) / 2 - s_ii`` with ``s_ij = scale <a_i, b_j>``.

    Replaces ``open_clip.ClipLoss``: the same value and, over a process group, the exact gradient (the original's
    default flags give 1/W of it). The backward communicates nothing. O(N D) memory.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch of pairs.

        Args:
            image_features: ``[N, D]``: float32, float64, float16 or bfloat16, any strides, any device.
            text_features: ``[N, D]``, same dtype and device; row i belongs to image i.
            logit_scale: the factor itself (CLIP's ``exp(t)``), a finite number but 0 or a tensor of one element, with
                or without gradient; None for 1 / temperature.
            ids: ``[N]`` integers: pairs of one id (the same image, the same caption) are not each other's negatives.
                None for all different.

        Returns:
            0-dim, or ``[N]`` for reduction "none"; float64 for float64 inputs and float32 otherwise.

        Raises:
            TypeError, ValueError: as :meth:`fastclr.losses.row_loss.RowLoss.compare`, or shapes or ids do not fit.
        """
        inputs = {"image_features": image_features, "text_features": text_features}
        comparison = self.compare(inputs, logit_scale)
        check_same_rows(inputs)
        if ids is not None:
            check_ids("ids", ids, image_features, image_features.shape[0])
            ids = ids.long()
        with torch.autocast(image_features.device.type, enabled=False):
            positive, rows, columns = comparison.pairs(image_features, text_features, ids, self.margin)
            return comparison.reduce((softplus(rows - positive) + softplus(columns - positive)) / 2)
