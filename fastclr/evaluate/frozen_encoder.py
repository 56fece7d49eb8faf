"""Keeping an encoder frozen, and verifying it, during every evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def state_hash(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of `module`, including their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[nn.Module]:
    """Keep `encoder` in evaluation mode without gradients, and check that nothing in it changed.

    Raises:
        ValueError: a batch norm of `encoder` keeps no running statistics, so features would depend on the batch.
        RuntimeError: a weight, a batch statistic or the evaluation mode has changed afterwards.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"the features of an image must not depend on its batch, but the batch norm {name!r} keeps no running "
                "statistics: build it with track_running_stats=True"
            )
    modes = {module: module.training for module in encoder.modules()}
    before = state_hash(encoder)
    encoder.eval()
    try:
        with torch.no_grad():
            yield encoder
        awake = [name or "the encoder" for name, module in encoder.named_modules() if module.training]
    finally:
        for module, mode in modes.items():
            module.training = mode
    if state_hash(encoder) != before:
        raise RuntimeError("the encoder must stay unchanged during an evaluation, but its weights or buffers changed")
    if awake:
        raise RuntimeError(f"the encoder must stay in evaluation mode, but {awake[0]!r} was switched to training mode")
