"""The kernels of ``lse`` compile for every architecture and row of the tile table without spilling. Needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled in this process", allow_module_level=True)

from triton_resources import TYPES, WIDTHS, Resources, Tile, check_fits, inspect_binary  # noqa: E402

from fastclr.bench.sass import compile_kernel  # noqa: E402
from fastclr.kernels import tile_table  # noqa: E402
from fastclr.kernels.lse_backward import lse_bwd_kernel  # noqa: E402
from fastclr.kernels.lse_forward import lse_fwd_kernel  # noqa: E402
from fastclr.kernels.pair_masks import COLUMN_LIMIT, EXCLUDE, NO_LIMIT, ROW_LIMIT, narrowed  # noqa: E402

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Variant:
    """Compile-time choices of a kernel."""

    kernel: str
    exclude: str
    limit: int = NO_LIMIT
    online: bool = False
    guarded: bool = False
    terms: tuple[bool, bool] = (True, True)


# the heaviest of each kind: bands of masks, and masks in every tile
COMMON = (
    Variant("forward", "self", online=True),
    Variant("forward", "equal", COLUMN_LIMIT, online=True),
    Variant("backward", "self", online=True),
    Variant("backward", "equal", COLUMN_LIMIT, online=True),
)
# every other choice, for one row of the table
ALL = [
    *(Variant("forward", exclude, limit) for exclude in EXCLUDE for limit in (NO_LIMIT, ROW_LIMIT)),
    *(Variant("backward", exclude, limit) for exclude in EXCLUDE for limit in (NO_LIMIT, ROW_LIMIT)),
    Variant("forward", "pair", guarded=True),
    Variant("backward", "pair", guarded=True),
    Variant("backward", "self", terms=(True, False)),
    Variant("backward", "self", terms=(False, True)),
    Variant("backward", "nothing", online=True, terms=(False, True)),
]
CASES = [
    (arch, "bfloat16" if kind == "half" else "float32", "ieee" if kind == "half" else kind, width, variant)
    for arch, kind, widest in tile_table.TABLE
    for width in WIDTHS[kind][widest]
    for variant in COMMON
] + [(90, "float16", "ieee", 128, variant) for variant in ALL]


def name(case: tuple[Any, ...]) -> str:
    arch, dtype, precision, width, v = case
    flags = "-".join(key for key in ("online", "guarded") if getattr(v, key))
    return f"sm_{arch}-{dtype}-{precision}-{width}-{v.kernel}-{v.exclude}-{v.limit}-{flags}-{v.terms}"


def compiled(arch: int, dtype: str, precision: str, width: int, variant: Variant) -> tuple[Resources, Tile]:
    kind = precision if dtype == "float32" else "half"
    tiles = tile_table.table_tiles(arch, kind, width)
    forward = variant.kernel == "forward"
    kernel = lse_fwd_kernel if forward else lse_bwd_kernel
    tile = narrowed(tiles.heavy_forward if forward else tiles.backward, variant.exclude, variant.limit, kind)
    constants: dict[str, Any] = {"D": width, "PRECISION": precision, "EXCLUDE": EXCLUDE[variant.exclude]}
    constants |= {"LIMIT": variant.limit, "IS_ONLINE": variant.online, "GUARDED": variant.guarded}
    if not forward:
        constants |= {"BLOCK_OUT": tile.block_d if width <= tile.block_d else tile.block_out}
        constants |= dict(zip(("HAS_ROW", "HAS_COLUMN"), variant.terms, strict=True))
    constants |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_D": tile.block_d}
    return inspect_binary(compile_kernel(kernel, constants, TYPES[dtype], arch, tile)), tile


@pytest.mark.parametrize("case", CASES, ids=name)
def test_no_spills(case: tuple[Any, ...]) -> None:
    arch, dtype, precision, *_ = case
    used, tile = compiled(*case)
    check_fits(used, tile, arch, dtype, precision)
    assert used.exponentials > 0, "an empty program"
