"""The Python door does what the command line does: names, defaults, files, bits."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fastclr
from fastclr import Run
from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.commands import embed, export, report
from fastclr.evaluate import state_hash
from fastclr.methods import SimCLROptions
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import configure
from fastclr.training.step import train_step

QUICK: dict[str, Any] = {
    "width": 0.125,
    "epochs": 2,
    "batch_size": 32,
    "lr": 0.1,
    "knn_every": 1,
    "log_every": 2,
    "device": "cpu",
    "deterministic": True,
    "temperature": 0.2,
    "size": 32,
    "augment": {"gray_p": 0.1},
}
COMMAND = "--width 0.125 --epochs 2 --batch-size 32 --lr 0.1 --knn-every 1 --log-every 2 --device cpu --deterministic"
COMMAND += " --temperature 0.2 --size 32 --gray-p 0.1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Run:
    return fastclr.pretrain(pictures, out=tmp_path_factory.mktemp("runs") / "python", **QUICK)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The folder of the same run, made on the command line."""
    folder = tmp_path_factory.mktemp("runs") / "typed"
    assert main(["pretrain", "--data", str(pictures), "--out", str(folder), *COMMAND.split()]) == 0
    return folder


def test_the_python_call_leaves_what_the_command_leaves(run: Run, typed: Path) -> None:
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in typed.iterdir()}
    assert {"report.html", "environment.json", "config.json", "encoder.safetensors"} <= set(os.listdir(run.folder))
    for name in ("config.json", "encoder.safetensors"):
        assert (run.folder / name).read_bytes() == (typed / name).read_bytes()
    assert run.config.options == SimCLROptions(temperature=0.2) and run.config.augment.gray_p == 0.1
    assert [record["eval/knn_top1"] for record in run.metrics if record["kind"] == "eval"] and run.finished
    assert state_hash(run.encoder) == state_hash(Run(typed).encoder) and not run.encoder.training


def test_every_method_stores_what_its_command_stores(run: Run, typed: Path, pictures: Path) -> None:
    found = [run.knn(k=(3, 1), device="cpu"), run.probe(l2=0.01, device="cpu"), run.knn(features="z", device="cpu")]
    assert main(["knn", str(typed), "--k", "3", "1", "--device", "cpu"]) == 0
    assert main(["probe", str(typed), "--l2", "0.01", "--device", "cpu"]) == 0
    assert main(["knn", str(typed), "--features", "z", "--device", "cpu"]) == 0
    stored = json.loads((typed / "results.json").read_text())
    assert run.results == stored and list(stored.values()) == json.loads(json.dumps(found))
    done = run.embed(pictures / "test", run.folder / "features.npz", device="cpu")
    assert done is not None and (done.images, done.dim) == (64, 64)
    assert run.export().path == run.folder / "export" / "safetensors" / "encoder.safetensors"
    before = (run.folder / "report.html").read_bytes()
    assert b"kNN" in run.report(device="cpu").read_bytes() != before


def test_finetune_and_distill_return_networks(run: Run, typed: Path) -> None:
    tuned = run.finetune(share="100%", epochs=1, device="cpu", deterministic=True)
    arguments = ["--share", "100%", "--epochs", "1", "--device", "cpu", "--deterministic"]
    assert main(["finetune", str(typed), *arguments]) == 0
    student = run.distill(epochs=1, batch_size=32, device="cpu")
    for name in ("finetune.json", "model.safetensors"):
        here, there = (folder / "finetune-100pct" / name for folder in (run.folder, typed))
        assert here.read_bytes() == there.read_bytes()
    assert tuned.result["accuracy"] == run.results["finetune-100pct"]["accuracy"]
    assert student.result["teacher"] == "finetune-100pct" and tuned.model(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
    with pytest.raises(FileExistsError, match="already exists"):
        run.finetune(share="100%")


def parameters(function: Any) -> dict[str, Any]:
    every = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in every if each.kind is not inspect.Parameter.VAR_KEYWORD}


APART = ("run", "bare")  # whose features: `Run`, and `Run.of_encoder`


