"""Cycles of the NT-Xent kernels on an H200, or with ``--arch 80`` an A100, modelled from their compiled instructions.

``make bench-model`` compiles every kernel and simulates its main loop, in order, on a quarter of a multiprocessor.
Nothing runs on a GPU. docs/gpu-model.md says how it was checked against published kernels, for sm_90.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton

from fastclr.bench.sass import Instruction, compile_gluon, compile_kernel, disassemble, instructions, loops
from fastclr.kernels import ntxent_backward, ntxent_forward, ntxent_gluon, ntxent_triangular, tile_table
from fastclr.kernels.tile_table import Tile
from fastclr.sources.printable import show

SHARED_BYTES, REGISTERS = 128, 65536  # of a multiprocessor: bytes a cycle of shared memory


@dataclass(frozen=True)
class Chip:
    """A GPU: FLOP/s are those that matrix products reach (under the power limit), bytes of L2 those of a cycle."""

    name: str
    arch: int
    sms: int
    clock: float
    l2_bytes: float
    shared_memory: int
    peak: dict[str, float]
    product: str  # opcode of a matrix product


H200 = Chip("H200", 90, 132, 1.75e9, 23.8, 227 * 1024, {"half": 790e12, "tf32": 395e12}, "HGMMA")
A100 = Chip("A100", 80, 108, 1.41e9, 28.0, 164 * 1024, {"half": 312e12, "tf32": 156e12}, "HMMA")
CHIPS = {chip.arch: chip for chip in (H200, A100)}
START_UP = 4000  # cycles of a program outside of its main loop
ROWS = (16_384, 65_536, 2**20)
KINDS = (("half", 128), ("half", 256), ("tf32", 128))
KERNELS = ("forward", "triangular", "backward")
GLUON = "gluon backward"  # warp-specialised; its groups of warps run free, but issue products in turns
UNIT = 128 * 128  # logits that cycles are counted for
# opcodes by the pipe that they hold, and for how many cycles an instruction of a warp does; all others only issue
PIPES = {
    ("fma", 1.0): "FFMA FADD FMUL IMAD",
    ("alu", 2.0): "IADD3 LOP3 LEA SHF PRMT SEL FSEL FMNMX FSETP ISETP PLOP3 MOV VIADD VIADDMNMX VIMNMX P2R R2P FSET",
    ("xu", 8.0): "MUFU I2F F2I POPC",
    ("convert", 2.0): "F2FP F2F",
    ("memory", 4.0): "LDS STS STSM ATOMS SHFL LDG STG RED ATOMG",
    ("memory", 8.0): "LDSM",
    ("memory", 16.0): "LDGSTS",
    ("tensor", 8.0): "HMMA",
}
PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}
LATENCY = {"xu": 20, "memory": 30}


@dataclass(frozen=True)
class Machine:
    """What of the machine is not known: how deep matrix products queue up, and how fast they are under load."""

    queue: int
    slowdown: float
    barrier: int = 24
    fence: int = 40
    product: int = 32  # cycles from the end of a matrix product to what waits for it


MACHINES = {"optimistic": Machine(8, 1.0), "middle": Machine(2, 1.0), "pessimistic": Machine(2, 1.2)}


def product_cycles(instruction: Instruction) -> float:
    """Cycles of the tensor cores: on sm_90 for ``64 x n`` results and 32 bytes of each row."""
    if instruction.name == "HMMA":
        return 8.0
    found = re.search(r"64x(\d+)x\d+", instruction.opcode)
    return int(found[1]) / 2 if found else 0.0


def pipe_of(x: Instruction) -> tuple[str, float]:
    """The pipe that an instruction holds, "" for none, and for how long."""
    if x.name.startswith("U") or x.name == "R2UR":
        return "uniform", 2.0
    return ("", 0.0) if "[RZ]" in x.operands else PIPE_OF.get(x.name, ("", 0.0))


def allowed_groups(x: Instruction) -> int:
    """How many groups of matrix products may be in flight after a wait."""
    return int(x.operands.split(",")[1], 16)


@dataclass
class Warp:
    """Where a warp stands, and when what it waits for ends."""

    program: int
    ready: float
    place: int = 0
    round: int = 0
    blocked: bool = False
    scoreboards: list[float] = field(default_factory=lambda: [0.0] * 8)
    products: list[float] = field(default_factory=list)
    groups: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)


def earliest(warp: Warp, x: Instruction, free: dict[str, float], now: float, machine: Machine) -> float:
    """When the warp's next instruction can issue."""
    at = max([warp.ready, *(warp.scoreboards[s] for s in range(6) if x.waits >> s & 1)])
    at = max(at, free.get(pipe_of(x)[0], 0.0))
    if x.name == "HGMMA":
        warp.products = [end for end in warp.products if end > now]
        if len(warp.products) >= machine.queue:
            at = max(at, sorted(warp.products)[-machine.queue])
    if x.opcode.startswith("WARPGROUP.DEPBAR") and len(warp.groups) > allowed_groups(x):
        at = max(at, sorted(warp.groups)[-allowed_groups(x) - 1] + machine.product)
    return at


