"""The table of methods: what is trained in which order, killed, gone on with, told and published."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import method_costs
import method_run
import methods
import methods_table
import pytest
import report
import torch
import yaml
from method_run import FACTORS, SEEDS, TUNING_SEED, UNTRAINED, Images, Planned

import fastclr
from fastclr.data import Batch
from fastclr.methods import METHODS, BYOLOptions, CPCOptions, PIRLOptions
from fastclr.training.build import Training
from fastclr.training.optim import peak_lr

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-W", "ignore", "benchmarks/publish/methods.py", "--rehearse", "--jobs", "1"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def stored(planned: Planned, **changes: Any) -> dict[str, Any]:
    """What a training leaves, with scores that can be told apart."""
    config = planned.config(rehearse=False)
    found = {**dataclasses.asdict(planned), "status": "ok", "config": json.loads(json.dumps(config.as_dict()))}
    found |= {"lr": peak_lr(config), "images": {"train": "a"}, "train_images": 10_000, "scored_images": 10_000}
    found |= {"commit": {"commit": "0123456789abcdef", "dirty": False}, "collapsed": False, "wall_s": 100.0}
    found |= {"peak_bytes": 2**29, "views": 2, "knn": 0.4, "linear": 0.5}
    return found | changes


def fill(folder: Path, name: str, linear: dict[float, float], **reported: Any) -> None:
    """Write the trainings of a method whose rates reach `linear`, and the reported ones of the best."""
    best = max(linear, key=lambda factor: linear[factor])
    trainings = [stored(Planned(name, factor, 0), linear=share) for factor, share in linear.items()]
    trainings += [stored(Planned(name, best, seed), knn=0.3 + seed / 10, **reported) for seed in SEEDS]
    for each in trainings:
        planned = Planned(name, each["factor"], each["seed"])
        (folder / f"{planned.name}.json").write_text(json.dumps(each))


def test_all_methods_are_trained_alike_but_for_what_is_their_own() -> None:
    configs = {name: Planned(name, 1.0, 1).config(rehearse=False) for name in methods.NAMES if name != UNTRAINED}
    for name, config in configs.items():
        assert config.method == name and (config.width, config.epochs, config.batch_size) == (0.25, 40, 256)
        assert config.augment == configs["simclr"].augment
        lower = Planned(name, 0.3, 1).config(rehearse=False)
        assert peak_lr(lower) == pytest.approx(0.3 * peak_lr(config)) and lower.weight_decay == config.weight_decay
    assert configs["byol"].options == BYOLOptions(second_solarize_p=0.0)  # of cifar10-byol
    assert configs["cpc"].options == CPCOptions(grid=3, steps=1)  # 2,304 patches a step, not 12,544
    assert configs["pirl"].options == PIRLOptions(loss="info-nce", negatives=8192, grid=2)
    assert configs["rotation"].optimizer == METHODS["rotation"].recipe.get("optimizer", "sgd")
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["encoders"]
    trained = [name for part in release["strategy"]["matrix"]["methods"] for name in part.split()]
    assert sorted(trained) == sorted(configs)
    left_out = {UNTRAINED, *METHODS} - set(methods.NAMES)  # methods come from the registry; the images have no captions
    assert "clip" in left_out and all(METHODS[name].uses_texts for name in left_out)


def test_rates_are_chosen_on_images_that_are_neither_trained_on_nor_tested_on(pictures: Path, tmp_path: Path) -> None:
    images = Images.load(str(pictures), tmp_path, 48)
    names = [set(part.names) for part in (images.train, images.chosen_by)]
    assert len(names[0]) == len(images.train) == 48 and len(names[1]) == 48 and not names[0] & names[1]
    assert len(images.test) == 64
    counts = [part.labels.bincount(minlength=8) for part in (images.train, images.chosen_by)]
    assert all(int(count.max() - count.min()) <= 1 for count in counts)
    again = Images.load(str(pictures), tmp_path, 48)  # from the copy
    assert torch.equal(again.train.ids, images.train.ids) and again.train.fingerprint == images.train.fingerprint
    with pytest.raises(ValueError, match="at least 130 training images, got 128"):
        Images.load(str(pictures), tmp_path, 65)


def test_the_reported_seeds_are_trained_at_the_best_rate_and_methods_go_one_after_another(tmp_path: Path) -> None:
    plan = methods.Plan([UNTRAINED, "byol", "dcl"], tmp_path, rehearse=False)
    seen: list[Planned] = []
    while (planned := plan.next([])) is not None:
        expected = 1 if planned.method == "byol" and planned.factor == 3.0 else 0
        seen.append(planned)
        share = 0.5 + expected / 10
        (tmp_path / f"{planned.name}.json").write_text(json.dumps(stored(planned, linear=share)))
        assert plan.read(planned)
    assert [each.method for each in seen] == [UNTRAINED] * 2 + ["byol"] * 5 + ["dcl"] * 5
    assert {each.factor for each in seen[5:7]} == {3.0} and [each.seed for each in seen[5:7]] == list(SEEDS)
    assert plan.left() == []
    running = [Planned(UNTRAINED, 1.0, seed) for seed in SEEDS] + [Planned("byol", f, 0) for f in FACTORS]
    plan.done.clear()
    following = plan.next(running)  # the seeds of BYOL wait for its rates: the next method starts
    assert following == Planned("dcl", FACTORS[0], 0)


def test_a_result_of_another_configuration_is_not_taken_up_and_time_left_follows_the_method(tmp_path: Path) -> None:
    fill(tmp_path, "byol", {1.0: 0.5, 0.3: 0.4, 3.0: 0.3})
    plan = methods.Plan(["byol", "dcl"], tmp_path, rehearse=False)
    plan.refresh()
    assert plan.left() == ["dcl"] * 5 and plan.remaining(2) == "about 0 h 05 min left"  # 5 * 100 s / 2
    path = tmp_path / f"{Planned('byol', 1.0, 0).name}.json"
    other = json.loads(path.read_text())
    other["config"]["byol"]["momentum"] = 0.5
    path.write_text(json.dumps(other))
    again = methods.Plan(["byol"], tmp_path, rehearse=False)
    again.refresh()
    assert "byol-x1-seed0" not in again.done and again.next([]) == Planned("byol", 1.0, 0)
    assert methods.Plan(["byol"], tmp_path, rehearse=True).read(Planned("byol", 0.3, 0)) is False
    assert methods.Plan(["dcl"], tmp_path / "empty", rehearse=False).remaining(1) == "time left unknown"


def test_a_rate_that_breaks_and_a_method_that_refuses_are_results(tmp_path: Path) -> None:
    trainings = [stored(Planned("byol", factor, 0), status="diverged", note="the loss became nan") for factor in (1, 3)]
    trainings += [stored(Planned("byol", f, s), linear=0.4) for f, s in ((0.3, 0), (0.3, 1), (0.3, 2))]
    trainings += [stored(Planned("dcl", factor, 0), status="refused", note="too small") for factor in FACTORS]
    contents = {"trainings": trainings, "methods": ["byol", "dcl", "simclr"], "encoders": {}, "costs": None}
    assert methods_table.missing(contents) == ["simclr"]
    rows = methods_table.table(contents).splitlines()
    assert len(rows) == 4 and "BYOL" in rows[2] and "DCL" in rows[3] and "refused: too small" in rows[3]
    assert f"sgd {0.3 * peak_lr(Planned('byol', 1, 0).config(False)):.3g}" in rows[2]


def test_the_page_has_the_table_of_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks" / "results")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    for old in (tmp_path / "benchmarks" / "results").glob("methods-*.json"):
        old.unlink()
    (tmp_path / "docs").mkdir()
    for name in report.PAGES:
        shutil.copy(ROOT / name, tmp_path / name)
    assert report.main([]) == 0 and "Not measured yet" in (tmp_path / report.METHODS_PAGE).read_text()
    out = tmp_path / "out"
    folder = out / "methods" / "runs"
    folder.mkdir(parents=True)
    fill(folder, "byol", {1.0: 0.5, 0.3: 0.4, 3.0: 0.6})
    fill(folder, "dcl", {1.0: 0.5, 0.3: 0.6, 3.0: 0.4}, collapsed=True)
    costs = {"rounds": [{"byol": 3.0, "dcl": 9.0}, {"byol": 2.0, "dcl": 8.0}, {"byol": 1.0, "dcl": 7.0}]}
    (out / "methods" / "costs.json").write_text(json.dumps(costs))
    (out / "methods" / "encoders").mkdir()
    (out / "methods" / "encoders" / "byol-x3-seed1.safetensors").write_bytes(b"abc")
    assert methods.main(["--report", "--out", str(out)]) == 0
    (path,) = out.glob("methods-*.json")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert json.loads(path.read_text())["encoders"] == {"byol-x3-seed1.safetensors": abc}
    capsys.readouterr()
    assert report.main(["--publish", str(path)]) == 0 and report.main(["--check"]) == 0
    page = (tmp_path / report.METHODS_PAGE).read_text()
    cells = (
        "BYOL (`byol`)",
        "sgd 0.36",
        "2",
        "45.0 ± 5.0",
        "50.0 ± 0.0",
        "2.0",
        "512 MiB",
        "`byol-x3-seed1.safetensors`",
    )
    assert f"| {' | '.join(cells)} |" in page
    assert "| DCL (`dcl`)* |" in page and "collapsed" in page and path.name in page
    assert "the median of 3 rounds" in page and "broke" not in page and "in 3 calls" not in page
    assert "400,000 images drawn" in page and "not measured yet: untrained, simclr, supcon" in page
    lacking = json.loads(path.read_text())
    lacking["trainings"] = [each for each in lacking["trainings"] if each["method"] == "byol"]
    path.write_text(json.dumps(lacking))
    assert report.main(["--publish", str(path)]) == 2 and "lacks dcl" in capsys.readouterr().err
    path.write_text(json.dumps({**lacking, "machine": lacking["machine"] | {"rehearsal": True}}))
    assert report.main(["--publish", str(path)]) == 2
    assert methods.main(["--report", "--out", str(out)]) == 2 and "rehearsal True" in capsys.readouterr().err
    path.unlink()
    (folder / "byol-x1-seed0.json").write_text(json.dumps(stored(Planned("byol", 1.0, 0), images={"train": "b"})))
    assert methods.main(["--report", "--out", str(out)]) == 2 and "other images" in capsys.readouterr().err


def test_the_encoder_that_the_page_loads_is_one_of_the_table() -> None:
    page = (ROOT / report.METHODS_PAGE).read_text()
    loaded = set(re.findall(r'init="([\w.-]+\.safetensors)"', page))
    assert loaded and loaded <= set(re.findall(r"`([\w.-]+\.safetensors)` \|", page))


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.main(["--out", str(tmp_path)]) == 2 and "--data" in capsys.readouterr().err
    assert methods.main(["--data", "x", "--jobs", "0", "--out", str(tmp_path)]) == 2
    assert "--jobs" in capsys.readouterr().err and not list(tmp_path.iterdir())
    make = ["make", "-n", "bench-methods", "DATA=x", "ONLY=byol dcl", "BUDGET=9", "COSTS=1"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert '--data "x" --only byol dcl --budget 9  --costs' in done.stdout


@pytest.mark.slow
def test_a_killed_measurement_is_repeated_and_finished_ones_are_not(tmp_path: Path, pictures: Path) -> None:
    command = [*COMMAND, "--data", str(pictures), "--images", "32", "--only", "simclr", "--out", str(tmp_path)]
    runs, work = tmp_path / "methods" / "runs", tmp_path / "methods" / "work"
    first, second, _ = (Planned("simclr", factor, TUNING_SEED).name for factor in FACTORS)
    kill_when_there_is(work / f"{second}.log", command)
    assert [path.stem for path in runs.glob("*.json")] == [first]
    before = (runs / f"{first}.json").stat().st_mtime_ns
    (work / "tmp-left").mkdir()
    time.sleep(2.0)
    assert not (runs / f"{second}.json").exists()  # it has ended by itself, as its parent has gone
    kill_when_there_is(runs / f"{second}.json", command)
    assert not (work / "tmp-left").exists()
    assert (runs / f"{first}.json").stat().st_mtime_ns == before


def kill_when_there_is(path: Path, command: list[str]) -> None:
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as parent:
        while not path.exists():
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()


def test_the_encoder_of_the_first_reported_seed_is_kept_and_scores_the_same(pictures: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    images = Images.load(str(pictures), work, 32)
    config = Planned("dcl", 1.0, SEEDS[0]).config(rehearse=True)
    for seed in (TUNING_SEED, *SEEDS):
        found = method_run.measure(Planned("dcl", 1.0, seed), images, True, work)
        if seed == SEEDS[0]:
            expected = found
    (path,) = (tmp_path / "encoders").iterdir()
    assert path.name == f"dcl-x1-seed{SEEDS[0]}.safetensors"
    run = fastclr.Run.of_encoder(init=path)
    assert run.config.width == 0.125 and run.config.augment.mean == config.augment.mean
    again = method_run.scores(run.encoder, Planned("dcl", 1.0, SEEDS[0]), images, config)
    assert {name: expected[name] for name in again} == again


def test_what_a_step_costs_is_measured_for_all_methods_in_turns(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    now = 0.0

    def slow_step(training: Training, batch: Batch) -> None:
        nonlocal now
        seen.append(training.config.method)
        late = len(seen) % (method_costs.WARMUP + method_costs.STEPS) == 0  # one slow step of ten changes no median
        now += (30.0 if late else 2.0) if training.config.method == "byol" else 0.5

    monkeypatch.setattr(method_costs, "train_step", slow_step)
    monkeypatch.setattr(method_costs.time, "perf_counter", lambda: now)
    command = ["--rehearse", "--data", str(pictures), "--only", "untrained", "simclr", "byol", "--images", "64"]
    assert methods.main([*command, "--costs", "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "methods" / "costs.json").read_text())
    assert stored["rounds"] == [{"simclr": 1.0, "byol": 4.0}] * method_costs.ROUNDS  # two steps of 32 images
    per_method = method_costs.WARMUP + method_costs.STEPS
    assert seen == (["simclr"] * per_method + ["byol"] * per_method) * method_costs.ROUNDS
    (path,) = tmp_path.glob("methods-*.json")
    assert json.loads(path.read_text())["costs"] == stored and not list((tmp_path / "methods" / "runs").iterdir())


def test_a_training_tells_cost_and_scores_and_one_that_breaks_is_a_result(pictures: Path, tmp_path: Path) -> None:
    images = Images.load(str(pictures), tmp_path, 32)
    found = method_run.measure(Planned("byol", 1.0, 0), images, True, tmp_path)
    assert found["status"] == "ok" and found["scored_on"] == "images to choose by" and found["scored_images"] == 32
    assert found["images_drawn"] == 64 and found["views"] == 2 and found["rehearsal"] is True
    assert found["peak_bytes"] > 2**27 and not list(tmp_path.glob("tmp*"))
    broken = method_run.measure(Planned("simclr", 1e30, 1), images, True, tmp_path)
    assert broken["status"] == "diverged" and "the loss became" in broken["note"]
    start = method_run.measure(Planned(UNTRAINED, 1.0, 1), images, True, tmp_path)
    assert start["status"] == "ok" and start["scored_on"] == "test images" and "peak_bytes" not in start
