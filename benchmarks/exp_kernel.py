"""A Triton kernel that only computes exponentials: the ceiling that the special function units set."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

BLOCK, REPEATS, ROUNDS = 1024, 16, 64


# out[p, i] sums REPEATS * ROUNDS exponentials of different arguments, so that the compiler cannot eliminate any
@triton.jit
def _exp_kernel(out, step, BLOCK: tl.constexpr, REPEATS: tl.constexpr, ROUNDS: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    x = -(lane + tl.program_id(0)).to(tl.float32) * 1e-6
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(ROUNDS):
        for _ in tl.static_range(REPEATS):
            total += tl.exp2(x)
            x -= step
    tl.store(out + tl.program_id(0) * BLOCK + lane, total)


def exponentials(blocks: int, device: torch.device) -> tuple[int, Callable[[], torch.Tensor]]:
    """Return the number of exponentials per launch, and the launch, which returns float32 ``[blocks * BLOCK]``.

    Element (p, i) is ``sum_k exp2(-(p + i) 1e-6 - k step)`` with ``step = 2**-10`` and k below ``REPEATS * ROUNDS``.
    """
    out = torch.empty(blocks * BLOCK, device=device)

    def launch() -> torch.Tensor:
        _exp_kernel[(blocks,)](out, 2.0**-10, BLOCK=BLOCK, REPEATS=REPEATS, ROUNDS=ROUNDS, num_warps=4)
        return out

    return blocks * BLOCK * REPEATS * ROUNDS, launch
