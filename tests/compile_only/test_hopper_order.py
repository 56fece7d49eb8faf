"""What the model of docs/gpu-model.md won on sm_90 stays: the order of instructions in the main loops."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled in this process", allow_module_level=True)

from fastclr.bench.gpu_model import KERNELS, KINDS, ntxent_constants  # noqa: E402
from fastclr.bench.sass import Instruction, compile_kernel, disassemble, loops  # noqa: E402
from fastclr.kernels.tile_table import table_tiles  # noqa: E402


def main_loop(kernel: str, kind: str, width: int) -> list[Instruction]:
    tile = getattr(table_tiles(90, kind, width), kernel)
    half = kind == "half"
    function, constants = ntxent_constants(kernel, width, tile, "ieee" if half else kind)
    items, _, _ = disassemble(compile_kernel(function, constants, "bf16" if half else "fp32", 90, tile))
    return loops(items, "HGMMA")[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_one_wait_for_a_group_of_products(kernel: str, kind: str, width: int) -> None:
    """Where the assembler serialises matrix products, it waits for each of them."""
    body = main_loop(kernel, kind, width)
    waits = sum(x.opcode.startswith("WARPGROUP.DEPBAR") for x in body)
    groups = sum(x.name == "HGMMA" and "gsb0" in x.operands for x in body)
    assert 1 <= waits <= groups <= 2
    assert sum(x.name == "BAR" for x in body) <= 4


def test_exponentials_of_the_triangular_kernel_hide_behind_its_products() -> None:
    """Those of the tile before are issued between the matrix products of this one."""
    body = main_loop("triangular", "half", 128)
    last = max(i for i, x in enumerate(body) if x.name == "HGMMA")
    first = min(i for i, x in enumerate(body) if x.name == "HGMMA")
    exponentials = [i for i, x in enumerate(body) if x.opcode.startswith("MUFU.EX2")]
    between = sum(first < i < last for i in exponentials)
    assert between >= len(exponentials) / 2
