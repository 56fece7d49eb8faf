"""Features of every stage equal what a forward hook sees, and encoders without stages are refused with a reason."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY
from torch import Tensor, nn

from fastclr import Run
from fastclr.cli import main
from fastclr.methods.encoders import build_encoder
from fastclr.methods.stages import stage_module
from fastclr.training.loop import pretrain_in

# an encoder, the modules that are its stages, and how many tokens come before those of the patches
CASES: dict[str, tuple[dict[str, Any], str, list[int], int]] = {
    "resnet18": ({"size": 32, "width": 0.25}, "layer{}", [1, 2, 3, 4], 0),
    "simclr_skresnet50": ({"size": 48, "width": 0.125}, "layer{}", [1, 2, 3, 4], 0),
    "vit_tiny_patch16_224": ({"size": 32, "patch_size": 8}, "blocks.{}", list(range(12)), 1),
    "convnext_atto": ({"size": 64}, "stages.{}", [0, 1, 2, 3], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stage_is_what_a_hook_sees_averaged_over_positions(name: str) -> None:
    options, path, numbers, prefix = CASES[name]
    torch.manual_seed(0)
    model = build_encoder(name, **options).eval()
    images = torch.randn(2, 3, options["size"], options["size"])
    seen: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        return lambda module, inputs, output: seen.update({number: output})

    for number in numbers:
        model.get_submodule(path.format(number)).register_forward_hook(keep(number))
    with torch.no_grad():
        model(images)
        whole = dict(seen)
        for index, number in enumerate(numbers):
            maps = whole[number]
            exact = maps[:, prefix:].mean(1) if maps.dim() == 3 else maps.mean((2, 3))
            found = stage_module(model, f"stage{index + 1}", options["size"])(images)
            torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
    last = len(numbers)
    with pytest.raises(ValueError, match=rf"stage1 to stage{last}, got 'stage{last + 1}'"):
        stage_module(model, f"stage{last + 1}", options["size"])
    for wrong in ("stage0", "stage", "stagex", "stage-1"):
        with pytest.raises(ValueError, match="got 'stage"):
            stage_module(model, wrong, options["size"])


class Own(nn.Module):
    """An encoder of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.second(self.first(images).relu()).mean((2, 3))
        return features


class Staged(Own):
    """One that tells of its stages."""

    def forward_intermediates(self, images: Tensor, intermediates_only: bool = False) -> list[Tensor]:
        first = self.first(images).relu()
        return [first, self.second(first)]


def test_ones_own_encoder_needs_the_method() -> None:
    model = Own()
    with pytest.raises(ValueError, match="forward_intermediates, which this Own does not have: add a method"):
        stage_module(model, "stage1", 16)
    own, images = Staged(), torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(stage_module(own, "stage2", 16)(images), own(images))
    assert stage_module(own, "stage1", 16)(images).shape == (3, 4)


def test_probe_and_knn_take_a_stage(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_in(tmp_path, dataclasses.replace(TINY, data=str(pictures), epochs=1), progress=False)
    assert main(["knn", str(tmp_path), "--features", "stage2"]) == 0
    assert "features stage2" in capsys.readouterr().out
    run = Run(tmp_path)
    last, h = run.knn(features="stage4"), run.knn()
    assert last["accuracy"] == h["accuracy"]  # of a ResNet, h is the average of the last stage
    assert {"knn", "knn-stage2", "knn-stage4"} <= set(json.loads((tmp_path / "results.json").read_text()))
    assert main(["probe", str(tmp_path), "--features", "stage9"]) == 2
    assert "stage1 to stage4, got 'stage9'" in capsys.readouterr().err
