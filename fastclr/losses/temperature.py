"""A module's temperature: a number or a tensor that can be set later, or a parameter that is learnt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.losses.scalars import checked_factor, number_of


class WithTemperature(nn.Module):
    """Adds ``temperature``, ``log_temperature`` and ``reset_parameters`` to a loss."""

    log_temperature: nn.Parameter | None
    _temperature: float | Tensor

    def own_temperature(self, temperature: float | Tensor, learnable: bool) -> None:
        """Check and store tau; called once, at construction."""
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable else None
        self.temperature = temperature

    @property
    def temperature(self) -> float | Tensor:
        """tau: what was set, or ``exp(log_temperature)`` with its gradient if learnable."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    @temperature.setter
    def temperature(self, value: float | Tensor) -> None:
        """Check and store tau; a learnable one starts again from it."""
        value = checked_factor("temperature", value)
        if self.log_temperature is not None and not number_of(value) > 0:
            raise ValueError(f"a learnable temperature must be positive, got {number_of(value)}")
        # a parameter stays its owner's: it is not registered here too
        self.__dict__["_temperature"] = value
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """A module would register a parameter, which the property is in the way of."""
        if name == "temperature":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        """Give a learnable temperature the value that was last set."""
        if self.log_temperature is not None:
            with torch.no_grad():
                self.log_temperature.fill_(math.log(number_of(self._temperature)))
