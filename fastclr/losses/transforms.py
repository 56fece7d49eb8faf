"""What the fused losses cannot be part of, said in words before it goes wrong."""

from __future__ import annotations

import torch
from torch import Tensor


def check_transforms(impl: str, *leaves: object) -> None:
    """Raise a ValueError under a transform of torch.func, or if torch.export would drop the gradient of a leaf.

    An exported program holds the bare operators, which have no derivative: that is the autograd function's around them.
    The reference can do both; leaves that are no tensors have no gradient.
    """
    if impl == "reference":
        return
    if torch.compiler.is_exporting() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        raise ValueError("torch.export drops the gradient of a fused loss: use impl='reference' in what is exported")
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise ValueError("torch.func transforms need impl='reference': the fused losses support torch.autograd only")