def turn_of(body: list[Instruction]) -> tuple[int, int]:
    """Where a group of warps waits for its turn, behind its wait for a tile, and where it passes the turn on."""
    barriers = [i for i, x in enumerate(body) if x.name == "SYNCS"]
    return barriers[1], barriers[2]


def simulate(
    body: list[Instruction], warps: int, programs: int, machine: Machine, turn: tuple[int, int] | None = None
) -> float:
    """Cycles per round of a loop for ``warps`` warps of ``programs`` programs on a quarter of a multiprocessor.

    With a turn, two groups of warps of one program take the place of two programs.
    """
    rounds = 24

    def has_turn(w: Warp) -> bool:
        if turn is None or w.place != turn[0]:
            return True
        passed = [other.round + (other.place > turn[1]) for other in state if other.program != w.program]
        return min(passed) >= w.round + w.program

    state = [Warp(i % programs, 701.0 * (i % programs)) for i in range(warps)]
    free: dict[str, float] = {}
    now, tensor, last = 0.0, 0.0, state[0]
    while True:
        # the warp that issued last goes first, then the oldest
        waiting = [w for w in [last, *state] if not w.blocked and w.round < rounds and has_turn(w)]
        if not waiting:
            break
        times = [(earliest(w, body[w.place], free, now, machine), i) for i, w in enumerate(waiting)]
        chosen = next((i for at, i in times if at <= now), None)
        if chosen is None:
            now = min(times)[0]
            continue
        warp = last = waiting[chosen]
        x = body[warp.place]
        pipe, busy = pipe_of(x)
        free[pipe] = now + busy
        fence = machine.fence if x.name == "MEMBAR" else LATENCY.get(pipe, 12)
        for scoreboard in (x.written, x.read):
            warp.scoreboards[scoreboard] = max(warp.scoreboards[scoreboard], now + fence)
        if x.name == "HGMMA":
            tensor = max(now + 4, tensor) + product_cycles(x) * machine.slowdown
            warp.products.append(tensor)
            if "gsb0" in x.operands:
                warp.groups.append(tensor)
        if x.opcode.startswith("WARPGROUP.DEPBAR"):
            warp.groups = sorted(warp.groups)[max(0, len(warp.groups) - allowed_groups(x)) :]
        warp.ready = now + max(1, x.stall)
        if turn and warp.place == turn[1]:
            for other in state:
                if other.place == turn[0]:
                    other.ready = max(other.ready, now + machine.barrier)
        if x.name == "BAR":
            warp.blocked = True
            mates = [w for w in state if w.program == warp.program]
            if all(w.blocked or w.round == rounds for w in mates):
                for mate in mates:
                    mate.blocked, mate.ready = False, max(mate.ready, now + machine.barrier)
        warp.place = (warp.place + 1) % len(body)
        if warp.place == 0:
            warp.round += 1
            warp.ends.append(now)
        now += 1
    # while all of them run: warps that may go first are done before the others
    first, last_end = min(w.ends[rounds // 3] for w in state), min(w.ends[-1] for w in state)
    return (last_end - first) * warps / sum(first < end <= last_end for w in state for end in w.ends)


def shared_cycles(body: list[Instruction], groups: int, copied: int) -> float:
    """Cycles in which shared memory serves the matrix products, loads and stores of a round, and what is copied in."""
    served = 0.0
    for x in body:
        if x.name == "HGMMA":  # the left operand comes from shared memory or from registers
            served += 64 * product_cycles(x) + (2048 if re.match(r"R\d+, gdesc", x.operands) else 0)
        elif x.name == "LDSM":
            served += 128 * (4 if ".4" in x.opcode else 2 if ".2" in x.opcode else 1)
        elif x.name in ("LDS", "STS") and "[RZ]" not in x.operands:
            served += 128 * (4 if ".128" in x.opcode else 2 if ".64" in x.opcode else 1)
    return (served * groups + copied) / SHARED_BYTES


@dataclass
class Prediction:
    """One kernel of one kind of rows; cycles are those of a multiprocessor for 128 x 128 logits."""

    kernel: str
    kind: str
    width: int
    tile: Tile
    registers: int
    spills: int
    programs: int
    cycles: dict[str, float]
    floor: float  # cycles in which the tensor cores multiply at the rate that they reach under the power limit
    milliseconds: dict[int, float]
    floor_milliseconds: dict[int, float]


def ntxent_constants(kernel: str, width: int, tile: Tile, precision: str) -> tuple[Any, dict[str, Any]]:
    """The function of a kernel and its compile-time arguments, as the common path launches it."""
    constants: dict[str, Any] = {"D": width, "PRECISION": precision, "GUARDED": False}
    constants |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_D": tile.block_d}
    if kernel == "triangular":
        return ntxent_triangular.ntxent_triangular_kernel, constants
    if kernel == "forward":
        return ntxent_forward.ntxent_fwd_kernel, constants | {"IS_ONLINE": False, "SPLIT": False}
    constants |= {"IS_ONLINE": False, "HAS_WEIGHT": False}
    if kernel == GLUON:
        del constants["PRECISION"]
        return ntxent_gluon.ntxent_bwd_gluon_kernel, constants | {"STAGES": tile.num_stages}
    return ntxent_backward.ntxent_bwd_kernel, constants | {"BLOCK_OUT": tile.block_d}


def predict(kernel: str, kind: str, width: int, tile: Tile | None = None, chip: Chip = H200) -> Prediction:
    """Compile a kernel and simulate the loop over tiles without masks."""
    gluon, half = kernel == GLUON, kind == "half"
    if tile is None:
        shipped = tile_table.table_tiles(chip.arch, kind, width)
        tile = tile_table.gluon_tile(90, torch.bfloat16, width) if gluon else getattr(shipped, kernel)
    function, constants = ntxent_constants(kernel, width, tile, "ieee" if half else kind)
    if gluon:
        compiled = compile_gluon(function, constants, "bf16", tile, ntxent_gluon.START_REGISTERS)
    else:
        compiled = compile_kernel(function, constants, "bf16" if half else "fp32", chip.arch, tile)
    items, registers, _ = disassemble(compiled)
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * compiled.metadata.num_warps)
    programs = min(by_registers, chip.shared_memory // (compiled.metadata.shared + 1024))
    body, groups = loops(items, chip.product)[0], 2 if gluon else tile.num_warps // 4
    products = sum(map(product_cycles, body)) * groups
    row_bytes = width * (2 if half else 4)
    twice = 2 if kernel in ("backward", GLUON) else 1
    one_tile = tile.block_m * tile.block_n * row_bytes / (4096 if chip is H200 else 2048) * twice
    tiles = max(1, round(products / one_tile))  # a loop may be unrolled
    copied = row_bytes * (tile.block_m if kernel == "triangular" else tile.block_n) * tiles
    share = tile.block_m * tile.block_n * tiles * programs / UNIT
    readers = groups if chip is H200 else tile.num_warps  # a product of sm_80 has its operands loaded, warp by warp
    bound = max(shared_cycles(body, readers, copied), copied / chip.l2_bytes) * programs
    scopes, turn = (2, turn_of(body)) if gluon else (programs, None)
    least = max(bound, products * programs)
    cycles = {
        name: max(simulate(body, groups * programs, scopes, machine, turn), least) / share
        for name, machine in MACHINES.items()
    }
    flops = 2 * UNIT * width * twice
    return Prediction(
        kernel,
        kind,
        width,
        tile,
        registers,
        sum(x.name in ("LDL", "STL") for x in instructions(items)),
        programs,
        cycles,
        flops / chip.peak[kind] * chip.clock * chip.sms,
        {m: milliseconds(kernel, m, tile, programs, cycles[basis(kernel)], chip) for m in ROWS},
        {m: flops * m * m / UNIT / (2 if kernel == "triangular" else 1) / chip.peak[kind] * 1e3 for m in ROWS},
    )


def basis(kernel: str) -> str:
    """Whose cycles count: published kernels whose warps run free took 1.15 to 1.3 times as long as the middle."""
    return "pessimistic" if kernel == GLUON else "middle"


def milliseconds(kernel: str, rows: int, tile: Tile, programs: int, cycles: float, chip: Chip) -> float:
    """Time of a launch: its programs, in order, each on the slot that is free first."""
    per_tile = cycles * tile.block_m * tile.block_n / UNIT * programs
    if kernel == "triangular":
        chunk = tile_table.triangular_chunk(torch.device("cpu"), tile, rows, sms=chip.sms)
        last = (rows - 1) // tile.block_n * tile.block_n
        heights = [-(-min(col + tile.block_n, rows) // tile.block_m) for col in range(last, -1, -tile.block_n)]
        counts = [min(chunk, h - at) for at in range(0, rows // tile.block_m, chunk) for h in heights if h > at]
    else:
        row_tiles = 2 * -(-(rows // 2) // tile.block_m)
        splits, count = tile_table.split_columns(torch.device("cpu"), tile, row_tiles, rows, None, sms=chip.sms)
        counts = [count] * (row_tiles * splits)
    busy = [0.0] * (chip.sms * programs)
    for count in counts:
        heapq.heapreplace(busy, busy[0] + START_UP + count * per_tile)
    return max(busy) / chip.clock * 1e3


def table(predictions: list[Prediction]) -> str:
    """The predictions as Markdown."""
    lines = [
        "| rows | kernel | tile, warps, stages | programs | registers | cycles | floor | share "
        "| " + " | ".join(f"ms, M = {m:,}" for m in ROWS) + " |",
        "|---|---|---|---|---|---|---|---|" + "---|" * len(ROWS),
    ]
    for p in predictions:
        rows = f"{'bf16' if p.kind == 'half' else p.kind}, D = {p.width}"
        spread = "/".join(f"{p.cycles[name]:,.0f}" for name in MACHINES)
        times = " | ".join(f"{p.milliseconds[m]:.3g} ({p.floor_milliseconds[m]:.3g})" for m in ROWS)
        tile = f"{p.tile.block_m} x {p.tile.block_n}, {p.tile.num_warps}, {p.tile.num_stages}"
        share = p.floor / p.cycles[basis(p.kernel)]
        lines.append(
            f"| {rows} | {p.kernel} | {tile} | {p.programs} | {p.registers} | {spread} | {p.floor:,.0f} "
            f"| {share:.0%} | {times} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, print the table and write the JSON."""
    parser = argparse.ArgumentParser(prog="fastclr.bench.gpu_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the predictions to this file")
    parser.add_argument("--arch", type=int, choices=sorted(CHIPS), default=90, help="compute capability (default 90)")
    options = parser.parse_args(arguments)
    chip = CHIPS[options.arch]
    predictions = [predict(kernel, kind, width, chip=chip) for kind, width in KINDS for kernel in KERNELS]
    if chip is H200:
        predictions.insert(len(KERNELS), predict(GLUON, *KINDS[0]))
    show(table(predictions))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        said = f"{chip.name}, sm_{chip.arch}; nothing was measured"
        contents: dict[str, Any] = {"modelled": said, "triton": triton.__version__}
        contents["predictions"] = [asdict(p) for p in predictions]
        options.json.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
