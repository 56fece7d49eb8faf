from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.metric_hooks import TensorBoardHook, check_hooks, open_hooks
from fastclr.training.metric_names import RENAMED, full_name
from fastclr.training.metrics import MetricsLog


def record(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"kind": "train", "epoch": 1, "step": step, "train/loss": loss, "train/note": "text"}


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
    assert set(shown) == {"train/loss", "epoch"}


def test_a_run_logs_to_tensorboard_what_is_in_its_log(tiny: PretrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, epochs=1, tensorboard=True)
    run = pretrain_in(tmp_path / "run", config).run
    pretrain_in(tmp_path / "run", config, resume=True)
    shown = read_events(tmp_path / "run" / "tensorboard")
    for name in ("train/loss", "train/lr", "health/rankme", "eval/knn_top1"):
        expected = [(r["step"], r[name]) for r in run.metrics.read() if name in r]
        steps, values = zip(*shown[name], strict=True)
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
    assert [about["epoch"] for _, about, _ in logged][:2] == [0, 1]
    assert logged[1][1]["train/loss"] == records[1]["train/loss"]
    assert logged[-1][1]["eval/knn_top1"] == records[-1]["eval/knn_top1"]
    assert not {"kind", "step"} & set(logged[0][1])
    assert last == ("finish",)
    wandb.calls.clear()
    pretrain_in(tmp_path / "run", config, resume=True)
    assert wandb.calls[0][1]["id"] == first["id"] and len(first["id"]) == 16


def test_wandb_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setattr(FakeWandb, "init", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("api_key not set")))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ValueError, match=r"did not start: api_key not set; .*WANDB_MODE=offline"):
        open_hooks(tmp_path, PretrainConfig(wandb="project"), 0)


def test_after_a_login_that_failed_the_same_command_trains(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = dataclasses.replace(tiny, epochs=1, tensorboard=True, wandb="project")
    with monkeypatch.context() as patched:
        patched.setattr(FakeWandb, "init", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("api_key not set")))
        with pytest.raises(ValueError, match="did not start: api_key not set"):
            pretrain_in(tmp_path / "run", config)
    assert list((tmp_path / "run").iterdir()) == []
    run = pretrain_in(tmp_path / "run", config).run
    assert [call[0] for call in wandb.calls] == ["init", *["log"] * len(run.metrics.read()), "finish"]
    with monkeypatch.context() as patched:
        patched.setattr(FakeWandb, "init", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("api_key not set")))
        with pytest.raises(ValueError, match="did not start: api_key not set"):
            pretrain_in(tmp_path / "run", config, resume=True)
    assert run.latest_checkpoint() is not None  # nothing of a run that has begun is removed


