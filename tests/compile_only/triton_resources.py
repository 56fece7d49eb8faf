"""Compile a Triton kernel without a GPU, and read its resources from the binary.

``python tests/compile_only/triton_resources.py`` prints the table of every shipped configuration as Markdown.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import triton

from fastclr.bench.sass import compile_kernel, run_tool
from fastclr.kernels import tile_table
from fastclr.kernels.ntxent_backward import ntxent_bwd_kernel, ntxent_factor_kernel
from fastclr.kernels.ntxent_forward import ntxent_fwd_kernel
from fastclr.kernels.ntxent_loss import ntxent_loss_kernel
from fastclr.kernels.ntxent_normalize import ntxent_prologue_kernel
from fastclr.kernels.ntxent_project import ntxent_project_kernel
from fastclr.kernels.ntxent_stats import ntxent_stats_kernel
from fastclr.kernels.ntxent_triangular import ntxent_triangular_kernel
from fastclr.kernels.tile_table import ANY, Tile

TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
# widths that represent a row of the table: the widest it serves, and for ANY some that take several chunks
WIDTHS = {
    "half": {128: [128], 256: [256], ANY: [1024]},
    "tf32": {128: [128], ANY: [1024]},
    "tf32x3": {ANY: [128, 1024]},
    "ieee": {ANY: [128, 1024]},
}
SHARED_LIMIT = {80: 99, 90: 227, 100: 227}


@dataclass(frozen=True)
class Case:
    """One kernel for one row of the table, as launched."""

    kernel: str
    arch: int
    dtype: str
    precision: str
    width: int
    shift: str = "fixed"
    guarded: bool = False

    def tile(self) -> Tile:
        """The tile of this case in the shipped table."""
        tiles = tile_table.table_tiles(self.arch, self.precision if self.dtype == "float32" else "half", self.width)
        kinds = {"triangular": tiles.triangular, "backward": tiles.backward, "stats": tiles.heavy_forward}
        return kinds.get(self.kernel, tiles.forward)


@dataclass(frozen=True)
class Resources:
    """A program's resources: registers per thread, bytes of stack and shared memory, and its matrix instructions."""

    registers: int
    stack: int
    shared: int
    spills: int
    matrix_ops: dict[str, int]
    exponentials: int

    def programs_per_sm(self, num_warps: int, arch: int) -> int:
        """Programs per multiprocessor: registers are allocated in blocks of 8, each program reserves 1 KiB shared."""
        by_registers = 65536 // (-(-self.registers // 8) * 8 * 32 * num_warps)
        return min(by_registers, SHARED_LIMIT[arch] * 1024 // (self.shared + 1024))


def shipped_cases() -> Iterator[Case]:
    """Every kernel of every row of the table with the fixed shift, then with the online one and weights.

    fp16 shares the rows of bf16; it represents the variant that first checks whether the fixed shift is safe.
    """
    for arch, kind, widest in tile_table.TABLE:
        kernels = ["forward", "triangular", "backward", *(["stats"] if arch == 90 and kind != "ieee" else [])]
        dtype, precision = ("bfloat16", "ieee") if kind == "half" else ("float32", kind)
        for kernel in kernels:
            for width in WIDTHS[kind][widest]:
                # among chunked programs only the backward depends on the width
                if width == 128 and widest == ANY and kernel != "backward":
                    continue
                yield Case(kernel, arch, dtype, precision, width)
                if kernel in ("forward", "backward"):
                    yield Case(kernel, arch, dtype, precision, width, shift="online")
                if kind == "half" and kernel != "stats":
                    yield Case(kernel, arch, "float16", precision, width, guarded=True)


def compile_case(case: Case, tile: Tile | None = None) -> Resources:
    """Build the binary of ``case`` and read it."""
    tile = tile or case.tile()
    common = {"D": case.width, "BLOCK_D": tile.block_d, "PRECISION": case.precision}
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}
    shifts = {"IS_ONLINE": case.shift == "online", "GUARDED": case.guarded}
    kernel, constants = {
        "forward": (ntxent_fwd_kernel, {**blocks, **shifts, "SPLIT": False}),
        "stats": (ntxent_stats_kernel, blocks),
        "triangular": (ntxent_triangular_kernel, {**blocks, "GUARDED": case.guarded}),
        "backward": (
            ntxent_bwd_kernel,
            {
                **blocks,
                **shifts,
                "BLOCK_OUT": tile.block_d if case.width <= tile.block_d else tile.block_out,
                "HAS_WEIGHT": case.shift == "online",
            },
        ),
    }[case.kernel]
    return inspect_binary(compile_kernel(kernel, {**common, **constants}, TYPES[case.dtype], case.arch, tile))


