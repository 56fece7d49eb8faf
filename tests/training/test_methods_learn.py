"""Every method learns from the built-in shapes: its loss falls, and kNN beats that of the untrained encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from effort import EFFORT

from fastclr.data import Splits, make_shapes
from fastclr.evaluate import knn_accuracy
from fastclr.methods.model import build_model
from fastclr.training.evaluation import run_features
from fastclr.training.health import find_collapse
from fastclr.training.loop import train_in
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS

LONG = EFFORT > 1  # `make test-long`: three minutes a method, not twenty seconds
# gain of kNN accuracy, of 8 classes, that must be reached in ten epochs of 1,200 images, and in thirty of 4,000, where
# it is half of what was measured
MARGINS: dict[str, tuple[float, float]] = {
    "demo": (0.03, 0.2),
    "shapes-dcl": (0.07, 0.17),
    "shapes-supcon": (0.12, 0.4),
    "shapes-moco-v2": (0.03, 0.18),
    "shapes-moco-v3": (0.04, 0.2),
    "shapes-cpc": (0.01, 0.04),
    "shapes-pirl": (0.015, 0.14),
    "shapes-byol": (0.04, 0.1),
    "shapes-simsiam": (0.02, 0.13),
    "shapes-barlow": (0.03, 0.18),
    "shapes-vicreg": (0.06, 0.2),
    "shapes-dino": (0.02, 0.018),
    "shapes-lejepa": (0.02, 0.2),
    "shapes-jigsaw": (0.03, 0.07),
    "shapes-context": (0.02, 0.07),
    "shapes-autoencoder": (0.01, 0.1),
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MARGINS)
def test_a_method_learns(name: str, tmp_path: Path) -> None:
    data = make_shapes(train=4000 if LONG else 1200, test=1000)
    changes = {"warmup_epochs": 1.0, "batch_size": 64, "log_every": 4, "device": "cpu", "amp": "off", "knn_every": 0}
    config = dataclasses.replace(PRESETS[name], **changes, epochs=30 if LONG else 10)
    torch.manual_seed(config.seed)
    untrained = run_features(build_model(config).encoder, data, config)  # the weights that the training starts from
    ended = train_in(tmp_path / "run", config, progress=False, data=data)
    records = [record for record in ended.run.metrics.read() if record["kind"] == "train"]
    quarter = len(records) // 4
    early = max(record["train/loss"] for record in records[: 2 * quarter])  # a queue of random keys is easy at first
    late = sum(record["train/loss"] for record in records[-quarter:]) / quarter
    assert late < early
    assert find_collapse(records, "") is None
    assert ended.features is not None
    k, tau = config.knn_k, config.knn_temperature
    before, after = (knn_accuracy(features, k=k, temperature=tau) for features in (untrained, ended.features))
    assert after > before + MARGINS[name][LONG], (before, after)


@pytest.mark.parametrize("has_up", [True, False])
def test_rotation_is_told_where_images_have_an_up_and_is_chance_where_they_have_none(
    has_up: bool, tmp_path: Path
) -> None:
    train = make_shapes(train=600, test=8).train
    images = train.images
    assert isinstance(images, torch.Tensor)
    if has_up:  # lit from above
        images = (images * torch.linspace(1.0, 0.3, images.shape[1])[:, None, None]).to(torch.uint8)
    data = Splits(dataclasses.replace(train, images=images), None)
    changes = {"epochs": 6, "warmup_epochs": 1.0, "batch_size": 64, "log_every": 4, "width": 0.125}
    config = with_method(PRESETS["demo"], "rotation", **changes, lr=0.1, device="cpu", amp="off", knn_every=0)
    ended = train_in(tmp_path / "run", config, progress=False, data=data)
    told = [record["train/task_accuracy"] for record in ended.run.metrics.read() if record["kind"] == "train"][-1]
    assert told > 0.5 if has_up else abs(told - 0.25) < 0.05, told
