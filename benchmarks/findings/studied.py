"""SimCLR with operators behind the views of each branch, which its own augmentation does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastclr.bench.findings.operators import transform
from fastclr.methods import Facts
from fastclr.methods.base import Views
from fastclr.methods.options import ModelOptions
from fastclr.methods.simclr import SimCLR

Branches = tuple[tuple[str, ...], tuple[str, ...]]


class Studied(SimCLR):
    """SimCLR whose two views go through `branches`, names of `fastclr.bench.findings.operators`, before the encoder."""

    branches: Branches = ((), ())

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features h of both views, and their projections."""
        with torch.no_grad():
            changed = [transform(view, names) for view, names in zip(views, self.branches, strict=True)]
        return self.project(torch.stack(changed))


def studied(branches: Sequence[Sequence[str]], config: ModelOptions, facts: Facts) -> Studied:
    """Build SimCLR as `config` says, with operators behind its views.

    Raises:
        TypeError: the method is another one.
        ValueError: the configuration does not fit.
    """
    made = Studied.build(config, facts)
    if not isinstance(made, Studied):
        raise TypeError(f"the method must be SimCLR, got {type(made).__name__}")
    first, second = branches
    made.branches = (tuple(first), tuple(second))
    return made
