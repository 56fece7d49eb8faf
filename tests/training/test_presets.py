from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from fastclr.cli import main
from fastclr.commands.preset import parse
from fastclr.commands.pretrain import PretrainOptions
from fastclr.methods import SimCLROptions
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.optim import peak_lr, warmup_steps
from fastclr.training.presets import PRESETS

# found by trial, of the peak at any batch
SHAPES_RATES = {
    "dcl": 0.2,
    "supcon": 0.3,
    "moco-v2": 0.1,
    "moco-v3": 0.3,
    "byol": 0.3,
    "simsiam": 0.2,
    "barlow": 0.3,
    "vicreg": 0.1,
    "dino": 0.3,
    "lejepa": 2e-3,
    "jigsaw": 0.125,
    "context": 0.1,
    "autoencoder": 2e-3,
    "cpc": 5e-3,
    "pirl": 0.3,
    "gan": 1e-3,
    "clip": 2e-3,
    "siglip": 2e-3,
    "blip-itc": 2e-3,
    "coca": 2e-3,
}
# peak lr as it is and with --batch-size 256, by hand; warm-up in epochs; encoder's parameters in millions (published)
EXPECTED = {
    "demo": (0.5, 0.5, 2, None),
    "cifar10": (0.06, 0.03, 0, 11.17),  # 0.03 * 512 / 256
    "cifar10-short": (0.12, 0.06, 0, 11.17),
    "imagenet-100ep": (4.8, 1.2, 10, 23.5),  # 0.075 * 64, 0.075 * 16
    "imagenet-1000ep": (4.8, 1.2, 10, 23.5),
    "imagenet": (4.8, 1.2, 10, 23.5),
    "simclr-v2": (6.4, 1.6, 40, 23.5),  # 0.1 * 64, 0.1 * 16; 5% of 800
    **{f"shapes-{name}": (lr, lr, 2, None) for name, lr in SHAPES_RATES.items()},
    # the sources' rates at 256 images, times the batch
    "cifar10-dcl": (0.24, 0.12, 0, 11.17),
    "cifar10-supcon": (0.72, 0.18, 10, 11.17),  # 0.5 * 0.1 / 0.07 = 0.714 at 1024
    "cifar10-moco-v1": (0.06, 0.03, 0, 11.17),
    "cifar10-moco-v2": (0.12, 0.06, 0, 11.17),  # of a mean, where the source adds
    "cifar10-moco-v3": (0.24, 0.12, 0, 11.17),
    "cifar10-cpc": (2e-4, 2e-4, 0, 11.17),
    "cifar10-pirl": (0.06, 0.03, 0, 11.17),
    "cifar10-byol": (0.06, 0.03, 0, 11.17),  # of a loss four times the source's
    "cifar10-simsiam": (0.06, 0.03, 0, 11.17),
    "cifar10-barlow": (0.24, 0.12, 0, 11.17),
    "cifar10-vicreg": (0.24, 0.12, 0, 11.17),
    "cifar10-rotation": (0.1, 0.2, 0, 11.17),  # 0.1 at 128
    "cifar10-jigsaw": (0.1, 0.1, 0, 11.17),
    "cifar10-context": (0.1, 0.1, 0, 11.17),
    "cifar10-autoencoder": (1e-3, 1e-3, 0, 11.17),
    "cifar10-gan": (2e-4, 2e-4, 0, 11.17),
    "cifar10-lejepa": (2e-3, 2e-3, 0, 11.17),
    "imagenet-dcl": (1.2, 1.2, 10, 23.5),
    "imagenet-rotation": (0.1, 0.1, 0, 23.5),
    "imagenet-jigsaw": (0.1, 0.1, 5, 23.5),
    "imagenet-context": (0.2, 0.1, 5, 23.5),
    "cifar10-dino": (0.24, 0.12, 0, 11.17),
    "imagenet-dino": (1e-3, 5e-4, 10, 21.67),
    "imagenet-moco-v1": (0.03, 0.03, 0, 23.5),
    "imagenet-moco-v2": (0.03, 0.03, 0, 23.5),
    "imagenet-moco-v3": (9.6, 0.6, 10, 23.5),
    "imagenet-pirl": (0.12, 0.03, 0, 23.5),
    "imagenet-byol": (3.2, 0.2, 10, 23.5),
    "imagenet-simsiam": (0.1, 0.05, 0, 23.5),
    "imagenet-barlow": (1.6, 0.2, 10, 23.5),
    "imagenet-vicreg": (1.6, 0.2, 10, 23.5),
    "plip": (1e-5, 1e-5, 0.25, 87.46),  # 5% of 5 epochs; CLIP's ViT-B/32 without its projection
}


