"""Every path of the kernels, forward and backward, against the dense float64 definition."""

from __future__ import annotations

import pytest
import torch
from oracle import TALL, TILE, check, computed, make_views

from fastclr.kernels.tile_table import Tile, for_rows, table_tiles

PATHS = {
    "triangular": {},
    "full": {"deterministic": True},
    "split": {"deterministic": True, "splits": 3},
    "online": {"shift": "online"},
    "online split": {"shift": "online", "splits": 3},
    "runtime": {"shift": "runtime"},
    "runtime full split": {"shift": "runtime", "deterministic": True, "splits": 2},
}
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n", "width"), [(1, 1), (19, 70), (80, 20)])
def test_ntxent(path: str, dtype: torch.dtype, n: int, width: int) -> None:
    check(make_views(1, n, width, dtype), 0.5, TOLERANCE[dtype], **PATHS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [19, 16])
def test_two_ranks(path: str, n: int) -> None:
    check(make_views(2, n, 24), 0.2, 3e-6, **PATHS[path])


def test_three_ranks_in_half_precision_with_statistics() -> None:
    check(make_views(3, 11, 40, torch.float16), 0.2, 2e-3, stats=True)


@pytest.mark.parametrize("n", [2, 15, 16, 17, 33, 65, 97])
@pytest.mark.parametrize("deterministic", [False, True])
def test_pairs_around_the_tile_size(n: int, deterministic: bool) -> None:
    check(make_views(1, n, 8), 0.5, 3e-6, deterministic=deterministic)


@pytest.mark.parametrize("width", [3, 31, 32, 33, 130, 300])
@pytest.mark.parametrize("path", ["triangular", "online split"])
def test_widths_around_the_chunk_size(width: int, path: str) -> None:
    check(make_views(1, 9, width), 0.5, 3e-6, **PATHS[path])


@pytest.mark.parametrize(
    "tile",
    [TALL, Tile(16, 16, 128, 4), Tile(16, 64, 32, 4, block_out=32), Tile(32, 32, 64, 4, block_out=256)],
    ids=lambda tile: f"{tile.block_m}x{tile.block_n}x{tile.block_d}",
)
@pytest.mark.parametrize("width", [30, 100])
def test_tiles_of_other_proportions(tile: Tile, width: int) -> None:
    check(make_views(1, 33, width), 0.5, 3e-6, deterministic=tile.block_n % tile.block_m != 0, tile=tile)


@pytest.mark.parametrize("tau", [0.02, 10.0, -0.3])
@pytest.mark.parametrize("path", PATHS)
def test_temperatures_of_the_fixed_shift(tau: float, path: str) -> None:
    check(make_views(1, 18, 16), tau, 3e-6, **PATHS[path])


@pytest.mark.parametrize("tau", [0.001, -0.004])
@pytest.mark.parametrize("path", [path for path in PATHS if "online" in path or "runtime" in path])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_temperatures_beyond_the_fixed_shift(tau: float, path: str, dtype: torch.dtype) -> None:
    """At 0.001 logits would overflow with the fixed shift; with the online maximum they stay exact."""
    check(make_views(1, 18, 16, dtype, noise=3.0), tau, TOLERANCE[dtype], **PATHS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-3), (torch.float32, -7.0), (torch.float16, 0.5)])
def test_weights(path: str, dtype: torch.dtype, scale: float) -> None:
    """Positive, negative and zero weights, one per column of both ranks."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.rand(2 * 2 * 13, generator=generator) * 2 - 1
    weight[::7] = 0
    check(make_views(2, 13, 20, dtype), 0.3, TOLERANCE[dtype], weight=weight, scale=scale, **PATHS[path])


@pytest.mark.parametrize("path", ["online", "online split"])
@pytest.mark.parametrize("width", [8, 50])
def test_rows_as_they_are(path: str, width: int) -> None:
    """Without normalisation logits are unbounded, and only the online maximum applies."""
    check(make_views(1, 21, width, noise=3.0), 0.5, 3e-6, normalize=False, **PATHS[path])


@pytest.mark.parametrize("tau", [0.005, 0.1, -0.3])
@pytest.mark.parametrize("width", [16, 40])
def test_statistics(tau: float, width: int) -> None:
    """Noisy pairs, some of which are not each other's best match."""
    check(make_views(2, 19, width, noise=3.0), tau, 3e-6, shift="online", stats=True)


@pytest.mark.parametrize("layout", ["transposed", "strided", "mixed"])
@pytest.mark.parametrize("splits", [1, 2])
def test_inputs_with_other_strides(layout: str, splits: int) -> None:
    ((first, second),) = make_views(1, 18, 40)
    strided = {
        "transposed": (first.T.contiguous().T, second.T.contiguous().T),
        "strided": (first.repeat(1, 2)[:, ::2].clone(memory_format=torch.preserve_format), second.repeat(2, 1)[::2]),
        "mixed": (first.T.contiguous().T, torch.cat([second, second], dim=1)[:, 40:]),
    }[layout]
    check([strided], 0.5, 3e-6, splits=splits)


def test_deterministic_is_the_same_bits() -> None:
    views = make_views(1, 40, 24)
    first, second = (computed(views, 0.1, deterministic=True, splits=3, tile=TILE)[0] for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.dz0, second.dz0)


@pytest.mark.parametrize("kernel", ["forward", "triangular"])
@pytest.mark.parametrize(
    ("arch", "kind", "width"), [(90, "half", 128), (90, "half", 256), (90, "tf32", 128), (80, "half", 128)]
)
def test_tiles_that_the_model_chose(arch: int, kind: str, width: int, kernel: str) -> None:
    """Several tiles of each, the last ones partial, with float32 rows; few rows take half a tall tile."""
    tile = getattr(table_tiles(arch, kind, width), kernel)
    options = {"deterministic": kernel == "forward"}
    check(make_views(1, 161, width), 0.1, 3e-6, tile=tile, **options)
    if for_rows(tile, 322) != tile:
        check(make_views(1, 161, width), 0.1, 3e-6, tile=for_rows(tile, 322), **options)
