"""Tiles of the NT-Xent kernels for sm_90 that a model chose without a GPU, and their rivals: which is faster?

Rivals are the tiles before the model's choice, one that it could not decide on, and the warp-specialised backward. Both
results are compared before they are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from fastclr.kernels.tile_table import Tile, gluon_tile, table_tiles
from fastclr.kernels.tune import DTYPES, GLUON, launchers, milliseconds

ARCH, ROWS, REHEARSED_ROWS, REHEARSED_WIDTH = 90, 65536, 64, 16
LIMIT = 1e-2


@dataclass(frozen=True)
class Comparison:
    """Two ways to run one kernel on the same rows; without a tile the rival is the warp-specialised backward."""

    kernel: str
    kind: str
    width: int
    rival: Tile | None

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.kernel}{' and gluon' if self.rival is None else ''}, {self.kind}, D {self.width}"

    def runs(self, rows: int, width: int, device: torch.device) -> dict[str, tuple[Tile, Callable[[], Tensor]]]:
        """The tile and the launch of both."""
        found = launchers(rows, width, self.kind, device)
        shipped: Tile = getattr(table_tiles(ARCH, self.kind, width), self.kernel)
        if self.rival is None:
            kernel, rival = GLUON, gluon_tile(ARCH, DTYPES[self.kind], width)
        else:
            kernel, rival = self.kernel, replace(self.rival, block_d=shipped.block_d)
        both = {"shipped": (self.kernel, shipped), "rival": (kernel, rival)}
        return {name: (tile, lambda k=kernel, t=tile: found[k](t)) for name, (kernel, tile) in both.items()}

    def compile(self, device: torch.device) -> None:
        """Launch both once."""
        for _, run in self.runs(ROWS, self.width, device).values():
            run()

    def run(self, device: torch.device, rehearse: bool = False) -> dict[str, object]:
        """An entry with both median times in milliseconds; its status is `wrong` if the results differ."""
        rows, width = (REHEARSED_ROWS, REHEARSED_WIDTH) if rehearse else (ROWS, self.width)
        both = self.runs(rows, width, device)
        first, second = (run().double() for _, run in both.values())
        error = float((first - second).norm() / first.norm())
        found = {name: {"ms": median(run, device), "tile": asdict(tile)} for name, (tile, run) in both.items()}
        return {"status": "ok" if error < LIMIT else "wrong", "error": error, "limit": LIMIT, "rows": rows, **found}


def median(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds by the device's events; in a rehearsal by the clock, of one call."""
    if device.type == "cuda":
        return milliseconds(run, 15)
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


COMPARISONS = (
    Comparison("triangular", "half", 128, Tile(128, 128, 128, 8, 3, 1)),
    Comparison("forward", "half", 128, Tile(128, 128, 128, 8, 3, 1)),
    Comparison("triangular", "half", 256, Tile(64, 128, 256, 8, 3, 1)),
    Comparison("forward", "half", 256, Tile(128, 64, 256, 8, 3, 1)),
    Comparison("triangular", "tf32", 128, Tile(64, 128, 128, 8, 3, 1)),
    Comparison("forward", "tf32", 128, Tile(128, 64, 128, 8, 3, 1)),
    Comparison("backward", "half", 128, Tile(64, 128, 128, 4, 2, 2)),
    Comparison("backward", "half", 128, None),
)


def comparisons(rehearse: bool = False) -> list[Comparison]:
    """All comparisons, the most important first and the backward that has never run last; few for a rehearsal."""
    # the interpreter knows neither Gluon nor bfloat16
    return [c for c in COMPARISONS if c.kind == "tf32" or not rehearse]
