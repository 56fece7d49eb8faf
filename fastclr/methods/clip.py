"""CLIP: the caption of an image is its positive, and the other captions of the batch are negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import CLIPLoss
from fastclr.methods.image_text import ImageText
from fastclr.methods.one_branch import widened
from fastclr.methods.text import TextOptions

LARGEST_SCALE = 100.0

# views and heads as in the paper: large crops alone, one linear map without bias. open_clip's AdamW at a rate for
# batches of a few hundred pairs
TWO_TOWERS: dict[str, Any] = {
    "captions": "auto",
    "augment": {
        "crop_scale": (0.9, 1.0),
        "flip_p": 0.0,
        "jitter_p": 0.0,
        "gray_p": 0.0,
        "blur_p": 0.0,
        "solarize_p": 0.0,
    },
    "head": "linear",
    "head_layers": 1,
    "head_hidden": None,
    "head_dim": 128,
    "head_bn": True,
    "head_last_bn": "none",
    "optimizer": "adamw",
    "lr": 1e-3,
    "lr_scaling": "none",
    "weight_decay": 0.1,
}


@dataclass(frozen=True, kw_only=True)
class CLIPOptions(TextOptions):
    """The options of CLIP."""


class CLIP(ImageText):
    """``loss_i = (log sum_j exp(s_ij) + log sum_j exp(s_ji)) / 2 - s_ii`` with ``s_ij = <z_i, t_j> / tau``.

    z of the images and t of the texts of all processes, of unit length. tau is learnt, not below 0.01, as the factor
    ``exp(-log_temperature)``; pairs with the same caption or picture as pair i do not count as j.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021; open_clip.
    """

    title = "CLIP"
    Options = CLIPOptions
    recipe: ClassVar[dict[str, Any]] = TWO_TOWERS
    cause = "Usual with CLIP: a rate that is too high, or captions that are nearly all alike."
    tune = "--lr, --batch-size (with --micro-batch), --clip.text-width and --clip.text-layers, --clip.temperature."
    when = "Images with captions: zero-shot classes, search by text, and features that words can tell apart."

    def make_criterion(self) -> nn.Module:
        """Return the loss, with its temperature."""
        chosen = self.options
        return CLIPLoss(chosen.temperature, self.gathers, learnable_temperature=chosen.learnable_temperature)

    def take_scale(self, scale: float | None, bias: float | None) -> None:
        """Start from the factor that comes with starting weights."""
        criterion: Any = self.criterion
        if scale is not None:
            criterion.temperature = 1.0 / scale

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine of image and caption."""
        z, t = (widened(each) for each in embeddings[:2])
        loss = self.criterion(z, t, ids=self.ids(batch, z.device))
        return loss, {"positive_cosine": F.cosine_similarity(z.detach(), t.detach()).mean()}

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Keep a learnt factor within 1 to 100."""
        if self.options.learnable_temperature:
            self.criterion.log_temperature.clamp_(-math.log(LARGEST_SCALE), 0.0)  # type: ignore[operator]

    def scalars(self) -> dict[str, float]:
        """Return the temperature."""
        tau: Any = self.criterion.temperature
        return {"temperature": float(torch.as_tensor(tau).detach())}
