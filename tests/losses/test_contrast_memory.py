"""Memory of a forward and backward, as counted by the allocator: it grows as M D, never as M M."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightly.loss import NTXentLoss as LightlyLoss
from loss_cases import make_views
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningLoss
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.bench import memory
from fastclr.compat import MetricLearningNTXentLoss
from fastclr.losses.inputs import Reduction

MIB = 2**20


def peak_bytes(loss: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Peak memory of a forward and backward beyond its inputs."""
    loss(*inputs).backward()
    for leaf in inputs:
        leaf.grad = None
    return memory.peak_bytes(lambda: loss(*inputs).backward())


def leaves(pairs: int, dim: int = 64) -> list[Tensor]:
    return [z.requires_grad_() for z in make_views("random", pairs, dim)]


@pytest.mark.parametrize(
    "loss",
    [
        NTXentLoss(0.1, impl="blockwise"),
        NTXentLoss(0.001),
        NTXentLoss(0.1, normalize=False),
        NTXentLoss(0.1, learnable_temperature=True, impl="blockwise"),
    ],
    ids=["fixed", "online", "unnormalised", "learnable"],
)
def test_memory_grows_as_rows_times_width(loss: NTXentLoss) -> None:
    small, large = (peak_bytes(loss, *leaves(pairs)) for pairs in (768, 3072))
    # two tiles of a megabyte, and a few times the inputs
    assert 1.0 < (large - 2 * MIB) / (small - 2 * MIB) < 4.5
    assert large < 2 * MIB + 8 * (2 * 3072 * 64 * 4)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_of_the_operator_grows_as_rows_times_width(reduction: Reduction) -> None:
    loss = NTXentLoss(0.1, reduction=reduction)

    def peak(pairs: int) -> int:
        return peak_bytes(lambda *views: loss(*views).sum(), *leaves(pairs))

    # below some 2,000 rows the exponentials of all tiles are kept, which is at most 12 MiB
    assert peak(512) < 12 * MIB + 8 * (2 * 512 * 64 * 4)
    small, large = peak(1536), peak(6144)
    assert 2.0 < large / small < 4.5
    assert large < 8 * (2 * 6144 * 64 * 4)


def test_memory_bank_grows_as_rows_times_width() -> None:
    small, large = (
        peak_bytes(NTXentLoss(0.1, memory_bank_size=(4 * pairs, 64)), *leaves(pairs)) for pairs in (512, 2048)
    )
    assert (large - MIB) / (small - MIB) < 4.5


def test_statistics_and_losses_per_row_too() -> None:
    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        rows, stats = nt_xent(z0, z1, 0.1, reduction="none", return_stats=True)
        return (rows * stats.accuracy).sum()

    assert peak_bytes(loss, *leaves(4096)) < 2 * MIB + 8 * (2 * 4096 * 64 * 4)


def test_a_sixteenth_of_lightly() -> None:
    inputs = leaves(2048, 128)
    assert peak_bytes(NTXentLoss(0.1), *inputs) <= peak_bytes(LightlyLoss(0.1), *inputs) / 16


def test_pytorch_metric_learning_is_cubic_and_this_is_not() -> None:
    def peak(loss: torch.nn.Module, pairs: int) -> int:
        labels = torch.arange(pairs).repeat(2)
        rows = torch.cat(leaves(pairs)).detach().requires_grad_()
        return peak_bytes(lambda rows: loss(rows, labels), rows)

    theirs = {pairs: peak(MetricLearningLoss(0.1), pairs) for pairs in (32, 64)}
    for pairs, size in theirs.items():
        # one matrix of positive pairs by negatives per row: 34 GB at 1024 pairs
        assert size > 4 * (2 * pairs) ** 2 * (2 * pairs - 2)
    assert theirs[64] > 7 * theirs[32]
    assert peak(MetricLearningNTXentLoss(0.1), 1024) < 16 * MIB
