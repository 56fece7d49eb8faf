"""A network of the user's own: trained, evaluated, exported, gone on with; given as a module or made by a factory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import my_nets
import pytest
import torch
from safetensors.torch import load_file
from test_api import QUICK

import fastclr
from fastclr import Run
from fastclr.cli import main
from fastclr.evaluate import state_hash
from fastclr.methods.own_encoder import own_encoder
from fastclr.training import loop

OWN: dict[str, Any] = {name: value for name, value in QUICK.items() if name != "width"}


def own(seed: int = 0) -> my_nets.Maps:
    torch.manual_seed(seed)
    return my_nets.Maps()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Run:
    return fastclr.pretrain(pictures, encoder=own(), out=tmp_path_factory.mktemp("runs") / "own", **OWN)


def test_the_module_is_copied_trained_and_keeps_its_names(run: Run) -> None:
    given, trained = own(), run.encoder
    assert isinstance(trained, my_nets.Maps) and run.config.encoder == "<my_nets.Maps>"
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        plain = my_nets.Maps().eval()
        plain.load_state_dict(load_file(run.folder / "encoder.safetensors"))  # the weights keep their names
        torch.testing.assert_close(trained(images), plain(images).mean(dim=(2, 3)))
    assert trained(images).shape == (3, 12)
    assert not torch.equal(trained.stem.weight, given.stem.weight)


def test_a_module_starts_from_its_weights_and_stays_as_it_was(pictures: Path, tmp_path: Path) -> None:
    given = own(seed=3)
    before = state_hash(given)
    run = fastclr.pretrain(pictures, encoder=given, out=tmp_path / "run", **{**OWN, "lr": 1e-12, "weight_decay": 0.0})
    assert state_hash(given) == before and given.training
    torch.testing.assert_close(run.encoder.state_dict()["stem.weight"], given.stem.weight)


def test_all_that_evaluates_takes_it(run: Run, pictures: Path) -> None:
    again = Run(run.folder, encoder=own(seed=1))  # other weights: the run has its own
    assert state_hash(again.encoder) == state_hash(run.encoder)
    assert again.knn(device="cpu") == run.knn(device="cpu")
    assert again.probe(l2=0.1, device="cpu")["accuracy"] > 1 / 8
    done = again.embed(pictures / "test", run.folder / "features.npz", device="cpu")
    assert done is not None and done.dim == 12
    assert again.export("pt2").difference is not None
    assert again.export("safetensors").lines is None
    assert "my_nets.Maps" in (run.folder / "export" / "safetensors" / "README.md").read_text()
    tuned = again.finetune(share="100%", epochs=1, device="cpu")
    assert tuned.model(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    assert again.distill(epochs=1, batch_size=32, student="resnet18", student_width=0.125, device="cpu").result
    with pytest.raises(ValueError, match="cannot start from random weights"):
        again.finetune(share="100%", epochs=1, from_scratch=True, device="cpu")
    with pytest.raises(ValueError, match="cannot start from random weights"):
        again.distill(epochs=1, device="cpu")


def test_a_run_says_that_its_module_must_be_given(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Run(run.folder)
    assert opened.metrics == run.metrics and opened.finished
    for use in (lambda: opened.encoder, opened.knn, opened.resume, lambda: opened.export(overwrite=True)):
        with pytest.raises(
            ValueError, match=r"a my_nets\.Maps that was given as a module.*Run\(folder, encoder=module\)"
        ):
            use()
    assert main(["knn", str(run.folder)]) == 2
    assert "encoder=module" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not match"):
        _ = Run(run.folder, encoder=my_nets.Maps(13)).encoder


def test_a_factory_is_named_on_the_command_line_and_makes_the_run_again(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["pretrain", "--preset", "cifar10", "--data", str(pictures), "--encoder", "my_nets:make"]
    options = ["--epochs", "1", "--batch-size", "32", "--device", "cpu", "--deterministic"]
    assert main([*start, *options, "--out", str(tmp_path / "typed")]) == 0  # a preset has a stem, which is not for it
    assert main(["knn", str(tmp_path / "typed"), "--device", "cpu"]) == 0
    assert "kNN accuracy" in capsys.readouterr().out
    called = fastclr.pretrain(
        pictures, preset="cifar10", encoder="my_nets:make", out=tmp_path / "called", epochs=1, batch_size=32,
        device="cpu", deterministic=True,
    )  # fmt: skip
    assert state_hash(called.encoder) == state_hash(Run(tmp_path / "typed").encoder)
    assert main([*start, "--width", "2", "--out", str(tmp_path / "wide")]) == 2
    assert "width, stem and patch_size must have their defaults for my_nets:make" in capsys.readouterr().err
    with pytest.raises(ValueError, match="makes its encoder my_nets:make itself"):
        Run(called.folder, encoder=own())


def test_the_command_finds_a_factory_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text((Path(my_nets.__file__)).read_text())
    code = "import sys; sys.path.remove(''); from fastclr.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["pretrain", "--data", "no/such/place", "--encoder", "nets:make"]
    environment = os.environ | {"PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no/such/place does not exist" in done.stderr  # the network was made before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_nets:make", "no_nets cannot be imported: No module named"),
        ("my_nets:mak", "my_nets has no 'mak', but"),
        ("my_nets:number", r"number\(\) must return a torch.nn.Module, got int"),
        ("my_nets:broken", r"broken\(\) raises RuntimeError: no weights here"),
        ("os:abort", "must name a function or a class of torch.nn.Module, got <built-in"),
        ("my_nets:Tuple", "must return features .* got tuple"),
        ("my_nets:Whole", r"got shape \(1, 3\) of torch.float32 for N=2"),
        ("my_nets:Grey", r"must take images \[N, 3, 32, 32\] of float32, but it raises RuntimeError"),
        ("my_nets:Frozen", "has no parameters to train"),
    ],
)
def test_what_is_no_encoder_is_said(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(name)}.*{message}|encoder {re.escape(name)}: .*{message}"):
        own_encoder(name, None, 32)


def killed_at_step(number: int, pictures: Path, out: Path) -> None:
    step = loop.train_step

    def stepped(training: Any, batch: Any) -> None:
        step(training, batch)
        if training.step == number:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train_step = stepped
    fastclr.pretrain(pictures, encoder=own(), out=out, **OWN)


@pytest.mark.parametrize("step", [1, 6])
def test_kill_and_resume_end_where_an_undisturbed_run_ends(run: Run, pictures: Path, tmp_path: Path, step: int) -> None:
    """Another process is killed, with dropout and batch norm in the network; at step 1 only the start is on disk."""
    forked.run(killed_at_step, step, pictures, tmp_path / "run", status=-signal.SIGKILL)
    ended = Run(tmp_path / "run", encoder=own(seed=5)).resume()  # the weights given now are not those of the start
    assert state_hash(ended.encoder) == state_hash(run.encoder)
    names = ("encoder.safetensors", "config.json")
    assert all((ended.folder / name).read_bytes() == (run.folder / name).read_bytes() for name in names)
    assert json.loads((ended.folder / "config.json").read_text())["encoder"] == "<my_nets.Maps>"
