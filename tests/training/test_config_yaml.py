"""Settings in YAML: what is written is read back as the same, and what people write is read as they mean it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastclr.augment import AugmentConfig
from fastclr.methods import METHODS
from fastclr.training.config import PretrainConfig
from fastclr.training.config_yaml import read_yaml, to_yaml
from fastclr.training.keywords import ALIASES, configure, family_of, names_of
from fastclr.training.presets import PRESETS

# texts that a YAML of one version or the other takes for something else
ODD = ("off", "yes", "1e3", "1_000", "0x10", "1:30", "2026-11-30", "null", "~", "true", "", "a: b", "# a", "- a", " a ")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_read_back_and_by_any_other_reader_too(name: str, tmp_path: Path) -> None:
    text = to_yaml(PRESETS[name])
    (tmp_path / "config.yaml").write_text(text)
    values = read_yaml(tmp_path / "config.yaml")
    assert configure(PretrainConfig(), values) == PRESETS[name]
    assert yaml.safe_load(text) == values  # PyYAML's own rules, which are those of YAML 1.1


@pytest.mark.parametrize("odd", ODD)
def test_texts_stay_texts(odd: str, tmp_path: Path) -> None:
    config = PretrainConfig(data=odd, wandb="1e-3", range=(0, 10000), caption_columns=("no", "12"), lr=1e-7)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert configure(PretrainConfig(), read_yaml(tmp_path / "c.yaml")) == config
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["data"] == odd


def test_words_and_numbers_are_read_as_they_are_meant(tmp_path: Path) -> None:
    """YAML 1.1 has `off` for false, 1e-3 for a text and 010 for 8."""
    path = tmp_path / "c.yaml"
    path.write_text("amp: off\nlr: 1e-3\nepochs: 20\nbatch-size: 64\nclip_grad: .5\nknn_k: null\nsync_bn: false\n")
    assert read_yaml(path) == {
        "amp": "off",
        "lr": 0.001,
        "epochs": 20,
        "batch_size": 64,
        "clip_grad": 0.5,
        "knn_k": None,
        "sync_bn": False,
    }
    path.write_text("moco.queue: 512\nmoco.momentum: 0.9\naugment:\n  crop-scale: [0.2, 1]\n")
    assert read_yaml(path) == {"moco": {"queue": 512, "momentum": 0.9}, "augment": {"crop_scale": [0.2, 1]}}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1", "must hold YAML"),
        ("\x00", "must hold YAML"),
        ("- epochs", "must hold names and values, .*got list of 1"),
        ("epochs", "must hold names and values"),
        ("3: 4", "must hold names of options, got int"),
        ("epochs: 3\nepochs: 4", "'epochs' stands there twice"),
        ("batch-size: 3\nbatch_size: 4", "has 'batch_size' twice"),
        ("simclr.temperature: 1\nsimclr: {temperature: 2}", "has 'simclr' twice"),
        ("a: !!python/object/apply:os.system [true]", "must hold YAML"),
        ("a: !!int x", "must hold YAML"),
    ],
)
def test_what_is_no_file_of_settings_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)c\.yaml.*{message}"):
        read_yaml(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*d\.yaml"):
        read_yaml(tmp_path / "d.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epohcs": 3}, "no option 'epohcs'; did you mean 'epochs'"),
        ({"num_worker": 3}, "no option 'num_worker'; did you mean 'num_workers'"),
        ({"simclr": {"temprature": 3}}, "no option of simclr 'temprature'; did you mean 'temperature'"),
        ({"epochs": "3"}, "epochs .*must be int, got '3'"),
        ({"method": "byol", "temperature": 0.1}, "options of byol have no 'temperature'"),
        ({"model": "resnet18", "encoder": "resnet34"}, "model is another name of encoder: give one of them"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        configure(PretrainConfig(), options)


def test_names_of_other_libraries_mean_our_options_and_hide_none() -> None:
    given: dict[str, Any] = {"model": "resnet34", "num_workers": 3, "img_size": 48, "in_chans": 1}
    config = configure(PretrainConfig(), {**given, "initial_checkpoint": "a.pt"})
    assert (config.encoder, config.workers, config.augment.size, config.init) == ("resnet34", 3, 48, "a.pt")
    assert config.augment.channels == 1 and config.augment.jitter[2:] == (0, 0)
    own = {name for method in METHODS.values() for name in names_of(method.Options)}
    known = {*names_of(PretrainConfig), *names_of(AugmentConfig), *own, *map(family_of, METHODS)}
    assert not known & set(ALIASES) and set(ALIASES.values()) <= known
    assert dataclasses.asdict(config)["encoder"] == "resnet34"
