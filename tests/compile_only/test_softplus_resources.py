"""The kernel of ``softplus_pairs`` compiles for every architecture and row of the tile table without spilling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled in this process", allow_module_level=True)

from triton_resources import TYPES, WIDTHS, check_fits, inspect_binary  # noqa: E402

from fastclr.bench.sass import compile_kernel  # noqa: E402
from fastclr.kernels import tile_table  # noqa: E402
from fastclr.kernels.pair_masks import EXCLUDE  # noqa: E402
from fastclr.kernels.softplus_forward import LEFT_OUT, pair_tile, softplus_kernel  # noqa: E402

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Variant:
    """Compile-time choices of the kernel."""

    include: str
    loss: bool = True
    gradient: bool = True
    by_column: bool = False
    weighted: bool = False
    hinge: bool = False


# the heaviest of each kind: bands of masks, and masks in every tile; value and gradient, and the value alone
COMMON = (
    Variant("others", weighted=True),
    Variant("same_id_others", weighted=True, by_column=True),
    Variant("others", gradient=False),
    Variant("same_id_others", gradient=False),
)
# every other choice, for one row of the table
ALL = [
    *(Variant(include, loss=loss) for include in LEFT_OUT for loss in (True, False)),
    Variant("negatives", by_column=True, loss=False),
    Variant("others", hinge=True),
    Variant("others", hinge=True, by_column=True, loss=False),
]
CASES = [
    (arch, "bfloat16" if kind == "half" else "float32", "ieee" if kind == "half" else kind, width, variant)
    for arch, kind, widest in tile_table.TABLE
    for width in WIDTHS[kind][widest]
    for variant in COMMON
] + [(90, "float16", "ieee", 128, variant) for variant in ALL]


def name(case: tuple[Any, ...]) -> str:
    arch, dtype, precision, width, v = case
    flags = "-".join(key for key in ("loss", "gradient", "by_column", "weighted", "hinge") if getattr(v, key))
    return f"sm_{arch}-{dtype}-{precision}-{width}-{v.include}-{flags}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_no_spills(case: tuple[Any, ...]) -> None:
    arch, dtype, precision, width, variant = case
    kind = precision if dtype == "float32" else "half"
    exclude = LEFT_OUT[variant.include]
    tile = pair_tile(tile_table.table_tiles(arch, kind, width), exclude, variant.gradient, kind)
    is_wide = variant.gradient and width > tile.block_d
    constants = {
        "D": width,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_D": tile.block_d,
        "BLOCK_OUT": tile.block_out if is_wide else tile.block_d,
        "PRECISION": precision,
        "EXCLUDE": EXCLUDE[exclude],
        "HINGE": variant.hinge,
        "BY_COLUMN": variant.by_column,
        "HAS_WEIGHT": variant.weighted,
        "HAS_LOSS": variant.loss,
        "HAS_GRADIENT": variant.gradient,
    }
    used = inspect_binary(compile_kernel(softplus_kernel, constants, TYPES[dtype], arch, tile))
    check_fits(used, tile, arch, dtype, precision)
    # one exponential an element, of the tiles with masks and of those without
    assert (used.exponentials > 0) != variant.hinge
