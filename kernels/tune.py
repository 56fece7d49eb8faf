"""Time candidates for the tile table on this machine's GPU: ``python -m fastclr.kernels.tune --kind half``.

Prints the fastest candidates per kernel, and at the end the row for ``fastclr.kernels.tile_table.TABLE``. Before a row
ships, ``tests/compile_only`` must pass with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, astuple, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from .tile_table import TABLE, Tile, device_traits, gluon_tile, table_tiles

KERNELS = ("forward", "triangular", "backward")
# the warp-specialised backward, only when asked for: it has never run. its result must be that of the backward
GLUON = "gluon"
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "tf32x3": torch.float32, "ieee": torch.float32}
BLOCKS = (
    *product((32, 64), repeat=2),
    *((64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128)),
)


def candidates(shipped: Tile, triangular: bool) -> Iterator[Tile]:
    """The shipped tile first, then others with the same feature chunk."""
    yield shipped
    for (block_m, block_n), num_warps, num_stages in product(BLOCKS, (4, 8), (2, 3, 4)):
        tile = replace(shipped, block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=num_stages)
        if tile != shipped and not (triangular and block_n % block_m != 0):
            yield tile


def gluon_candidates(shipped: Tile) -> Iterator[Tile]:
    """Tiles of the warp-specialised backward, whose groups take 64 rows each."""
    yield shipped
    for block_n, stages in product((64, 128), (2, 3, 4, 6)):
        if (tile := replace(shipped, block_n=block_n, num_stages=stages)) != shipped:
            yield tile


def gpu() -> torch.device | None:
    """The current CUDA device, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def milliseconds(run: Callable[[], object], repeats: int = 7) -> float:
    """Median time of ``run`` on the device."""
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def attempt(run: Callable[[Tile], torch.Tensor], tile: Tile) -> torch.Tensor | str:
    """The result of a tile in fp32, or the reason why it cannot run here."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        return run(tile).float()
    except (CompilationError, OutOfResources, PTXASError) as error:
        return f"cannot run ({type(error).__name__})"


def rank(
    run: Callable[[Tile], torch.Tensor], tiles: Iterable[Tile], expected: torch.Tensor | None = None
) -> list[tuple[float, Tile]]:
    """Times of the tiles that run here and agree with what is expected, or with the first, fastest first."""
    times: list[tuple[float, Tile]] = []
    for tile in tiles:
        result = attempt(run, tile)
        if isinstance(result, str):
            print(f"  {result}: {tile}")
            continue
        expected = result if expected is None else expected
        error_norm = float((result - expected).norm() / expected.norm())
        if not error_norm < 1e-2:
            print(f"  wrong result (relative error {error_norm:.1e}): {tile}")
            continue
        times.append((milliseconds(partial(run, tile)), tile))
    return sorted(times, key=lambda pair: pair[0])


def launchers(rows: int, width: int, kind: str, device: torch.device) -> dict[str, Callable[[Tile], torch.Tensor]]:
    """For each kernel a function from a tile to the kernel's result, on ``rows / 2`` random pairs."""
    from .ntxent_backward import ntxent_bwd
    from .ntxent_forward import ntxent_fwd
    from .ntxent_normalize import ntxent_prologue

    n = max(1, rows // 2)
    generator = torch.Generator(device).manual_seed(0)
    z0, z1 = (torch.randn(n, width, device=device, generator=generator).to(DTYPES[kind]) for _ in range(2))
    tau, scale = torch.tensor(0.1, device=device), torch.tensor(1.0 / n, device=device)
    z, inv_norm, positive = ntxent_prologue(z0, z1, True, kind)
    loss, lse, _, _ = ntxent_fwd(z, z, positive, tau, 0, "fixed", kind, True, False)

    def forward(tile: Tile, deterministic: bool) -> torch.Tensor:
        triangular = not deterministic
        return ntxent_fwd(
            z, z, positive, tau, 0, "fixed", kind, deterministic, False, tile=tile, triangular=triangular
        )[0]

    saved = (z0, z1, z, z, inv_norm, positive, loss, lse, None, scale, tau, 0, True, "fixed", kind)

    def gluon(tile: Tile) -> torch.Tensor:
        from . import ntxent_gluon

        return ntxent_gluon.ntxent_bwd(*saved, tile=tile)[0]

    return {
        "forward": lambda tile: forward(tile, True),
        "triangular": lambda tile: forward(tile, False),
        "backward": lambda tile: ntxent_bwd(*saved, tile=tile)[0],
        GLUON: gluon,
    }


def compile_beforehand(arguments: list[str], workers: int) -> None:
    """Run every candidate once, shared among ``workers`` processes, to fill Triton's cache on disk.

    Compiling a candidate takes seconds of one core, measuring it milliseconds.
    """
    command = [sys.executable, "-m", "fastclr.kernels.tune", *arguments, "--share"]
    shares = [subprocess.Popen([*command, f"{i}/{workers}"], stdout=subprocess.DEVNULL) for i in range(workers)]
    if failed := [share.args for share in shares if share.wait() != 0]:
        print(f"  {len(failed)} of {workers} processes failed: their candidates are compiled on first use instead")


def main(arguments: list[str]) -> None:
    """Parse the command line and print the ranking."""
    parser = argparse.ArgumentParser(prog="python -m fastclr.kernels.tune", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kind", choices=sorted(DTYPES), default="half", help="half is bf16; the others multiply fp32 rows"
    )
    parser.add_argument("--width", type=int, default=128, help="features per row (default 128)")
    parser.add_argument("--rows", type=int, default=65536, help="rows of both views together (default 65536)")
    parser.add_argument("--kernels", nargs="+", choices=(*KERNELS, GLUON), default=KERNELS)
    parser.add_argument("--show", type=int, default=5, help="candidates to print per kernel (default 5)")
    parser.add_argument("--json", type=Path, help="also write all times to this file")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # i/n: only compile every n-th candidate, starting at i
    args = parser.parse_args(arguments)
    device = gpu()
    if device is None:
        parser.exit(1, "tune: no CUDA device: the tiles can only be timed on a GPU\n")
    runs = launchers(args.rows, args.width, args.kind, device)
    arch, _ = device_traits(device)
    tiles = table_tiles(arch, args.kind, args.width)
    shipped_tiles = {name: getattr(tiles, name) for name in KERNELS}
    if GLUON in args.kernels:
        shipped_tiles[GLUON] = gluon_tile(arch, DTYPES[args.kind], args.width)
    plan = [
        (name, tile)
        for name in args.kernels
        for tile in (
            gluon_candidates(shipped_tiles[name])
            if name == GLUON
            else candidates(shipped_tiles[name], name == "triangular")
        )
    ]
    if args.share:
        index, count = map(int, args.share.split("/"))
        for name, tile in plan[index::count]:
            attempt(runs[name], tile)
        return
    compile_beforehand(arguments, min(len(plan), len(os.sched_getaffinity(0))))
    times: dict[str, list[tuple[float, Tile]]] = {}
    for name in args.kernels:
        shipped = shipped_tiles[name]
        print(f"{name}: {args.rows} rows of {args.width} features, {args.kind}; shipped {shipped}")
        expected = runs["backward"](shipped_tiles["backward"]).float() if name == GLUON else None
        times[name] = rank(runs[name], [tile for kernel, tile in plan if kernel == name], expected)
        for time, tile in times[name][: args.show]:
            print(f"  {time:9.3f} ms  {tile}{'  (shipped)' if tile == shipped else ''}")
        if times[name] and name != GLUON:
            tiles = replace(tiles, **{name: times[name][0][1]})
    row = ", ".join(f"Tile{astuple(tile)}" for tile in vars(tiles).values() if tile)
    known = sorted({(a, k, w) for a, k, w in TABLE if k == args.kind})
    print(f"rows of this kind: {known}\n({arch}, {args.kind!r}, {args.width}): Tiles({row}),")
    if args.json:
        found = {name: [{"ms": time, **asdict(tile)} for time, tile in ranked] for name, ranked in times.items()}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
        contents = {"gpu": name, "torch": torch.__version__, "rows": args.rows}
        contents |= {"width": args.width, "kind": args.kind, "tune": found}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
