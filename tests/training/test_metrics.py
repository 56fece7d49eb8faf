from __future__ import annotations

import builtins
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.metrics import MetricsLog, TensorBoardHook, check_hooks, open_hooks


def record(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"kind": "train", "epoch": 1, "step": step, "loss": loss, "note": "text"}


def test_a_log_is_cut_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    log.sync()
    for step in (10, 20, 30):
        log.append(record(step))
    log.sync()
    with open(log.path, "ab") as file:
        file.write(b'{"kind": "tr\xc3')
    assert [r["step"] for r in log.read()] == [10, 20, 30]
    log.keep_up_to(20, 0)
    log.append(record(30))
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [10, 20, 30]
    log.keep_up_to(0, 0)
    assert log.path.read_text() == ""


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not write to .*metrics\.jsonl.*the last checkpoint is kept"):
        MetricsLog(tmp_path / "gone" / "metrics.jsonl").append(record(1))


class Recorder:
    def __init__(self, failing_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.closed = False
        self.failing_at = failing_at

    def log(self, record: dict[str, Any]) -> None:
        if record["step"] == self.failing_at:
            raise ConnectionError("no network")
        self.seen.append(record["step"])

    def close(self) -> None:
        self.closed = True


def test_every_hook_gets_every_record_and_one_that_fails_is_dropped(tmp_path: Path) -> None:
    good, bad = Recorder(), Recorder(failing_at=2)
    log = MetricsLog(tmp_path / "metrics.jsonl", [bad, good])
    log.append(record(1))
    with pytest.warns(RuntimeWarning, match="Recorder failed and is off: no network"):
        log.append(record(2))
    log.append(record(3))
    log.close()
    assert (bad.seen, good.seen, good.closed, log.hooks) == ([1], [1, 2, 3], True, [])
    assert [r["step"] for r in log.read()] == [1, 2, 3]


def test_a_hook_that_does_not_close_is_a_warning(tmp_path: Path) -> None:
    class Stuck(Recorder):
        def close(self) -> None:
            raise ConnectionError("no network")

    last = Recorder()
    with pytest.warns(RuntimeWarning, match="Stuck did not close"):
        MetricsLog(tmp_path / "metrics.jsonl", [Stuck(), last]).close()
    assert last.closed


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of `folder`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path: Path) -> None:
    first = TensorBoardHook(tmp_path, step=0)
    for step in (10, 20, 30):
        first.log(record(step, loss=float(step)))
    # killed: not closed. A kill loses nothing that was logged, because every record is flushed
    assert read_events(tmp_path)["train/loss"] == [(10, 10.0), (20, 20.0), (30, 30.0)]
    second = TensorBoardHook(tmp_path, step=20)
    for step in (30, 40):
        second.log(record(step, loss=-float(step)))
    second.close()
    first.close()
    shown = read_events(tmp_path)
    assert shown["train/loss"] == [(10, 10.0), (20, 20.0), (30, -30.0), (40, -40.0)]
    assert set(shown) == {"train/loss", "train/epoch"}


def test_a_run_logs_to_tensorboard_what_is_in_its_log(tiny: PretrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, epochs=1, tensorboard=True)
    run = pretrain_in(tmp_path / "run", config).run
    pretrain_in(tmp_path / "run", config, resume=True)
    shown = read_events(tmp_path / "run" / "tensorboard")
    for kind, name in (("train", "loss"), ("train", "lr"), ("eval", "knn")):
        expected = [(r["step"], r[name]) for r in run.metrics.read() if r["kind"] == kind]
        steps, values = zip(*shown[f"{kind}/{name}"], strict=True)
        assert list(steps) == [step for step, _ in expected]
        assert values == pytest.approx([value for _, value in expected], rel=1e-6)  # events are float32


class FakeWandb(ModuleType):
    """As much of wandb as is used; keeps the calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[Any, ...]] = []

    def init(self, **options: Any) -> FakeWandb:
        self.calls.append(("init", options))
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", values, step))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_wandb_gets_all_records_and_a_resumed_run_has_the_same_id(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = dataclasses.replace(tiny, epochs=1, wandb="fastclr-test")
    run = pretrain_in(tmp_path / "run", config).run
    (_, first), *logged, last = wandb.calls
    assert (first["project"], first["name"], first["resume"]) == ("fastclr-test", "run", "allow")
    assert first["config"]["lr"] == config.lr
    records = run.metrics.read()
    assert [step for _, _, step in logged] == [r["step"] for r in records]
    assert logged[0][1]["train/loss"] == records[0]["loss"] and logged[-1][1]["eval/knn"] == records[-1]["knn"]
    assert "train/kind" not in logged[0][1] and "train/step" not in logged[0][1]
    assert last == ("finish",)
    wandb.calls.clear()
    pretrain_in(tmp_path / "run", config, resume=True)
    assert wandb.calls[0][1]["id"] == first["id"] and len(first["id"]) == 16


def test_wandb_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setattr(FakeWandb, "init", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("api_key not set")))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ValueError, match=r"did not start: api_key not set; .*WANDB_MODE=offline"):
        open_hooks(tmp_path, tensorboard=False, wandb="project", config={}, step=0)


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_before_the_run_starts(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name in ("wandb", "torch.utils.tensorboard"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    check_hooks(tensorboard=False, wandb=None)
    values: dict[str, Any] = {"tensorboard": {"tensorboard": True}, "wandb": {"wandb": "project"}}[package]
    with pytest.raises(ValueError, match=rf"{package}=.* needs the package {package} .*pip install"):
        pretrain_in(tmp_path / "run", dataclasses.replace(tiny, **values))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_will_be_repeated_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2):
        log.append({"kind": "train", "epoch": epoch, "step": 10 * epoch})
        log.append({"kind": "eval", "epoch": epoch, "step": 10 * epoch})
    log.keep_up_to(20, 1)  # all steps of epoch 2 are done, its evaluation is not
    assert [(r["kind"], r["epoch"]) for r in log.read()] == [("train", 1), ("eval", 1), ("train", 2)]
