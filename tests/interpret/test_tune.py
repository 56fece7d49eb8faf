"""The tuner with a fake clock: what it refuses, ranks and writes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import OutOfResources

from fastclr.kernels import tune
from fastclr.kernels.tile_table import GLUON_TILE, Tile, table_tiles

TILES = [Tile(32, 32, 16, 4), Tile(16, 32, 16, 4), Tile(16, 16, 16, 4), Tile(64, 64, 16, 4), Tile(32, 64, 16, 4)]
WRONG, TOO_LARGE = TILES[3], TILES[4]
ARGUMENTS = ["--rows", "80", "--width", "9", "--kind", "ieee"]

# tiles that the model of docs/gpu-model.md replaced
FORMER = [
    ("forward", (90, "half", 128), Tile(128, 128, 128, 8, 3, 1)),
    ("triangular", (90, "half", 128), Tile(128, 128, 128, 8, 3, 1)),
    ("forward", (90, "half", 256), Tile(128, 64, 256, 8, 3, 1)),
    ("triangular", (90, "half", 256), Tile(64, 128, 256, 8, 3, 1)),
    ("forward", (90, "tf32", 128), Tile(128, 64, 128, 8, 3, 1)),
    ("triangular", (90, "tf32", 128), Tile(64, 128, 128, 8, 3, 1)),
    ("forward", (80, "half", 128), Tile(128, 64, 128, 8, 3, 1)),
    ("triangular", (80, "half", 128), Tile(64, 128, 128, 8, 3, 1)),
    ("forward", (80, "half", 256), Tile(64, 64, 256, 4, 2, 1)),
    ("triangular", (80, "half", 256), Tile(32, 64, 256, 4, 2, 2)),
    ("forward", (80, "tf32", 128), Tile(64, 64, 128, 4, 2, 1)),
    ("triangular", (80, "tf32", 128), Tile(32, 64, 128, 4, 2, 2)),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few candidates on the CPU: the smallest tile wins, one does not fit, and one computes nonsense."""
    original = tune.launchers

    def launchers(*args: object) -> dict[str, object]:
        def changed(run):
            def call(tile: Tile) -> torch.Tensor:
                if tile == TOO_LARGE:
                    raise OutOfResources(300_000, 232_448, "shared memory")
                return run(tile) * (1.5 if tile == WRONG else 1.0)

            return call

        return {name: changed(run) for name, run in original(*args).items()}

    def milliseconds(run, repeats: int = 7) -> float:
        assert torch.isfinite(run()).all()
        return clock.pop()

    # the fourth is wrong and the fifth does not fit: three times per kernel
    clock = [2.0, 1.0, 3.0] * 3
    monkeypatch.setattr(tune, "gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(tune, "candidates", lambda shipped, triangular: iter(TILES))
    monkeypatch.setattr(tune, "launchers", launchers)
    monkeypatch.setattr(tune, "milliseconds", milliseconds)
    monkeypatch.setattr(tune, "compile_beforehand", lambda arguments, workers: None)


@pytest.mark.usefixtures("small")
def test_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "tune.json"
    tune.main([*ARGUMENTS, "--json", str(path)])
    said = capsys.readouterr().out
    assert said.count("wrong result (relative error 5.0e-01)") == 3 and said.count("cannot run (OutOfResources)") == 3
    found = json.loads(path.read_text())
    assert (found["rows"], found["width"], found["kind"]) == (80, 9, "ieee")
    for ranked in found["tune"].values():
        assert [entry["ms"] for entry in ranked] == [1.0, 2.0, 3.0]
        assert [entry["block_m"] for entry in ranked] == [16, 16, 32] and ranked[0]["block_n"] == 32
    assert "(80, 'ieee', 9): Tiles(Tile(16, 32, 16, 4" in said


@pytest.mark.usefixtures("small")
def test_shares_run_every_candidate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, Tile]] = []
    monkeypatch.setattr(tune, "attempt", lambda run, tile: ran.append(tile))
    for index in range(4):
        tune.main([*ARGUMENTS, "--share", f"{index}/4"])
    assert sorted(map(str, ran)) == sorted(map(str, 3 * TILES))


def test_candidates_begin_with_the_shipped_tile() -> None:
    shipped = Tile(128, 128, 128, 8, 3, 1)
    for triangular in (False, True):
        found = list(tune.candidates(shipped, triangular))
        assert found[0] == shipped and len(set(found)) == len(found) > 20
        assert not triangular or all(tile.block_n % tile.block_m == 0 for tile in found)


def test_the_warp_specialised_backward_must_be_asked_for() -> None:
    found = list(tune.gluon_candidates(GLUON_TILE))
    assert found[0] == GLUON_TILE and len(set(found)) == len(found) == 8
    assert all(tile.block_m == 2 * 64 and tile.num_warps == 4 for tile in found)
    assert tune.GLUON not in tune.KERNELS


@pytest.mark.parametrize(("name", "key", "former"), FORMER)
def test_former_tiles_stay_candidates(name: str, key: tuple[int, str, int], former: Tile) -> None:
    shipped = getattr(table_tiles(*key), name)
    found = tune.candidates(shipped, name == "triangular")
    assert replace(former, programs_per_sm=shipped.programs_per_sm) in list(found)


def test_compilation_goes_on_without_a_process_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            self.args = command

        def wait(self) -> int:
            return int(self.args[-1] == "1/3")

    monkeypatch.setattr(subprocess, "Popen", Process)
    tune.compile_beforehand(ARGUMENTS, 3)
    assert "1 of 3 processes failed" in capsys.readouterr().out
