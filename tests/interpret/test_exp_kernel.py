"""The kernel behind the ceiling of exponentials computes what it claims to."""

from __future__ import annotations

import numpy as np
import torch

from fastclr.bench.exp_kernel import BLOCK, REPEATS, ROUNDS, exponentials


def test_sums_of_exponentials() -> None:
    count, launch = exponentials(2, torch.device("cpu"))
    assert count == 2 * BLOCK * REPEATS * ROUNDS
    start = np.concatenate([np.arange(BLOCK) + block for block in range(2)]) * 1e-6
    steps = np.arange(REPEATS * ROUNDS) * 2.0**-10
    expected = np.exp2(-start[:, None] - steps).sum(1)
    np.testing.assert_allclose(launch().double().numpy(), expected, rtol=1e-4)
