from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fastclr.methods import MethodOptions, SimCLROptions
from fastclr.training.config import PretrainConfig, difference
from fastclr.training.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    PRESETS[name].save(path)
    assert PretrainConfig.load(path) == PRESETS[name]


def test_cifar10_preset_is_the_published_recipe() -> None:
    config = PRESETS["cifar10"]
    assert (config.encoder, config.batch_size, config.epochs) == ("resnet18", 512, 500)
    assert (config.optimizer, config.lr, config.lr_scaling) == ("sgd", 0.03, "linear")
    assert (config.options.temperature, config.weight_decay, config.momentum) == (0.5, 5e-4, 0.9)
    assert (config.knn_k, config.knn_temperature) == (10, None)
    assert (config.head_layers, config.head_hidden, config.head_dim, config.head_bn) == (2, 1024, 128, False)
    assert config.augment.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (config.augment.gray_p, config.augment.blur_p, config.augment.crop_scale) == (0.1, 0.0, (0.2, 1.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", 1),
        ("head_layers", 4),
        ("holdout", 1.0),
        ("warmup_epochs", 100.0),
        ("optimizer", "lion"),
        ("momentum", 1.0),
        ("lr_scaling", "cubic"),
        ("lars_eta", 0.0),
        ("warmup_share", 1.0),
        ("patch_size", 0),
        ("clip_grad", 0.0),
        ("keep_checkpoints", 0),
        ("wandb", ""),
        ("seed", -1),
        ("knn_k", 0),
        ("width", 0.0),
        ("loader", "numpy"),
        ("workers", -1),
        ("prefetch", 0),
    ],
)
def test_bad_values_name_the_field_and_the_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .*got {value!r}"):
        dataclasses.replace(PretrainConfig(), **{field: value})


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_the_options_of_the_method_are_checked_with_the_others(value: float) -> None:
    with pytest.raises(ValueError, match=rf"temperature must be .*got {value!r}"):
        PretrainConfig(options=SimCLROptions(temperature=value))


def test_the_method_decides_whose_options_fit() -> None:
    assert PretrainConfig().options == SimCLROptions()
    with pytest.raises(ValueError, match=r"method must be one of simclr.*got 'clrsim'"):
        PretrainConfig(method="clrsim")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OtherOptions(MethodOptions):
        pass

    with pytest.raises(TypeError, match="options of method simclr must be SimCLROptions, got OtherOptions"):
        PretrainConfig(options=OtherOptions())


def test_a_configuration_from_before_there_were_methods_is_read() -> None:
    old = {"data": "shapes", "temperature": 0.2, "learnable_temperature": True, "lr": 0.5}
    new = PretrainConfig(data="shapes", options=SimCLROptions(temperature=0.2, learnable_temperature=True), lr=0.5)
    assert PretrainConfig.from_dict(old) == new == PretrainConfig.from_dict(json.loads(json.dumps(new.as_dict())))
    with pytest.raises(ValueError, match="newer fastclr"):
        PretrainConfig.from_dict({"method": "a-later-one"})
    with pytest.raises(ValueError, match=r"\['tau'\]"):
        PretrainConfig.from_dict({"simclr": {"tau": 0.1}})


def test_a_warmup_is_given_once() -> None:
    with pytest.raises(ValueError, match=r"warmup_share must be None beside warmup_epochs=10.*got 0\.05"):
        PretrainConfig(warmup_epochs=10, warmup_share=0.05)


@pytest.mark.parametrize("options", [{"optimizer": "adamw"}, {"momentum": 0.0}])
def test_nesterov_needs_a_momentum(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nesterov must be False"):
        PretrainConfig(nesterov=True, **options)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="epohcs"):
        PretrainConfig.from_dict({"epohcs": 3})


def test_difference_names_what_changed() -> None:
    old = PretrainConfig()
    assert difference(old, dataclasses.replace(old, lr=0.5, epochs=7)) == {
        "lr": (old.lr, 0.5),
        "epochs": (old.epochs, 7),
    }