class FakeMlflow(ModuleType):
    """As much of mlflow as is used; keeps what its server would."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, dict[str, Any]] = {}
        self.entities = ModuleType("mlflow.entities")
        self.entities.Metric = lambda key, value, timestamp, step: (key, value, step)  # type: ignore[attr-defined]
        self.entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"of {name}"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        name = f"run-{len(self.runs)}"
        self.runs[name] = {"experiment": experiment, "name": run_name, "status": "RUNNING", "metrics": [], "params": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status

    def log_batch(self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        self.runs[run]["metrics"] += metrics
        self.runs[run]["params"] += params

    def set_terminated(self, run: str) -> None:
        self.runs[run]["status"] = "FINISHED"


def test_mlflow_gets_all_records_and_a_resumed_run_goes_on_there(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", mlflow.entities)
    config = dataclasses.replace(tiny, epochs=1, mlflow="tests")
    run = pretrain_in(tmp_path / "run", config).run
    (kept,) = mlflow.runs.values()
    assert (kept["experiment"], kept["name"], kept["status"]) == ("of tests", "run", "FINISHED")
    assert ("lr", "0.1") in kept["params"] and ("simclr.temperature", str(config.options.temperature)) in kept["params"]
    logged = [
        (name, value, record["step"])
        for record in run.metrics.read()
        for name, value in record.items()
        if name not in ("kind", "step")
    ]
    assert kept["metrics"] == logged and {"train/loss", "eval/knn_top1"} <= {name for name, _, _ in logged}
    pretrain_in(tmp_path / "run", config, resume=True)
    assert len(mlflow.runs) == 1 and kept["status"] == "FINISHED"
    mlflow.MlflowClient = lambda: 1 // 0
    with pytest.raises(ValueError, match=r"MLflow did not start: .*MLFLOW_TRACKING_URI"):
        open_hooks(tmp_path, config, 0)


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_told_before_the_run_starts(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = importlib.import_module

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name in ("wandb", "mlflow", "torch.utils.tensorboard"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(importlib, "import_module", without)
    check_hooks(tiny)
    values: dict[str, Any] = {"tensorboard": True, "wandb": "project", "mlflow": "tests"}
    with pytest.raises(ValueError, match=rf"{package}=.* needs the package {package} .*pip install"):
        pretrain_in(tmp_path / "run", dataclasses.replace(tiny, **{package: values[package]}))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_will_be_repeated_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2):
        log.append({"kind": "train", "epoch": epoch, "step": 10 * epoch})
        log.append({"kind": "eval", "epoch": epoch, "step": 10 * epoch})
    log.keep_up_to(20, 1)  # all steps of epoch 2 are done, its evaluation is not
    assert [(r["kind"], r["epoch"]) for r in log.read()] == [("train", 1), ("eval", 1), ("train", 2)]


def test_the_evaluation_before_training_stays_unless_the_run_starts_over(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"kind": "eval", "epoch": 0, "step": 0})
    log.append({"kind": "train", "epoch": 1, "step": 5})
    log.keep_up_to(3, 0)
    assert [(r["kind"], r["epoch"]) for r in log.read()] == [("eval", 0)]
    log.keep_up_to(0, 0)
    assert log.read() == []


def test_a_log_of_before_is_read_under_the_present_names(tmp_path: Path) -> None:
    """Also one that goes on: old lines and new ones in one file."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    old = {"kind": "train", "epoch": 1, "step": 5, "loss": 2.0, "lr": 0.1, "contrastive_accuracy": 0.5}
    old |= {"embedding_std": 0.9, "embedding_rank": 7.0, "online_probe_accuracy": 0.25, "images_per_s": 9.0}
    old |= {"train_s": 1.0, "first_step_s": 2.0, "processor_s": 3.0, "peak_bytes": 4}
    lines = [old, {"kind": "eval", "epoch": 1, "step": 5, "knn": 0.75}]
    log.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log.append({"kind": "train", "epoch": 2, "step": 10, "train/loss": 1.0})
    expected = {"kind": "train", "epoch": 1, "step": 5, "train/loss": 2.0, "train/lr": 0.1, "health/std": 0.9}
    expected |= {"train/contrastive_accuracy": 0.5, "health/rankme": 7.0, "train/linear_top1": 0.25}
    expected |= {"train/images_per_s": 9.0, "time/train_s": 1.0, "time/first_step_s": 2.0, "time/processor_s": 3.0}
    expected |= {"memory/peak_bytes": 4}
    now = [expected, {"kind": "eval", "epoch": 1, "step": 5, "eval/knn_top1": 0.75}]
    now.append({"kind": "train", "epoch": 2, "step": 10, "train/loss": 1.0})
    assert log.read() == now
    log.keep_up_to(10, 1)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == now


def test_what_is_drawn_or_computed_with_is_a_number(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for name in ("train/loss", "loss", "eval/knn_top1", "knn", "train/task_accuracy", "eval/linear_top1", "peak_bytes"):
        log.append({"kind": "train", "epoch": 1, "step": 1, name: "many"})
    assert log.read() == []


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+/\w+)` \|", page, re.M))
    assert {old: full_name("train", old) for old in rows} == rows
    assert set(RENAMED) <= set(rows) and {"loss", "lr", "images_per_s"} <= set(rows)
