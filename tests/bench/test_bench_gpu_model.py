"""The model of a multiprocessor on loops whose time is known, and the reader of the assembler's listing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from fastclr.bench import gpu_model
from fastclr.bench.gpu_model import MACHINES, predict, simulate, turn_of
from fastclr.bench.sass import Instruction, instructions, loops, parse
from fastclr.kernels.tile_table import Tile, gluon_tile, table_tiles

MIDDLE = MACHINES["middle"]
LISTING = """
.L_x_3:
        /*0100*/                   MUFU.EX2 R4, R5 ;                    /* 0x0000000500047308 */
                                                                        /* 0x001e640000000800 */
        /*0110*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;   /* 0x0000000500047308 */
                                                                        /* 0x000fe20000000818 */
        /*0120*/              @P1  BRA `(.L_x_3) ;                      /* 0x0000000500047947 */
                                                                        /* 0x000fea000383ffff */
"""


def exponentials(count: int) -> list[Instruction]:
    return [Instruction("MUFU.EX2", "R0, R1") for _ in range(count)]


def products(count: int) -> list[Instruction]:
    made = [Instruction("HGMMA.64x128x16.F32.BF16", "R24, gdesc[UR8], R24") for _ in range(count)]
    made[-1].operands += ", gsb0"
    return made


WAIT = Instruction("WARPGROUP.DEPBAR.LE", "gsb0, 0x0")
BARRIER = Instruction("BAR.SYNC.DEFER_BLOCKING", "0x0")


def test_listing() -> None:
    items = parse(LISTING)
    first, second, back = instructions(items)
    assert (first.opcode, first.operands, first.stall, first.written, first.read) == ("MUFU.EX2", "R4, R5", 2, 1, 7)
    assert (second.name, second.stall, back.name) == ("HGMMA", 1, "BRA")
    assert loops(items, "HGMMA") == [[first, second, back]]
    assert loops(items, "HMMA") == []


def test_one_pipe_is_the_bound() -> None:
    """A quarter of a multiprocessor starts an exponential of a warp every 8 cycles, and a product takes n / 2."""
    assert simulate(exponentials(32), 1, 1, MIDDLE) == pytest.approx(256, rel=0.02)
    for warps in (2, 4):
        assert simulate([*exponentials(32), BARRIER], warps, 1, MIDDLE) == pytest.approx(256 * warps, rel=0.15)
    assert simulate([*products(8), WAIT], 2, 2, MIDDLE) == pytest.approx(2 * 8 * 64, rel=0.05)
    assert simulate([*products(8), WAIT], 2, 2, MACHINES["pessimistic"]) == pytest.approx(1.2 * 2 * 8 * 64, rel=0.05)


def test_barriers_keep_programs_in_step_and_two_programs_overlap() -> None:
    """Exponentials wait for the products of their own program; those of another program can hide them."""
    body = [*products(8), WAIT, *exponentials(64), BARRIER]
    together = simulate(body, 2, 1, MIDDLE)
    apart = simulate(body, 2, 2, MIDDLE)
    assert together > 2 * 8 * 64 + 64 * 8
    assert apart < together - 100


@pytest.mark.parametrize(("name", "arch"), [("h200", 90), ("a100", 80)])
def test_the_page_has_the_committed_predictions(name: str, arch: int) -> None:
    root = Path(__file__).parents[2]
    contents = json.loads((root / f"benchmarks/results/modelled/{name}.json").read_text())
    found = []
    for one in contents["predictions"]:
        times = {key: {int(m): ms for m, ms in one[key].items()} for key in ("milliseconds", "floor_milliseconds")}
        found.append(gpu_model.Prediction(**one | times | {"tile": Tile(**one["tile"])}))
        tiles = vars(table_tiles(arch, one["kind"], one["width"]))
        tiles[gpu_model.GLUON] = gluon_tile(90, torch.bfloat16, min(one["width"], 128))
        assert found[-1].tile == tiles[one["kernel"]], "make bench-model"
    assert gpu_model.table(found) in (root / "docs/gpu-model.md").read_text()


def test_groups_that_take_turns_hide_their_exponentials() -> None:
    """Two groups of one program; without turns their products may end together, and then nothing runs."""
    take, give = Instruction("SYNCS.PHASECHK", "P0"), Instruction("SYNCS.ARRIVE", "RZ")
    body = [take, take, *products(16), give, WAIT, *exponentials(64)]
    assert turn_of(body) == (1, 18)
    turns = simulate(body, 2, 2, MIDDLE, turn_of(body))
    assert turns == pytest.approx(2 * 16 * 64, rel=0.03)


def test_products_of_sm_80_hold_the_tensor_cores() -> None:
    body = [Instruction("HMMA.16816.F32", "R0, R4, R8, R0")] * 32
    assert simulate(body, 2, 1, MIDDLE) == pytest.approx(2 * 32 * 8, rel=0.01)
    loads = [Instruction("LDSM.16.M88.4", "R0, [R1]")] * 4
    assert gpu_model.shared_cycles(loads, 8, 1024) == (8 * 4 * 512 + 1024) / 128


def test_prediction_of_a_shipped_kernel() -> None:
    """Between the floor and no overlap at all, and in milliseconds as many times as there are tiles."""
    found = predict("backward", "half", 128)
    assert found.spills == 0 and found.programs >= 1
    assert found.floor < found.cycles["middle"] < 4 * 1024 + 1024
    tiles = (65_536 / 128) ** 2
    ideal = found.cycles["middle"] * tiles / gpu_model.H200.sms / gpu_model.H200.clock * 1e3
    assert ideal <= found.milliseconds[65_536] < 1.2 * ideal
    assert "backward" in gpu_model.table([found])
