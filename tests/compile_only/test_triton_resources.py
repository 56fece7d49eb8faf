"""Every shipped tile compiles for its architectures without spilling, and uses the instructions it is meant to.

No GPU is needed: Triton ships its own assembler and disassembler. Correctness is tested in ``tests/interpret``, speed
only on a GPU.
"""

from __future__ import annotations

from functools import cache

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled in this process", allow_module_level=True)

from triton_resources import (  # noqa: E402
    SHARED_LIMIT,
    Case,
    Resources,
    compile_case,
    compile_row_kernel,
    shipped_cases,
)

CASES = list(shipped_cases())
MATRIX_OPS = {80: {"HMMA"}, 90: {"HGMMA", "HMMA"}, 100: {"UTCHMMA", "HMMA"}}


@cache
def compiled(case: Case) -> Resources:
    """What a case needs; it is compiled once, as other processes find the binary in Triton's cache."""
    return compile_case(case)


def name(case: Case) -> str:
    parts = (f"sm_{case.arch}", case.dtype, case.precision, case.width, case.kernel, case.shift)
    return "-".join(map(str, parts))


@pytest.mark.parametrize("case", CASES, ids=name)
def test_ntxent_tiles(case: Case) -> None:
    used, tile = compiled(case), case.tile()
    assert (used.stack, used.spills) == (0, 0), "registers spill to memory"
    assert used.registers * 32 * tile.num_warps <= 65536
    assert used.shared <= SHARED_LIMIT[case.arch] * 1024
    assert tile.programs_per_sm <= used.programs_per_sm(tile.num_warps, case.arch)
    assert used.exponentials > 0, "an empty program"
    if case.dtype == "float32" and case.precision == "ieee":
        assert not used.matrix_ops, "ieee must not round to the tensor cores' formats"
    else:
        assert used.matrix_ops.keys() & MATRIX_OPS[case.arch], f"no tensor cores: {used.matrix_ops}"


@pytest.mark.parametrize("case", [case for case in CASES if case.arch == 90 and case.dtype != "float32"], ids=name)
def test_hopper_multiplies_whole_warp_groups(case: Case) -> None:
    assert compiled(case).matrix_ops.keys() == {"HGMMA"}


def test_the_fixed_shift_needs_half_the_exponentials_of_the_online_one() -> None:
    fixed, online = (compiled(Case("backward", 90, "bfloat16", "ieee", 128, shift)) for shift in ("fixed", "online"))
    assert 2 * fixed.exponentials == online.exponentials


@pytest.mark.parametrize("arch", sorted(SHARED_LIMIT))
@pytest.mark.parametrize("width", [8, 24, 64, 200, 2048])
def test_widths_between_the_rows_of_the_table(arch: int, width: int) -> None:
    """Rows narrower than their tile, padded or not, must not spill either; tested with the heaviest kernel."""
    used = compile_case(Case("backward", arch, "bfloat16", "ieee", width))
    assert (used.stack, used.spills) == (0, 0)
    assert used.shared <= SHARED_LIMIT[arch] * 1024


@pytest.mark.parametrize("width", [1, 128, 300, 2048, 16384])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kernel", ["prologue", "project"])
def test_kernels_of_whole_rows(kernel: str, dtype: str, width: int) -> None:
    used = compile_row_kernel(kernel, 90, dtype, width)
    assert (used.stack, used.spills) == (0, 0)


@pytest.mark.parametrize("arch", sorted(SHARED_LIMIT))
@pytest.mark.parametrize("kernel", ["prologue", "project", "loss", "factor"])
def test_row_kernels_of_every_architecture(kernel: str, arch: int) -> None:
    used = compile_row_kernel(kernel, arch, "float16", 128)
    assert (used.stack, used.spills) == (0, 0)
