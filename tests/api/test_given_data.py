"""Images that a program holds: trained on, evaluated, gone on with, on one process and on two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_run import Shapes, train
from my_nets import Maps
from test_api import interrupt_at

import fastclr
from fastclr import Run
from fastclr.data import make_shapes
from fastclr.evaluate import state_hash

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(str(tmp_path_factory.mktemp("runs") / "given"))


def test_a_dataset_trains_as_the_arrays_of_its_pixels(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    quick = {name: getattr(run.config, name) for name in ("epochs", "batch_size", "log_every", "device", "amp")}
    splits = make_shapes(train=128, test=64)
    assert splits.test is not None and isinstance(splits.train.images, torch.Tensor) and len(splits.test) == 64
    arrays = {
        name: (np.asarray(part.images), part.labels.numpy())
        for name, part in (("train", splits.train), ("test", splits.test))
    }
    encoder = Maps()
    encoder.drop.p = 0.0
    same = fastclr.pretrain(arrays, encoder=encoder, out=tmp_path / "arrays", deterministic=True, **quick)
    assert state_hash(same.encoder) == state_hash(run.encoder)
    assert same.knn(device="cpu")["accuracy"] == run.knn(device="cpu")["accuracy"]


def test_what_was_given_is_given_again_or_elsewhere(run: Run, pictures: Path) -> None:
    opened = Run(run.folder, encoder=Maps())
    for use in (opened.knn, opened.probe, opened.resume, lambda: opened.finetune(share="100%")):
        with pytest.raises(ValueError, match=r"a builtins\.dict that was given in Python .*Run\(folder, data=\.\.\.\)"):
            use()
    data = {"train": Shapes(True, 128), "test": Shapes(False, 64)}
    assert opened.knn(data=data, device="cpu") == run.knn(device="cpu")
    assert Run(run.folder, encoder=Maps(), data=data).knn(device="cpu") == run.knn(device="cpu")
    assert opened.knn(data=pictures, device="cpu")["test_images"] == 64
    assert opened.report(device="cpu").is_file()  # without pictures
    done = opened.embed(Shapes(False, 64), run.folder / "features.npz", device="cpu")
    assert done is not None and (done.images, done.dim) == (64, 12)
    longer = Run(run.folder, encoder=Maps(), data=data).resume(epochs=3)
    assert longer.finished and longer.metrics[-1]["epoch"] == 3
    assert longer.finetune(share="100%", epochs=1, device="cpu").result["n_labels"] == 128


@pytest.mark.parametrize("data", [iter([1]), torch.nn.ReLU(), 7])
def test_what_holds_no_images_is_said_at_once(data: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="data must be a path, a Dataset with a length or arrays, got"):
        fastclr.pretrain(data, out=tmp_path / "run")  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_train_one_model_on_a_dataset_of_ones_own(run: Run, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, str(HERE / "given_run.py"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    both = Run(tmp_path / "run", encoder=Maps())
    one, two = ([r for r in each.metrics if r["kind"] == "train"] for each in (run, both))
    assert both.finished and len(two) == 8
    losses = [[r["train/loss"] for r in records] for records in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # up to rounding, as it grows
    weights, alone = both.encoder.state_dict()["stem.weight"], run.encoder.state_dict()["stem.weight"]
    torch.testing.assert_close(weights, alone, rtol=1e-2, atol=1e-3)


def test_an_interrupted_run_keeps_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook the stop button returns the run, and it goes on without being told again."""
    images = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with monkeypatch.context() as patch:
        interrupt_at(2, signal.SIGINT, patch)
        options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "device": "cpu", "size": 16}
        stopped = fastclr.pretrain(images.permute(0, 3, 1, 2), encoder=Maps(), out=tmp_path / "run", **options)
    assert not stopped.finished and stopped.resume().finished
