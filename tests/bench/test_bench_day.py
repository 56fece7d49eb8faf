"""Rehearsals of the long benchmarks: interrupted, resumed, recorded."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import compare
import forked
import imagenet
import pytest
import record
import torch

from fastclr import nt_xent
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import Row
from fastclr.bench.timing import Effort
from fastclr.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *arguments: str, expected: int = 0) -> str:
    return "".join(forked.run(forked.script, ROOT / "benchmarks" / "publish" / name, *arguments, status=expected))


def only(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


@pytest.mark.slow
def test_record_is_cut_short_and_gone_on_with(tmp_path: Path, pictures: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    command = [
        "record.py",
        "--rehearse",
        "--data",
        str(pictures),
        "--out",
        str(out),
        "--work",
        str(work),
    ]
    said = run(*command, "--minutes", "0.0001")
    first = only(out)
    assert "run the command again" in said and first["final"] is None and first["passed"] is None
    said = run(*command)
    found = only(out)
    assert [point["epoch"] for point in found["curve"]] == [1, 2]  # type: ignore[attr-defined]
    assert found["epochs_done"] == found["epochs"] == 2
    final = found["final"]
    assert isinstance(final, dict) and final["test_images"] == 64 and 0 <= final["probe"] <= 1
    # measured on the exported file as timm alone reads it
    assert final["knn"] == found["curve"][-1]["knn"]  # type: ignore[index]
    assert list(work.glob("export/safetensors/encoder.safetensors"))
    ceiling = found["supervised"]
    assert isinstance(ceiling, dict) and ceiling["epochs"] == 2 and ceiling["test_images"] == 64
    assert len(found["elapsed_s"]) == 2 and found["rehearsal"] is True  # type: ignore[arg-type]
    again = run(*command)  # nothing left to do
    assert "final kNN" in again and "epoch 1/2" not in again
    real = [
        "record.py",
        "--data",
        str(pictures),
        "--out",
        str(tmp_path / "real"),
        "--work",
        str(work),
    ]
    assert "another configuration" in run(*real, expected=2) and not (tmp_path / "real").exists()


@pytest.mark.slow
def test_imagenet_has_the_stages_and_the_largest_batches(tmp_path: Path) -> None:
    command = ["imagenet.py", "--rehearse", "--out", str(tmp_path)]
    assert "case(s) to go" in run(*command, "--minutes", "0.0001")
    run(*command)
    found = only(tmp_path)
    rows = [Row.from_json(row) for row in found["rows"]]  # type: ignore[attr-defined]
    assert all(row.status == "ok" and row.time and row.rate for row in rows) and found["missing"] == []
    stages, *largest = rows
    assert {"augmentation", "encoder forward", "loss backward", "optimiser"} < stages.stages.keys()
    assert stages.time is not None and all(stage.median > 0 for stage in stages.stages.values())
    assert [row.provider for row in largest] == [
        "fastclr", "dense loss", "fastclr, cached gradients", "dense loss, cached gradients",
    ]  # fmt: skip
    assert [row.work for row in largest] == [8] * 4 and "8 images fit" in largest[0].note
    assert "--data" in run("imagenet.py", "--out", str(tmp_path), expected=2)


def test_largest_batch_is_the_last_that_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    config, room = dataclasses.replace(PRESETS["demo"], width=0.125), [0]

    def step(case: imagenet.LargestCase, model: object, optimizer: object, batch: int, *_: object) -> tuple[float, int]:
        if batch > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch / 100, batch

    monkeypatch.setattr(imagenet.LargestCase, "step", step)
    case = imagenet.LargestCase("some", nt_xent, None, config, "cpu", first=4, most=64)
    ceilings = Ceilings(torch.device("cpu"))
    for room[0], expected in ((17, (16, "ok", "32 do not: OutOfMemoryError")), (100, (64, "ok", "64 is the most"))):
        (row,) = case.run(ceilings, Effort())
        assert (row.work, row.status) == expected[:2] and expected[2] in row.note and row.peak_bytes == row.work
    room[0] = 3
    (row,) = case.run(ceilings, Effort())
    assert row.status == "out of memory" and row.time is None and row.work == 0


def test_clock_is_that_of_the_first_evaluation_at_the_target(tmp_path: Path) -> None:
    lines = []
    for epoch, knn in ((1, 0.5), (2, 0.9), (3, 0.91)):
        clock = {"train_s": 10.0 * epoch, "first_step_s": 30.0}
        lines.append({"kind": "train", "epoch": epoch, "step": 5 * epoch - 2, "train_s": 1.0, "first_step_s": 30.0})
        lines.append({"kind": "train", "epoch": epoch, "step": 5 * epoch, **clock})
        lines.append({"kind": "eval", "epoch": epoch, "step": 5 * epoch, "knn": knn})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = record.summarise(tmp_path, record.configuration("somewhere", False, 3, 0), 0.9)
    assert found["clock_s"] == 20.0 and found["passed"]["epoch"] == 2
    assert found["training_s"] == 30.0 and found["compile_s"] == 30.0 and found["epochs_done"] == 3
    assert record.summarise(tmp_path, record.configuration("somewhere", False, 3, 0), 0.95)["clock_s"] is None


def test_record_is_the_preset_and_its_evaluation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = record.configuration("somewhere", False, None, 7)
    assert (config.encoder, config.epochs, config.batch_size, config.options.temperature) == ("resnet18", 500, 512, 0.5)
    assert (config.knn_k, config.knn_temperature, config.seed) == (10, None, 7)
    assert record.main(["--out", str(tmp_path / "o"), "--work", str(tmp_path / "w")]) == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
def test_ladder_has_every_rung_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = ["ladder.py", "--rehearse", "--out", str(tmp_path)]
    said = run(*command, "--minutes", "0.0001")
    assert "to go" in said
    run(*command)
    found = only(tmp_path)
    rows = [Row.from_json(row) for row in found["rows"]]  # type: ignore[attr-defined]
    assert {row.provider for row in rows} == {"pytorch", "+augment", "+loss", "+bf16, channels_last", "fastclr"}
    assert all(row.status == "ok" and row.rate and row.parameters["loss"] > 0 for row in rows)
    assert found["missing"] == []
    assert "give it" not in run("ladder.py", "--out", str(tmp_path), expected=2)


@pytest.mark.slow
def test_tests_that_passed_are_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pathlib, pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert pathlib.Path(__file__).with_name('fixed').exists(), 'not fixed'\n"
        "@pytest.mark.skip(reason='no device')\n"
        "def test_skipped(): pass\n"
    )
    path = tmp_path / "out" / "tests.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "publish")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "boxed_tests", "-p", "no:cacheprovider", "test_some.py"]
    command += ["--box-json", str(path)]

    def call(*more: str) -> tuple[int, dict[str, dict[str, object]], list[str], str]:
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        stored = json.loads(path.read_text())
        return done.returncode, stored["tests"], stored["missing"], done.stdout

    status, tests, missing, _ = call("--box-minutes", "0")
    assert status == 0 and len(tests) == 1 and len(missing) == 2  # nothing failed: the next command may run
    status, tests, missing, said = call()
    outcomes = {name.partition("::")[2]: test["outcome"] for name, test in tests.items()}
    assert status == 1 and outcomes == {"test_good": "passed", "test_bad": "failed", "test_skipped": "skipped"}
    assert missing == [] and "not fixed" in str(tests["test_some.py::test_bad"]["message"]) and "1 deselected" in said
    (tmp_path / "fixed").touch()
    status, tests, _, said = call()
    assert status == 0 and tests["test_some.py::test_bad"]["outcome"] == "passed" and "1 passed" in said


@pytest.mark.slow
def test_two_trees_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    workers = {compare.BASE: compare.Worker(ROOT, 1), compare.HERE: compare.Worker(ROOT, 1)}
    try:
        (found,) = compare.compare(workers, ["augment-32"], 3)
    finally:
        for worker in workers.values():
            worker.close()
    ratio = found["ratio"]
    assert isinstance(ratio, dict) and ratio["median"] > 0 and found["n"] == 3
    assert "here/base" in capsys.readouterr().out


@pytest.mark.slow
def test_every_test_that_is_not_slow_is_warmed_up_once(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import os, pathlib, pytest, sys\n"
        "share = '--box-share' in ' '.join(sys.argv)\n"
        "def note(name): pathlib.Path(f'{name}-{share}-{os.getpid()}').touch()\n"
        "@pytest.mark.parametrize('number', range(5))\n"
        "def test_quick(number): note(f'quick{number}')\n"
        "@pytest.mark.slow\n"
        "def test_slow(): note('slow')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "publish")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "boxed_tests", "-p", "no:cacheprovider", "test_some.py"]
    command += ["--box-warm", "--box-json", "out.json"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    ran = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("*-*-*"))
    assert ran == sorted([f"quick{n}-{warm}" for n in range(5) for warm in (True, False)] + ["slow-False"])
    assert json.loads((tmp_path / "out.json").read_text())["counts"] == {"passed": 6}


def test_compare_refuses_what_is_no_revision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert compare.main(["no-such-revision", "--out", str(tmp_path)]) == 2
    assert "no-such-revision" in capsys.readouterr().err
    assert compare.main(["HEAD", "--workloads", "nothing", "--out", str(tmp_path)]) == 2
    assert "loss-M2048-float32" in capsys.readouterr().err


def test_make_targets_exist_and_need_no_installation() -> None:
    for target in ("test-gpu", "bench-gpu", "gpu-day", "record", "ladder", "imagenet", "tune"):
        command = ["make", "-n", target, f"PY={sys.executable}", "DATA=x", "OUT=o", "GPU_ARCH=9.0", "KIT=none"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "pip" not in done.stdout and "venv " not in done.stdout
        assert "build/site" in done.stdout and str(torch.__version__) not in done.stdout
        rehearsed = subprocess.run([*command, "REHEARSE=1"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "setup.py" not in rehearsed.stdout
