"""The CPU back end piece by piece: tiles, exponent ranges, and the rows of one rank against all columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from loss_cases import make_views, relative_error
from torch import Tensor

from fastclr import NTXentLoss, nt_xent
from fastclr.losses import (
    BarlowTwinsLoss,
    InfoNCELoss,
    VICRegLoss,
    contrast_blocks,
    gram_blocks,
    lse_blocks,
    paired_blocks,
    tiles,
)
from fastclr.losses.tiles import matrix_products


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 by 16 float64, so that small inputs have many, including partial ones."""
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)


def test_block_size_fits_cache_and_evens_out() -> None:
    cpu = torch.device("cpu")
    for columns in (1, 2, 17, 512, 513, 8192, 10_000, 1_000_000):
        for dtype in (torch.float32, torch.float64):
            block = tiles.block_size(columns, dtype, cpu)
            assert block * block * dtype.itemsize <= tiles.CPU_TILE_BYTES
            assert block >= min(columns, 256)
    assert tiles.block_size(600, torch.float32, cpu) == 304
    assert tiles.block_size(8192, torch.float32, torch.device("cuda")) > 2048


@pytest.mark.parametrize("triangular", [False, True])
def test_tiles_cover_every_pair_once(triangular: bool) -> None:
    seen = torch.zeros(37, 37, dtype=torch.int64)
    for i, i_end, j, j_end in tiles.tiles(37, 37, 16, triangular):
        seen[i:i_end, j:j_end] += 1
        if triangular and j > i:
            seen[j:j_end, i:i_end] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("pairs", "ranks"), [(1, 1), (5, 1), (16, 1), (9, 3), (1, 4)])
@pytest.mark.parametrize("block", [1, 4, 7, 64])
def test_special_columns(pairs: int, ranks: int, block: int) -> None:
    rows, columns = 2 * pairs, 2 * pairs * ranks
    for rank in range(ranks):
        offset = rank * rows
        found = torch.zeros(rows, columns)
        for i, i_end, j, j_end in tiles.tiles(rows, columns, block, triangular=False):
            tiles.fill_special(found[i:i_end, j:j_end], i, j, pairs, offset, 1.0)
        expected = torch.zeros(rows, columns)
        for row in range(rows):
            expected[row, offset + row] = expected[row, offset + (row + pairs) % rows] = 1.0
        assert torch.equal(found, expected)