def test_names_and_defaults_are_those_of_the_commands() -> None:
    for method, options in ((Run.embed, embed.EmbedOptions), (Run.export, export.ExportOptions)):
        here = {name: default for name, default in parameters(method).items() if name != "self"}
        there = {each.name: each.default for each in dataclasses.fields(options) if each.name not in APART}
        assert {n: str(d) for n, d in here.items() if n != "images"} == {
            n: str(d) for n, d in there.items() if n != "images"
        }
    there = {each.name: each.default for each in dataclasses.fields(report.ReportOptions)}
    assert parameters(Run.report).items() - {("self", inspect.Parameter.empty)} <= there.items()
    assert parameters(Run.knn).items() <= {"self": inspect.Parameter.empty, "k": (), "temperature": None}.items()
    assert parameters(Run.probe)["protocol"] == "lbfgs"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temprature": 0.1}, TypeError, "no option 'temprature'; did you mean 'temperature'"),
        ({"simclr": {"temprature": 0.1}}, TypeError, "no option of simclr 'temprature'; did you mean 'temperature'"),
        ({"augment": {"sise": 32}}, TypeError, "no option of augment 'sise'; did you mean 'size'"),
        ({"augment": 32}, TypeError, "augment must be a dictionary or AugmentConfig, got int"),
        ({"method": "simcrl"}, ValueError, "did you mean 'simclr'"),
        ({"method": torch.nn.ReLU()}, ValueError, "method must be one of simclr"),
        ({"encoder": "resnet81"}, ValueError, "similar names: resnet18"),
        ({"encoder": 18}, TypeError, "encoder must be a torch.nn.Module, or the name of one, got 18"),
        ({"preset": "cifra10"}, ValueError, "did you mean 'cifar10'"),
        ({"lr": "fast"}, ValueError, "lr in the configuration must be float, got 'fast'"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"options": SimCLROptions()}, TypeError, "no option 'options'"),
        ({"given": torch.nn.ReLU()}, TypeError, "no option 'given'"),
        ({"stem": "cifar", "encoder": "vit_tiny_patch16_224"}, ValueError, "stem='cifar' needs a ResNet"),
        ({"device": "cuda:99"}, ValueError, "cuda"),
    ],
)
def test_what_is_cheap_is_checked_before_any_image_is_read(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any, **others: Any) -> None:
        raise AssertionError("the images were read")

    monkeypatch.setattr("fastclr.training.build.load_splits", read)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        fastclr.pretrain("shapes", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_options_may_be_what_the_configuration_holds(pictures: Path) -> None:
    wanted = {"simclr": SimCLROptions(temperature=0.3), "augment": AugmentConfig.cifar(40), "data": pictures}
    config = configure(PretrainConfig(), {**wanted, "device": torch.device("cpu")})
    assert (config.options, config.augment) == (wanted["simclr"], wanted["augment"])
    assert (config.data, config.device) == (str(pictures), "cpu")
    supervised = configure(config, {"method": "supervised", "supervised": {"layer": 1}})
    assert supervised.method == "supervised" and supervised.options.layer == 1  # type: ignore[attr-defined]


def interrupt_at(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(training: Any, batch: Any) -> None:
        train_step(training, batch)
        if training.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("fastclr.training.loop.train_step", stepped)


def test_an_interrupted_call_returns_a_run_that_goes_on_to_the_same_end(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(6, signal.SIGINT, patch)
        stopped = fastclr.pretrain(pictures, out=tmp_path / "run", **QUICK)
    assert not stopped.finished and (stopped.knn(device="cpu")["accuracy"] >= 0)
    half = state_hash(stopped.encoder)
    ended = stopped.resume()
    assert (
        ended.finished and state_hash(ended.encoder) == state_hash(run.encoder) == state_hash(stopped.encoder) != half
    )
    with pytest.raises(ValueError, match=r"lr: 0\.1 there, 0\.2 now"):
        ended.resume(lr=0.2)


def test_a_termination_ends_the_program(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(2, signal.SIGTERM, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 2"):
        fastclr.pretrain(pictures, out=tmp_path / "run", **QUICK)


def test_the_import_stays_cheap() -> None:
    code = "import sys, fastclr; fastclr.__version__, dir(fastclr); print(sorted({'torch', 'timm'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
    assert {"pretrain", "Run"} <= set(fastclr.__all__)
