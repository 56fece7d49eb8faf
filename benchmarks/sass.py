"""SASS of a Triton kernel that was compiled without a GPU: its instructions with their scheduling, and its loops."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastclr.kernels.tile_table import Tile

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# tensors of rows; those of ids are int64, all others float32
ROWS = {"z", "z0", "z1", "dz0", "dz1", "columns", "q", "k"}
INTEGERS = {"n", "num_cols", "count", "offset", "ranks", "splits"}
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
FIRST_HALF = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+\{?\s*(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;\s*/\* 0x[0-9a-f]{16} \*/"
)
SECOND_HALF = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")
BACK = re.compile(r"`\((\.L_x_\d+)\)")


@dataclass
class Instruction:
    """One instruction, and what the assembler says about when the next one may issue."""

    opcode: str
    operands: str
    stall: int = 1  # cycles before the next instruction
    written: int = 7  # scoreboard that is released when the result is there; 7 is none
    read: int = 7  # scoreboard that is released when the operands are read
    waits: int = 0  # mask of the scoreboards that must be free

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".")[0]


def compile_kernel(kernel: Any, constants: dict[str, Any], row_type: str, arch: int, tile: Tile) -> Any:
    """Compile for ``sm_arch``; pointers are aligned to 16 bytes, as torch aligns them, and so are rows.

    ``row_type`` is Triton's name for the dtype of the rows, and the tile tells the numbers of warps and stages.
    """
    signature, attributes = describe_arguments(kernel, constants, row_type)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def compile_gluon(kernel: Any, constants: dict[str, Any], row_type: str, tile: Tile, registers: int) -> Any:
    """The same for a kernel in Gluon, whose rows are tensor descriptors, for sm_90."""
    from triton.experimental.gluon._runtime import GluonASTSource
    from triton.experimental.gluon.language import NVMMASharedLayout

    layout = NVMMASharedLayout(swizzle_byte_width=min(128, 2 * tile.block_d), element_bitwidth=16, rank=2)
    signature, attributes = describe_arguments(kernel, constants, row_type)
    for index, (name, rows) in enumerate((("z", tile.block_m), ("columns", tile.block_n))):
        signature[name] = f"tensordesc<{row_type}[{rows},{tile.block_d}],{layout!r}>"
        del attributes[index,]
    source = GluonASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tile.num_warps, "maxnreg": registers}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def describe_arguments(
    kernel: Any, constants: dict[str, Any], row_type: str
) -> tuple[dict[str, str], dict[tuple[int], list[list[Any]]]]:
    """Types of a kernel's arguments, and which are aligned."""
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith("stride"):
            signature[name], attributes[index,] = "i32", [["tt.divisibility", 16]]
        elif name in INTEGERS or name.startswith("tiles_per"):
            signature[name] = "i32"
        else:
            kind = row_type if name in ROWS else "i64" if name.endswith("_ids") else "fp32"
            signature[name], attributes[index,] = "*" + kind, [["tt.divisibility", 16]]
    return signature, attributes


def run_tool(name: str, *arguments: str) -> str:
    """What one of the binary tools that Triton brings prints."""
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def disassemble(compiled: Any) -> tuple[list[Instruction | str], int, int]:
    """Instructions and labels of a compiled kernel in order, its registers per thread, and bytes of stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
        listing = run_tool("nvdisasm", "-c", "-hex", "-ndf", file.name)  # no analysis of data flow
    numbers = [int(found) for found in re.findall(r"(?:REG|STACK):(\d+)", usage)]
    return parse(listing), numbers[0], numbers[1]


def parse(listing: str) -> list[Instruction | str]:
    """Instructions and labels of a listing with encodings, two lines of 64 bits an instruction."""
    items: list[Instruction | str] = []
    for line in listing.splitlines():
        if found := LABEL.match(line):
            items.append(found[1])
        elif found := FIRST_HALF.match(line):
            items.append(Instruction(found[2], found[3]))
        elif (found := SECOND_HALF.match(line)) and items and isinstance(items[-1], Instruction):
            control = int(found[1], 16) >> 41  # bits 105 to 125 of 128
            last = items[-1]
            last.stall, last.written, last.read = control & 15, control >> 5 & 7, control >> 8 & 7
            last.waits = control >> 11 & 63
    return items


def instructions(items: list[Instruction | str]) -> list[Instruction]:
    """Without the labels."""
    return [item for item in items if isinstance(item, Instruction)]


def loops(items: list[Instruction | str], opcode: str) -> list[list[Instruction]]:
    """Bodies of the innermost loops that have an instruction of this opcode, in order."""
    places = {item: index for index, item in enumerate(items) if isinstance(item, str)}
    spans = []
    for index, item in enumerate(items):
        if isinstance(item, Instruction) and item.name == "BRA" and (found := BACK.search(item.operands)):
            start = places.get(found[1], index)
            if start < index and any(x.name == opcode for x in instructions(items[start:index])):
                spans.append((start, index))
    inner = [(a, b) for a, b in spans if not any((c, d) != (a, b) and c >= a and d <= b for c, d in spans)]
    return [instructions(items[a : b + 1]) for a, b in inner]
