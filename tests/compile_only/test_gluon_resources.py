"""The warp-specialised backward as it compiles for sm_90: no spills, and main loops in the order that was meant."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled in this process", allow_module_level=True)

import torch  # noqa: E402

from fastclr.bench.gpu_model import product_cycles  # noqa: E402
from fastclr.bench.sass import Instruction, compile_gluon, disassemble, instructions, loops  # noqa: E402
from fastclr.kernels.ntxent_gluon import START_REGISTERS, ntxent_bwd_gluon_kernel  # noqa: E402
from fastclr.kernels.tile_table import gluon_tile  # noqa: E402

# row type, features, online shift, whether the shift is checked first, weights
VARIANTS = [
    ("bf16", 128, False, False, False),
    ("fp16", 72, False, True, False),
    ("bf16", 128, True, True, True),
]


def compiled(
    row_type: str, width: int, online: bool, guarded: bool, weight: bool
) -> tuple[list[Instruction | str], int]:
    """Instructions, and bytes of stack."""
    tile = gluon_tile(90, torch.float16, width)
    constants = {"D": width, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_D": tile.block_d}
    constants |= {"STAGES": tile.num_stages, "IS_ONLINE": online, "GUARDED": guarded, "HAS_WEIGHT": weight}
    binary = compile_gluon(ntxent_bwd_gluon_kernel, constants, row_type, tile, START_REGISTERS)
    assert binary.metadata.shared <= 227 * 1024
    items, registers, stack = disassemble(binary)
    # two groups of four warps and the one that copies, with its three idle neighbours
    assert binary.metadata.num_warps == 12 and registers == START_REGISTERS
    return items, stack


@pytest.mark.parametrize(("row_type", "width", "online", "guarded", "weight"), VARIANTS)
def test_resources_and_order(row_type: str, width: int, online: bool, guarded: bool, weight: bool) -> None:
    items, stack = compiled(row_type, width, online, guarded, weight)
    code = instructions(items)
    assert (stack, sum(x.name in ("LDL", "STL") for x in code)) == (0, 0), "registers spill to memory"
    moved = {x.operands for x in code if x.name.startswith("USETMAXREG")}
    assert any("0xf0" in operands for operands in moved), "a group must get 240 registers"
    assert any("0x18" in operands for operands in moved), "the warp that copies must give registers back"
    assert sum(x.name == "UTMALDG" for x in code) >= 3, "rows, tiles without masks, tiles with masks"

    # of each group the loop without masks, then that with masks
    bodies = loops(items, "HGMMA")[:4]
    for body, is_main in zip(bodies, (True, False, True, False), strict=True):
        products = [i for i, x in enumerate(body) if x.name == "HGMMA"]
        exponentials = [i for i, x in enumerate(body) if x.opcode.startswith("MUFU.EX2")]
        # 64 x 128 logits and 64 x D sums, each in 2 bytes of D or of 128
        padded = max(16, 1 << (width - 1).bit_length())
        assert sum(product_cycles(body[i]) for i in products) == 64 * padded / 16 + padded / 2 * 128 / 16
        assert len(exponentials) == (128 if online else 64)
        assert sum(x.opcode.startswith("WARPGROUP.DEPBAR") for x in body) == 2, "products must not be waited for singly"
        assert sum(x.opcode == "WARPGROUP.ARRIVE" for x in body) == 2
        assert all("0x80" in x.operands for x in body if x.name == "BAR"), "a barrier of more than one group"
        if is_main:
            # both products are in flight before the first exponential, and both groups take turns
            assert products[-1] < exponentials[0]
            assert sum(x.name == "SYNCS" for x in body) == 4
