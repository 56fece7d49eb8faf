"""SigLIP: whether an image and a caption belong together, asked of every pair of the batch by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from fastclr.data.batch import Batch
from fastclr.losses import SigLIPLoss
from fastclr.methods.clip import LARGEST_SCALE, TWO_TOWERS
from fastclr.methods.image_text import ImageText
from fastclr.methods.one_branch import widened
from fastclr.methods.options import Check
from fastclr.methods.text import TextOptions
from fastclr.parallel import gather_rows, resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class SigLIPOptions(TextOptions):
    """The options of SigLIP."""

    temperature: float = 0.1
    """Temperature of the loss at the start."""
    bias: float = -10.0
    """What is added to all similarities at the start; -log(batch size - 1) suits a batch below a few thousand."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [*super().checks(), ("bias", math.isfinite(self.bias), "a finite number")]


class SigLIP(ImageText):
    """``loss_i = softplus(-s_ii) + sum_{j != i} softplus(s_ij)`` with ``s_ij = <z_i, t_j> / tau + b``.

    z of the images and t of the texts of all processes, of unit length; tau and b are learnt. Pairs with the same
    caption or picture as pair i do not count as j. A sum over the batch: it grows with it.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023; open_clip.
    """

    title = "SigLIP"
    Options = SigLIPOptions
    recipe: ClassVar[dict[str, Any]] = TWO_TOWERS
    cause = "Usual with SigLIP: a bias far from -log(batch size), or a rate that is too high."
    tune = "--siglip.bias (-log of the batch size), --lr, --siglip.text-width and --siglip.text-layers."
    when = "As CLIP, for batches below a few thousand pairs, or many machines: no softmax over the batch."

    def make_criterion(self) -> nn.Module:
        """Return the loss, with its scale and bias."""
        chosen = self.options
        learnable = chosen.learnable_temperature
        return SigLIPLoss(1.0 / chosen.temperature, chosen.bias, learnable=learnable, gather_distributed=self.gathers)

    def take_scale(self, scale: float | None, bias: float | None) -> None:
        """Start from the scale and bias that come with starting weights."""
        found: Any = self.criterion
        found.logit_scale = found.logit_scale if scale is None else scale
        found.logit_bias = found.logit_bias if bias is None else bias
        found.reset_parameters()

    def scale_and_bias(self) -> tuple[Tensor, Tensor]:
        """Return the factor of the cosines and what is added to them, with their gradients."""
        found: Any = self.criterion
        if found.log_scale is None:
            return torch.as_tensor(found.logit_scale), torch.as_tensor(found.logit_bias)
        return found.log_scale.exp(), found.bias

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the mean cosine of image and caption."""
        z, t = (widened(each) for each in embeddings)
        loss = self.criterion(z, t)
        ids = self.ids(batch, z.device)
        if ids is not None:
            group = resolve_group(None) if self.gathers else None
            loss = loss - equal_pairs(z, t, ids, *self.scale_and_bias(), group).to(loss.dtype)
        return loss, {"positive_cosine": F.cosine_similarity(z.detach(), t.detach()).mean()}

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Keep a learnt factor within 1 to 100."""
        if self.options.learnable_temperature:
            self.criterion.log_scale.clamp_(0.0, math.log(LARGEST_SCALE))  # type: ignore[operator]

    def scalars(self) -> dict[str, float]:
        """Return temperature and bias."""
        scale, bias = self.scale_and_bias()
        return {"temperature": 1.0 / float(scale.detach()), "bias": float(bias.detach())}


def equal_pairs(z: Tensor, t: Tensor, ids: Tensor, scale: Tensor, bias: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the part of SigLIP's loss that is of pairs with equal ids: ``mean_i sum_{j != i, id_j = id_i} softplus``.

    Args:
        z: ``[n, D]``, of the images of this process.
        t: ``[n, D]``, of the texts.
        ids: int64 ``[n]``, of the pairs.
        scale: factor of the cosines, 0-dim.
        bias: what is added to them, 0-dim.
        group: the processes whose pairs are compared.

    Returns:
        0-dim, of the rows of this process; as with the loss itself, z and t get the gradient of all rows.
    """
    images, texts = F.normalize(z, dim=1), F.normalize(t, dim=1)
    parts = (ids, images.detach(), texts.detach())
    every_id, every_image, every_text = parts if group is None else (gather_rows(part, group) for part in parts)
    start = 0 if group is None else distributed.get_rank(group) * len(z)
    same = ids[:, None] == every_id[None]
    own = torch.arange(len(z), device=z.device)
    same[own, own + start] = False
    mine, other = same.nonzero(as_tuple=True)

    def total(a: Tensor, b: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        return F.softplus((a * b).sum(dim=1) * factor.to(a) + shift.to(a)).sum() / len(z)

    rows = total(images[mine], every_text[other], scale, bias)
    columns = total(every_image[other], texts[mine], scale.detach(), bias.detach())
    return rows + (columns - columns.detach())
