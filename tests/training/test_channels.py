"""Runs on images of other numbers of channels and depths, from the command line to embedding, export and report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tiny_run import TINY
from torch import nn

import fastclr
from fastclr.augment import AugmentConfig
from fastclr.augment.contact_sheet import as_rgb, contact_sheet
from fastclr.commands.preset import parse
from fastclr.commands.pretrain import PretrainOptions
from fastclr.methods.encoders import build_encoder, channels_of, feature_dim
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import configure
from fastclr.transfer.feature_file import read_features


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 5-band images of 16 bits, whose third band tells them apart."""
    folder = tmp_path_factory.mktemp("bands")
    draws = np.random.default_rng(0)
    for n in range(64):
        values = draws.integers(0, 1000, (20, 20, 5)).astype(np.uint16)
        values[..., 2] += 2000 * (n % 2)
        path = folder / f"{n % 2}" / f"{n:02d}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, values)
    return folder


def test_a_run_of_five_bands(bands: Path, tmp_path: Path) -> None:
    options = {"width": 0.125, "size": 16, "epochs": 2, "batch_size": 16, "lr": 0.1, "amp": "off", "device": "cpu"}
    options |= {"cache": "off", "holdout": 0.25, "blur_p": 0.0, "loader": "torch", "workers": 0}
    run = fastclr.pretrain(bands, channels=5, range="auto", out=tmp_path / "run", **options)  # type: ignore[arg-type]
    config = run.config
    assert config.augment.channels == 5 and config.augment.gray_p == 0 and config.augment.jitter[2:] == (0, 0)
    assert isinstance(config.range, tuple) and 0 <= config.range[0] < 20 and 2900 < config.range[1] <= 2999
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["range"] == list(config.range) and stored["augment"]["channels"] == 5
    assert run.encoder.conv1.in_channels == 5 and (tmp_path / "run" / "report.html").is_file()
    assert run.knn(device="cpu")["test_images"] == 16
    # other images, brighter ones, are scaled by the range of the run
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "a.npy", np.full((20, 20, 5), 60000, np.uint16))
    run.embed(tmp_path / "more", tmp_path / "f.npz", device="cpu")
    with torch.no_grad():
        white = run.encoder.eval()(torch.ones(1, 5, 16, 16)).numpy()
    np.testing.assert_allclose(read_features(tmp_path / "f.npz").features, white, atol=1e-4)
    exported = run.export("safetensors")
    card = exported.card.read_text()
    assert "`[batch, 5, 16, 16]`, 5 channel(s) in [0, 1]" in card
    assert f"so that {config.range[0]:g} is 0 and {config.range[1]:g} is 1" in card
    assert exported.lines is not None and exported.difference is not None and "Conv2d(5," in exported.lines
    again = fastclr.pretrain(bands, channels=5, range="auto", out=tmp_path / "run", resume="auto", **options)  # type: ignore[arg-type]
    assert again.config.range == config.range


def test_stems_follow() -> None:
    """ResNets of either stem, a widened one, a ViT and a module of one's own; timm's own layers of so many channels."""
    for name, options in (
        ("resnet18", {"size": 32}),
        ("resnet18", {"size": 128}),
        ("resnet18", {"size": 64, "width": 0.5}),
    ):
        for channels in (1, 13):
            encoder = build_encoder(name, channels=channels, **options)  # type: ignore[arg-type]
            assert encoder.conv1.in_channels == channels_of(encoder) == channels
            assert feature_dim(encoder, 32) == encoder.num_features
    vit = build_encoder("vit_tiny_patch16_224", size=32, patch_size=8, channels=4)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, in_chans=4)
    assert {n: t.shape for n, t in vit.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    own = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU())
    assert feature_dim(build_encoder("<a.b>", given=own, size=16, channels=2), 16) == 6
    with pytest.raises(ValueError, match=r"must take images \[N, 3, 16, 16\]"):
        build_encoder("<a.b>", given=own, size=16)


def test_options_of_channels() -> None:
    """The flag and the keyword leave colours out of the defaults, and refuse those that are asked for."""
    options = parse(PretrainOptions, ["--data", "x", "--channels", "13", "--range", "0", "10000"], "p", TINY)
    assert options.config.augment == TINY.augment.with_channels(13) and options.config.range == (0, 10000)
    assert configure(PretrainConfig(), {"channels": 1}).augment == PretrainConfig().augment.with_channels(1)
    assert configure(PretrainConfig(), {"augment": {"channels": 2}}).augment.gray_p == 0
    with pytest.raises(ValueError, match="saturation, hue and grey need 3 channels, got channels=4"):
        configure(PretrainConfig(), {"channels": 4, "gray_p": 0.2})
    with pytest.raises(ValueError, match="range must be LO HI"):
        configure(PretrainConfig(), {"range": (5, 1)})
    stored = PretrainConfig.from_dict({**PretrainConfig(range=(1, 2)).as_dict(), "range": [1, 2]})
    assert stored.range == (1, 2) and stored.reading.range == (1, 2)


def test_contact_sheets_of_bands() -> None:
    config = AugmentConfig(16).with_channels(7)
    sheet, _ = contact_sheet([torch.full((20, 20, 7), 9, dtype=torch.uint8)], config, views=2)
    assert sheet.shape == (16, 3 * 16 + 8, 3) and (sheet[:16, :16] == 9).all()
    assert torch.equal(as_rgb(torch.arange(2).view(1, 1, 2)), torch.zeros(1, 1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"channels=7, got \[3\]"):
        contact_sheet([torch.zeros(20, 20, 3, dtype=torch.uint8)], config)
