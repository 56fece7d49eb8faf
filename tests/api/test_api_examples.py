"""The examples of training run as their first lines say, and learn."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from forked import run, script

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "batch", "package"),
    [
        ("own_network", 64, "fastclr"),
        ("labels_later", 64, "fastclr"),
        ("three_views", 128, "fastclr"),
        ("with_lightning", 128, "pytorch_lightning"),
        ("with_accelerate", 128, "accelerate"),
    ],
)
def test_example_learns(name: str, batch: int, package: str) -> None:
    pytest.importorskip(package, reason=f"the example needs {package}, of the extra dev")
    said = run(script, EXAMPLES / f"{name}.py")
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", said.out)]
    chance = math.log(2 * batch - 1)  # NT-Xent of views that are all alike
    assert len(losses) >= 3 and losses[-1] < losses[0] and losses[-1] < 0.92 * chance
    if name == "own_network":
        assert float(re.findall(r"kNN (\d\.\d+)", said.out)[0]) > 0.9
    if name == "labels_later":
        scores = [float(score) for score in re.findall(r"accuracy (\d\.\d+)", said.out)]
        assert len(scores) == 2 and min(scores) > 0.6  # chance is a third
        assert "the encoder has seen them in pretraining" in said.err
