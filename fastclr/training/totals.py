"""Sums since the last log record, by name; nothing waits for the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastclr.parallel import World


class Totals:
    """Named sums in float64 on the device.

    Args:
        device: where the steps compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: tuple[str, ...] = ()
        self._values = torch.zeros(0, device=device, dtype=torch.float64)

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add 0-dim tensors of the device to the sums of their names, which are made where they are new."""
        if new := [name for name in sums if name not in self._names]:
            self._names += tuple(new)
            self._values = torch.cat([self._values, self._values.new_zeros(len(new))])
        zero = self._values.new_zeros(())
        self._values += torch.stack([sums[name].double() if name in sums else zero for name in self._names])

    def get(self, name: str) -> Tensor:
        """Return the sum of this process, 0-dim on the device; 0 where nothing was added."""
        return self._values[self._names.index(name)] if name in self._names else self._values.new_zeros(())

    def over(self, world: World) -> dict[str, Tensor]:
        """Return the sums over all processes, which have added the same names, on the CPU."""
        return dict(zip(self._names, world.sum(self._values).cpu().unbind(), strict=True))

    def reset(self) -> None:
        """Begin again at zero."""
        self._values.zero_()

    def set(self, sums: Mapping[str, Tensor]) -> None:
        """Take over stored sums."""
        self._names = tuple(sums)
        values = [sums[name].to(self._values) for name in self._names]
        self._values = torch.stack(values) if values else self._values[:0].clone()
