"""The most the machine can do, measured in the same run: matrix products, copies, exponentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fastclr.bench.rows import Spread
from fastclr.bench.timing import TOTAL, sample

MATRIX = {"cuda": 8192, "cpu": 2048}
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
SLOW_S = 1.0  # anything slower (float16 on a CPU without instructions for it) is measured only once
EXPS_CPU = 2**16  # fits into the cache, so that arithmetic is the bottleneck


@dataclass
class Ceilings:
    """Rates per second of a device, each measured on first use.

    Args:
        device: the device.
        toy: measure once, on tiny inputs; for rehearsals.
        rates: the measurements so far, such as ``{"copy bytes": 4.3e12}``.
    """

    device: torch.device
    toy: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    def flops(self, dtype: torch.dtype, precision: str = "highest") -> float:
        """Floating point operations per second of a square matrix product on random data."""

        def measure() -> float:
            n = 64 if self.toy else MATRIX[self.device.type] // (2 if dtype == torch.float64 else 1)
            a, b = (torch.randn(n, n, device=self.device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(precision)
            try:
                return 2.0 * n**3 / self._seconds(lambda _: torch.mm(a, b, out=out))
            finally:
                torch.set_float32_matmul_precision(before)

        name = str(dtype).removeprefix("torch.")
        return self._cached(f"{name} flops" + (f" ({precision})" if precision != "highest" else ""), measure)

    def copy(self) -> float:
        """Bytes per second that a copy reads and writes."""

        def measure() -> float:
            count = 2**16 if self.toy else COPY_BYTES[self.device.type]
            source = torch.ones(count, dtype=torch.uint8, device=self.device)
            target = torch.zeros_like(source)
            return 2.0 * count / self._seconds(lambda _: target.copy_(source))

        return self._cached("copy bytes", measure)

    def exps(self) -> float:
        """float32 exponentials per second, with the arguments already in registers (CUDA) or in the cache (CPU)."""

        def measure() -> float:
            if self.device.type == "cuda":
                from fastclr.bench.exp_kernel import exponentials

                blocks = 64 if self.toy else 8192
                count, launch = exponentials(blocks, self.device)
                return count / self._seconds(lambda _: launch())
            x = torch.linspace(-10, 0, EXPS_CPU)
            out = torch.empty_like(x)
            # measure one thread on a chunk that fits into its cache; all threads together do `threads` times as much
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return threads * EXPS_CPU / self._seconds(lambda _: torch.exp(x, out=out))
            finally:
                torch.set_num_threads(threads)

        return self._cached("exponentials", measure)

    def _cached(self, name: str, measure: Callable[[], float]) -> float:
        if name not in self.rates:
            self.rates[name] = measure()
        return self.rates[name]

    def _seconds(self, stage: Callable[[Any], Any]) -> float:
        program = {"run": stage}
        first = sample(program, 1, self.device)[TOTAL]
        first = min(first, sample(program, 1, self.device)[TOTAL])
        if self.toy or first > SLOW_S:
            return max(first, 1e-9)
        inner = max(1, min(1000, int(0.05 / max(first, 1e-9))))
        return Spread.of([sample(program, inner, self.device)[TOTAL] for _ in range(7)]).median
