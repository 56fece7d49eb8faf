"""The warp-specialised backward, emulated on the CPU, against the dense float64 definition."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import torch
from gluon_emulation import EmulatedKernel
from oracle import check, expected, make_views

from fastclr.kernels import ntxent_gluon
from fastclr.kernels.tile_table import GLUON_TILE, Tile, gluon_tile
from fastclr.losses.contrast_op import NTXentFunction, NTXentOptions

KERNEL = EmulatedKernel(ntxent_gluon.ntxent_bwd_gluon_kernel)
# tolerances as of Triton's kernels
HALF = 2e-3


@pytest.fixture(autouse=True)
def gluon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle's backward is Gluon's, with narrow tiles, so that few rows are many of them and the ring turns."""

    def backward(*arguments: Any, tile: Tile, splits: int | None) -> Any:
        narrow = Tile(GLUON_TILE.block_m, 16, gluon_tile(90, torch.float16, arguments[2].shape[1]).block_d, 4, 3)
        return ntxent_gluon.ntxent_bwd(*arguments, tile=narrow, splits=splits)

    monkeypatch.setattr(ntxent_gluon, "ntxent_bwd_gluon_kernel", KERNEL)
    monkeypatch.setattr(oracle, "ntxent_bwd", backward)


@pytest.mark.parametrize("path", [{}, {"splits": 2}, {"shift": "online"}, {"shift": "runtime"}], ids=str)
def test_every_path(path: dict[str, Any]) -> None:
    """Two row tiles a view, the second partial, against eight column tiles without a mask, and 17 with one."""
    check(make_views(1, 200, 24, torch.float16), 0.5, HALF, tile=Tile(64, 64, 32, 4), **path)


def test_fewer_rows_than_a_tile_has() -> None:
    check(make_views(1, 8, 16, torch.float16), 0.5, HALF)


def test_bounds_of_the_fixed_shift() -> None:
    check(make_views(1, 20, 16, torch.float16, noise=3.0), 0.004, HALF, shift="runtime")


@pytest.mark.parametrize("shift", ["fixed", "online"])
def test_weights_of_two_ranks(shift: str) -> None:
    """Positive, negative and zero weights; the rows of a rank begin inside of a column tile."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.rand(2 * 2 * 13, generator=generator) * 2 - 1
    weight[::7] = 0
    check(make_views(2, 13, 40, torch.float16), 0.3, HALF, weight=weight, scale=-0.5, shift=shift)


@pytest.mark.parametrize("width", [8, 72, 128])
def test_widths(width: int) -> None:
    """Widths of which the tile is padded, and the widest."""
    check(make_views(1, 40, width, torch.float16), 0.5, HALF)


@pytest.mark.parametrize(
    ("arch", "dtype", "width", "said"),
    [
        (80, torch.bfloat16, 128, "compute capability 9.0 .* got 8.0"),
        (100, torch.bfloat16, 128, "compute capability 9.0 .* got 10.0"),
        (90, torch.float32, 128, "precision='bf16', got torch.float32"),
        (90, torch.float16, 136, "at most 128, got 136"),
        (90, torch.float16, 12, "multiple of 8 features, at most 128, got 12"),
    ],
)
def test_what_it_does_not_compute_is_refused(arch: int, dtype: torch.dtype, width: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gluon_tile(arch, dtype, width)


def test_the_operators_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the autograd function with impl="gluon", which a CPU tensor does not get past the checks of nt_xent."""
    launched: list[bool] = []

    class Counted:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launched.append(True)
            return KERNEL[grid]

    monkeypatch.setattr(ntxent_gluon, "ntxent_bwd_gluon_kernel", Counted())
    monkeypatch.setattr(ntxent_gluon, "device_traits", lambda device: (90, 1))
    views = [z.requires_grad_() for z in make_views(1, 30, 16, torch.float16)[0]]
    options = NTXentOptions("gluon", True, "mean", "ieee", "fixed", False, False, None)
    loss, _, _ = NTXentFunction.apply(*views, torch.tensor(0.5), options)
    truth = expected([(views[0].detach(), views[1].detach())], 0.5, scale=1 / 60)[0]
    for mine, true in zip(torch.autograd.grad(loss, views), (truth.dz0, truth.dz1), strict=True):
        assert (mine.double() - true).norm() <= 3 * HALF * true.norm()
    assert len(launched) == 1
