"""Time candidates for the table of tiles on the GPU at hand: ``python -m fastclr.kernels.tune --kind half``.

Prints, per kernel, the fastest candidates, and at the end the row for ``fastclr.kernels.configs.TABLE``. Before a row
ships, ``tests/compile_only`` has to accept it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from itertools import product

import torch

from .configs import TABLE, Tile, device_traits, table_tiles

DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "tf32x3": torch.float32, "ieee": torch.float32}
BLOCKS = ((32, 32), (32, 64), (64, 32), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (128, 256), (256, 128))


def candidates(shipped: Tile, triangular: bool) -> Iterator[Tile]:
    """The shipped tile first, then others with the same chunk of features."""
    yield shipped
    for (block_m, block_n), num_warps, num_stages in product(BLOCKS, (4, 8), (2, 3, 4)):
        tile = replace(shipped, block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=num_stages)
        if tile != shipped and not (triangular and block_n % block_m != 0):
            yield tile


def milliseconds(run: Callable[[], object], repeats: int = 7) -> float:
    """Median time of ``run`` on the device."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def rank(run: Callable[[Tile], torch.Tensor], tiles: Iterator[Tile]) -> list[tuple[float, Tile]]:
    """Times of the tiles that run here and agree with the first, from fast to slow."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    times: list[tuple[float, Tile]] = []
    expected: torch.Tensor | None = None
    for tile in tiles:
        try:
            result = run(tile).float()
        except (CompilationError, OutOfResources, PTXASError) as error:
            print(f"  cannot run ({type(error).__name__}): {tile}")
            continue
        expected = result if expected is None else expected
        error_norm = float((result - expected).norm() / expected.norm())
        if not error_norm < 1e-2:
            print(f"  wrong result (relative error {error_norm:.1e}): {tile}")
            continue
        times.append((milliseconds(lambda tile=tile: run(tile)), tile))
    return sorted(times, key=lambda pair: pair[0])


def main() -> None:
    """Parse the command line and print the ranking."""
    parser = argparse.ArgumentParser(prog="python -m fastclr.kernels.tune", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kind", choices=sorted(DTYPES), default="half", help="half is bf16; the others multiply fp32 rows"
    )
    parser.add_argument("--width", type=int, default=128, help="features per row (default 128)")
    parser.add_argument("--rows", type=int, default=65536, help="rows of both views together (default 65536)")
    parser.add_argument("--kernels", nargs="+", choices=("forward", "triangular", "backward"))
    parser.add_argument("--show", type=int, default=5, help="candidates to print per kernel (default 5)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "tune: no CUDA device: the tiles can only be timed on a GPU\n")

    from .ntxent_backward import ntxent_bwd
    from .ntxent_forward import ntxent_fwd
    from .ntxent_normalize import ntxent_prologue

    device = torch.device("cuda", torch.cuda.current_device())
    n = max(1, args.rows // 2)
    views = [torch.randn(n, args.width, device=device, dtype=DTYPES[args.kind]) for _ in range(2)]
    tau, scale = torch.tensor(0.1, device=device), torch.tensor(1.0 / n, device=device)
    z, inv_norm, positive = ntxent_prologue(*views, True, args.kind)
    loss, lse, _, _ = ntxent_fwd(z, z, positive, tau, 0, "fixed", args.kind, True, False)

    def forward(tile: Tile, deterministic: bool) -> torch.Tensor:
        options = {"tile": tile, "triangular": not deterministic}
        return ntxent_fwd(z, z, positive, tau, 0, "fixed", args.kind, deterministic, False, **options)[0]

    def backward(tile: Tile) -> torch.Tensor:
        rows = (z, z, inv_norm, positive, loss, lse)
        return ntxent_bwd(*views, *rows, None, scale, tau, 0, True, "fixed", args.kind, tile=tile)[0]

    runs: dict[str, Callable[[Tile], torch.Tensor]] = {
        "forward": lambda tile: forward(tile, True),
        "triangular": lambda tile: forward(tile, False),
        "backward": backward,
    }
    arch, _ = device_traits(device)
    tiles = table_tiles(arch, args.kind, args.width)
    for name in args.kernels or runs:
        shipped = getattr(tiles, name)
        print(f"{name}: {args.rows} rows of {args.width} features, {args.kind}; shipped {shipped}")
        ranking = rank(runs[name], candidates(shipped, name == "triangular"))
        for time, tile in ranking[: args.show]:
            print(f"  {time:9.3f} ms  {tile}{'  (shipped)' if tile == shipped else ''}")
        if ranking:
            tiles = replace(tiles, **{name: ranking[0][1]})
    row = ", ".join(f"Tile{astuple(tile)}" for tile in (tiles.forward, tiles.triangular, tiles.backward))
    known = sorted({(a, k, w) for a, k, w in TABLE if k == args.kind})
    print(f"rows of this kind: {known}\n({arch}, {args.kind!r}, {args.width}): Tiles({row}),")


if __name__ == "__main__":
    main()