def compile_row_kernel(kernel: str, arch: int, dtype: str, width: int) -> Resources:
    """Build the binary of one of the kernels that process each row once."""
    tile = tile_table.rows_tile(width)
    sizes = {"D": width, "BLOCK_M": tile.block_m, "BLOCK_D": tile.block_d, "NORMALIZE": True}
    strides = {"stride_0d": 1, "stride_1d": 1}
    function, constants = {
        "prologue": (ntxent_prologue_kernel, {**sizes, **strides}),
        "project": (ntxent_project_kernel, {**sizes, **strides, "HAS_WEIGHT": True}),
        "loss": (ntxent_loss_kernel, {"IS_ONLINE": True, "GUARDED": True, "BLOCK_M": 128}),
        "factor": (ntxent_factor_kernel, {"HAS_WEIGHT": True, "BLOCK_N": 1024}),
    }[kernel]
    return inspect_binary(compile_kernel(function, constants, TYPES[dtype], arch, tile))


def inspect_binary(compiled: Any) -> Resources:
    """Registers and stack from the resource section, instructions from the disassembly."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
        listing = run_tool("nvdisasm", "-c", "-ndf", file.name)
    opcodes = Counter(re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]+)", listing, re.M))
    names: Counter[str] = Counter()
    for opcode, count in opcodes.items():
        names[opcode.split(".")[0]] += count
    return Resources(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),
        shared=compiled.metadata.shared,
        spills=names["LDL"] + names["STL"],
        matrix_ops={name: count for name, count in sorted(names.items()) if name.endswith("MMA")},
        exponentials=sum(count for opcode, count in opcodes.items() if opcode.startswith("MUFU.EX2")),
    )


def check_fits(used: Resources, tile: Tile, arch: int, dtype: str, precision: str) -> None:
    """Fail on spills, on more registers or shared memory than there are, and on the wrong kind of multiplication."""
    assert (used.stack, used.spills) == (0, 0), "registers spill to memory"
    assert used.registers * 32 * tile.num_warps <= 65536
    assert used.shared <= SHARED_LIMIT[arch] * 1024
    if dtype == "float32" and precision == "ieee":
        assert not used.matrix_ops, "ieee must not round to the tensor cores' formats"
    else:
        assert used.matrix_ops, "no tensor cores"


def compile_all(cases: list[Case], workers: int = 2) -> list[Resources]:
    """Resources of all cases, compiled two at a time, since a compilation is single-threaded."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(compile_case, cases))


def markdown_table(cases: list[Case], results: list[Resources]) -> str:
    """One line per kernel, dtype and row of the table: the fixed shift, which is the common path."""
    lines = [
        f"Triton {triton.__version__}. The tile is rows x columns x features at a time.",
        "",
        "| GPU | rows | D | kernel | tile | warps | stages | registers | shared memory | matrix instruction |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, used in zip(cases, results, strict=True):
        tile = case.tile()
        rows = case.dtype if case.dtype != "float32" else f"float32, {case.precision}"
        lines.append(
            f"| sm_{case.arch} | {rows} | {case.width} | {case.kernel} "
            f"| {tile.block_m} x {tile.block_n} x {tile.block_d} | {tile.num_warps} | {tile.num_stages} "
            f"| {used.registers} | {used.shared / 1024:.0f} KiB "
            f"| {', '.join(used.matrix_ops) or 'none (FFMA)'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    common = [case for case in shipped_cases() if case.shift == "fixed" and case.dtype != "float16"]
    print(markdown_table(common, compile_all(common)), end="")
