"""What the fused losses cannot be part of, said in words before it goes wrong."""

from __future__ import annotations

import torch
from torch import Tensor


def check_transforms(*rows: Tensor) -> None:
    """Raise a ValueError under a transform of torch.func, or if torch.export would drop the gradient of the rows.

    An exported program holds the bare operators, which have no derivative: that is the autograd function's around them.
    """
    if torch.compiler.is_exporting() and any(each.requires_grad for each in rows):
        raise ValueError("torch.export drops the gradient of a fused loss: use impl='reference' in what is exported")
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError("torch.func transforms need impl='reference': the fused losses support torch.autograd only")
