"""Named sums since the last log record, kept on the device so that only reading them waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastclr.device import vector_dtype
from fastclr.parallel import World


class Totals:
    """Named sums in float64 on the device, in float32 where that has no other.

    Args:
        device: the device the steps run on.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: tuple[str, ...] = ()
        self._values = torch.zeros(0, device=device, dtype=vector_dtype(device))

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add 0-dim tensors on the device to the sums of the same names; new names start at zero."""
        if new := [name for name in sums if name not in self._names]:
            self._names += tuple(new)
            self._values = torch.cat([self._values, self._values.new_zeros(len(new))])
        zero = self._values.new_zeros(())
        self._values += torch.stack([sums[name].to(zero) if name in sums else zero for name in self._names])

    def get(self, name: str) -> Tensor:
        """Return this process's sum, 0-dim on the device; 0 if nothing was added."""
        return self._values[self._names.index(name)] if name in self._names else self._values.new_zeros(())

    def sum_over(self, world: World) -> dict[str, Tensor]:
        """Return the sums over all processes, on the CPU; all must have added the same names."""
        return dict(zip(self._names, world.sum(self._values).cpu().unbind(), strict=True))

    def reset(self) -> None:
        """Set all sums to zero."""
        self._values.zero_()

    def set(self, sums: Mapping[str, Tensor]) -> None:
        """Replace the sums by stored ones."""
        self._names = tuple(sums)
        values = [sums[name].to(self._values) for name in self._names]
        self._values = torch.stack(values) if values else self._values[:0].clone()