def test_range_without_running_maxima() -> None:
    def safe(tau: float, columns: int = 8192, shift: str = "fixed", dtype: torch.dtype = torch.float32) -> bool:
        return tiles.unshifted(torch.tensor(tau, dtype=torch.float64), columns, dtype, shift)

    assert safe(0.5) and safe(-0.5) and safe(0.0129) and safe(0.05, shift="runtime")
    assert not safe(0.0125) and not safe(-0.0125) and not safe(0.5, shift="online")
    assert not safe(math.nan) and not safe(0.0)
    assert safe(0.0015, dtype=torch.float64) and not safe(0.001, dtype=torch.float64)
    assert not tiles.unshifted(torch.tensor(0.5, device="meta"), 8192, torch.float32, "fixed")


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shift", ["fixed", "online"])
@pytest.mark.parametrize("pairs", [1, 7, 8, 16, 37])
def test_one_rank_among_many(pairs: int, shift: str) -> None:
    """Each rank's losses and gradients are rows of the dense ones, with a weight per column."""
    ranks, dim, tau = 3, 5, torch.tensor(0.3, dtype=torch.float64)
    views = [make_views("random", pairs, dim, torch.float64, seed) for seed in range(ranks)]
    leaves = [[view.clone().requires_grad_() for view in pair] for pair in views]
    flat = torch.cat([torch.cat(pair) for pair in leaves])
    unit = flat / flat.norm(dim=1, keepdim=True)
    scores = (unit @ unit.T / tau).fill_diagonal_(-math.inf)
    index = torch.arange(len(flat))
    partner = index + torch.where(index // pairs % 2 == 0, pairs, -pairs)
    dense = scores.logsumexp(dim=1) - scores[index, partner]
    weight = torch.linspace(-1, 1, len(flat), dtype=torch.float64)
    (2.5 * weight * dense).sum().backward()

    parts = [contrast_blocks.ntxent_prologue(*pair, True, "auto") for pair in views]
    columns = torch.cat([part[0] for part in parts])
    forwards = [
        contrast_blocks.ntxent_fwd(z, columns, positive, tau, rank * 2 * pairs, shift, "auto", False, rank == 1)
        for rank, (z, _, positive) in enumerate(parts)
    ]
    lse = torch.cat([forward[1] for forward in forwards])
    torch.testing.assert_close(torch.cat([forward[0] for forward in forwards]), dense.detach())
    for rank, ((z, inv_norm, positive), (loss, *_)) in enumerate(zip(parts, forwards, strict=True)):
        grad0, grad1, _ = contrast_blocks.ntxent_bwd(
            *views[rank], z, columns, inv_norm, positive, loss, lse, weight, torch.tensor(2.5), tau,
            rank * 2 * pairs, True, shift, "auto",
        )  # fmt: skip
        torch.testing.assert_close(grad0, leaves[rank][0].grad)
        torch.testing.assert_close(grad1, leaves[rank][1].grad)
    other = columns.view(ranks, 2, pairs, dim)[:, [1, 0]]
    for view in range(2):
        rows = slice(view * pairs, (view + 1) * pairs)
        candidates = parts[1][0][rows] @ other[:, view].reshape(-1, dim).T / tau
        share = candidates.softmax(dim=1)
        own = candidates.diagonal(pairs)
        torch.testing.assert_close(forwards[1][2][rows], (own >= candidates.amax(dim=1)).double())
        torch.testing.assert_close(forwards[1][3][rows], torch.special.entr(share).sum(dim=1))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("pairs", [8, 9, 24, 50])
@pytest.mark.parametrize("temperature", [0.001, 0.1, -0.2])
def test_many_tiles_equal_one(pairs: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [z.requires_grad_() for z in make_views("random", pairs, 6, torch.float64)]
    many = nt_xent(*views, temperature)
    many_grads = torch.autograd.grad(many, views)
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 1 << 20)
    one = nt_xent(*views, temperature)
    torch.testing.assert_close(many, one)
    for mine, other in zip(many_grads, torch.autograd.grad(one, views), strict=True):
        torch.testing.assert_close(mine, other)


def test_same_bits_every_time() -> None:
    views = [z.requires_grad_() for z in make_views("random", 700, 32)]
    first, second = (nt_xent(*views, 0.1, deterministic=True) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(*(torch.autograd.grad(loss, views)[0] for loss in (first, second)))


@pytest.fixture
def rounding_allowed() -> None:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def _error(z0: Tensor, z1: Tensor, precision: str) -> float:
    exact = nt_xent(z0.double(), z1.double(), 0.05, reduction="none")
    return relative_error(nt_xent(z0, z1, 0.05, reduction="none", precision=precision), exact)


@pytest.mark.usefixtures("rounding_allowed")
@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_precision_overrides_the_global_setting(precision: str) -> None:
    views = make_views("far", 256, 128)
    assert _error(*views, precision) < 1e-6
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("global_setting", ["highest", "high", "medium"])
@pytest.mark.parametrize(
    ("precision", "expected"),
    [("ieee", "ieee"), ("tf32x3", "ieee"), ("tf32", "tf32"), ("bf16", "tf32"), ("auto", None)],
)
def test_precision_of_cublas(precision: str, expected: str | None, global_setting: str) -> None:
    """The setting is there while the products are computed, and as before afterwards, also after an error."""
    cublas, onednn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(global_setting)
    try:
        before = (cublas.fp32_precision, onednn.fp32_precision)
        with pytest.raises(RuntimeError, match="inside"), matrix_products(precision, torch.device("cuda")):
            assert (cublas.fp32_precision, onednn.fp32_precision) == (expected or before[0], before[1])
            raise RuntimeError("inside")
        assert (cublas.fp32_precision, onednn.fp32_precision) == before
        assert torch.get_float32_matmul_precision() == global_setting
    finally:
        torch.set_float32_matmul_precision(previous)


@pytest.mark.parametrize("loss", ["nt_xent", "info_nce", "barlow_twins", "vicreg"])
def test_every_blockwise_loss_multiplies_at_its_device_s_precision(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    @contextmanager
    def recorded(precision: str, device: torch.device) -> Iterator[None]:
        asked.append((precision, device.type))
        yield

    for module in (contrast_blocks, gram_blocks, lse_blocks, paired_blocks):
        monkeypatch.setattr(module, "matrix_products", recorded)
    z0, z1 = (z.requires_grad_() for z in make_views("random", 16, 8))
    chosen = {
        "nt_xent": NTXentLoss(impl="blockwise", precision="tf32"),
        "info_nce": InfoNCELoss(impl="blockwise", precision="tf32"),
        "barlow_twins": BarlowTwinsLoss(impl="blockwise", precision="tf32"),
        "vicreg": VICRegLoss(impl="blockwise", precision="tf32"),
    }[loss]
    chosen(z0, z1).backward()
    assert asked and set(asked) == {("tf32", "cpu")}
