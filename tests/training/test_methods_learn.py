"""Every method learns from the built-in shapes: its loss falls, and kNN beats that of the untrained encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fastclr.data import make_shapes
from fastclr.evaluate import knn_accuracy
from fastclr.methods.model import build_model
from fastclr.training.evaluation import run_features
from fastclr.training.health import find_collapse
from fastclr.training.loop import train_in
from fastclr.training.presets import PRESETS

# points of kNN accuracy, of 8 classes, that ten short epochs must add
MARGINS: dict[str, float] = {
    "demo": 0.03,
    "shapes-dcl": 0.07,
    "shapes-supcon": 0.12,
    "shapes-moco-v2": 0.03,
    "shapes-moco-v3": 0.04,
    "shapes-byol": 0.04,
    "shapes-simsiam": 0.02,
    "shapes-barlow": 0.03,
    "shapes-vicreg": 0.06,
    "shapes-lejepa": 0.02,
}
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MARGINS)
def test_a_method_learns(name: str, tmp_path: Path) -> None:
    data = make_shapes(train=1200, test=1000)
    changes = {"epochs": 10, "warmup_epochs": 1.0, "batch_size": 64, "log_every": 4, "device": "cpu", "amp": "off"}
    config = dataclasses.replace(PRESETS[name], **changes, knn_every=0)
    torch.manual_seed(config.seed)
    untrained = run_features(build_model(config).encoder, data, config)  # the weights that the training starts from
    ended = train_in(tmp_path / "run", config, progress=False, data=data)
    records = [record for record in ended.run.metrics.read() if record["kind"] == "train"]
    quarter = len(records) // 4
    early = max(record["loss"] for record in records[: 2 * quarter])  # a queue of random keys is easy at first
    late = sum(record["loss"] for record in records[-quarter:]) / quarter
    assert late < early
    assert find_collapse(records, "") is None
    assert ended.features is not None
    k, tau = config.knn_k, config.knn_temperature
    before, after = (knn_accuracy(features, k=k, temperature=tau) for features in (untrained, ended.features))
    assert after > before + MARGINS[name], (before, after)