def parsed(name: str, *arguments: str) -> PretrainConfig:
    """The configuration that the command line makes."""
    return parse(PretrainOptions, ["--preset", name, *arguments], "fastclr pretrain").config


def test_every_preset_is_checked_here() -> None:
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_the_published_rates_warmups_and_models(name: str) -> None:
    peak, peak_at_256, warmup, millions = EXPECTED[name]
    config = parsed(name)
    assert config == PRESETS[name]
    assert peak_lr(config) == pytest.approx(peak, rel=1e-12)
    assert peak_lr(parsed(name, "--batch-size", "256")) == pytest.approx(peak_at_256, rel=1e-12)
    assert warmup_steps(config, 100) == 100 * warmup
    with torch.device("meta"):
        model = build_model(config)
    if millions is not None:
        assert sum(p.numel() for p in model.encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    size = config.augment.size
    if config.head != "none":
        assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, config.head_dim)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    # decay 0.9 and epsilon 1e-5 of google-research/simclr (run.py, resnet.py)
    bare = not config.head_bn or (config.head == "linear" and config.head_last_bn == "none")
    has_none = config.norm == "layer" or (config.encoder.startswith("vit") and bare)
    assert {(m.momentum, m.eps) for m in norms} == (set() if has_none else {(0.1, 1e-5)})


def test_the_imagenet_presets_are_the_papers_setting() -> None:
    config = PRESETS["imagenet-100ep"]
    assert (config.encoder, config.epochs, config.batch_size, config.options.temperature) == (
        "resnet50",
        100,
        4096,
        0.1,
    )
    assert (config.optimizer, config.momentum, config.weight_decay, config.nesterov) == ("lars", 0.9, 1e-6, False)
    assert (config.lars_eta, config.head_layers, config.head_dim, config.head_bn) == (0.001, 2, 128, True)
    assert config.augment.jitter == (0.8, 0.8, 0.8, 0.2) and config.augment.blur_p == 0.5
    assert PRESETS["imagenet-1000ep"] == dataclasses.replace(config, epochs=1000)
    v2 = PRESETS["simclr-v2"]
    assert (v2.epochs, v2.weight_decay, v2.head_layers, v2.optimizer) == (800, 1e-4, 3, "lars")


def test_the_help_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"values of a preset: {', '.join(PRESETS)}." in text


def test_the_options_of_the_method_have_flags_with_its_name_and_short_ones() -> None:
    for flags in (["--temperature", "0.7"], ["--simclr.temperature", "0.7"]):
        assert parsed("demo", *flags).options == SimCLROptions(temperature=0.7)
    for flags in (["--learnable-temperature"], ["--simclr.learnable-temperature"]):
        assert parsed("demo", *flags).options == SimCLROptions(temperature=0.2, learnable_temperature=True)
    with pytest.raises(ValueError, match=r"temperature must be a finite number of at least 1e-08, got 0\.0"):
        parsed("demo", "--temperature", "0")
    with pytest.raises(ValueError, match=r"--method must be one of simclr.*got 'nothing'"):
        parsed("demo", "--method", "nothing")
