"""MoCo v1: a linear head and a lower temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastclr.methods.moco import MoCo, MoCoOptions


@dataclass(frozen=True, kw_only=True)
class MoCoV1Options(MoCoOptions):
    """The options of MoCo v1."""

    temperature: float = 0.07
    """Temperature of the loss."""


class MoCoV1(MoCo):
    """MoCo with a linear head: ``loss_i = log(exp(s_ik) + sum_{b in queue} exp(s_ib)) - s_ik``, tau 0.07.

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020.
    """

    title = "MoCo v1"
    Options = MoCoV1Options
    recipe: ClassVar[dict[str, Any]] = {**MoCo.recipe, "head": "linear"}
    when = "To reproduce the first paper; otherwise take v2."
