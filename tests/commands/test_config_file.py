"""`--config FILE` and `--print-config`: a preset, then the file, then flags."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from failing_commands import fails

from fastclr.cli import main
from fastclr.commands.preset import parse
from fastclr.commands.pretrain import PretrainOptions
from fastclr.commands.profile import ProfileOptions
from fastclr.commands.v2 import V2Options
from fastclr.methods import BYOLOptions, MoCoOptions, SimCLROptions
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import configure
from fastclr.training.presets import PRESETS


def pretrain(*arguments: str) -> PretrainOptions:
    return parse(PretrainOptions, list(arguments), "fastclr pretrain")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "shapes"],
        ["--preset", "cifar10", "--data", "off", "--range", "0", "1e4", "--no-sync-bn", "--temperature", "0.3"],
        ["--method", "moco-v2", "--moco.queue", "512", "--crop-scale", "0.3", "1", "--out", "a b", "--resume", "auto"],
        ["--method", "dino", "--model", "vit_tiny_patch16_224", "--in-chans", "1", "--mean", "0.5", "--std", "0.25"],
        ["--lr", "1e-5", "--num-workers", "0"],
    ],
)
def test_printed_settings_are_read_back_as_the_same(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *arguments, "--print-config"]) == 0
    path = tmp_path / "c.yaml"
    path.write_text(capsys.readouterr().out)
    wanted, found = pretrain(*arguments), pretrain("-c", str(path))
    assert dataclasses.replace(found, config_file=None) == wanted
    assert yaml.safe_load(path.read_text())["epochs"] == wanted.config.epochs  # for any reader


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("preset: cifar10\nepochs: 7\nlr: 0.5\ntemperature: 0.9\nout: there\nimg-size: 40\n")
    options = pretrain("--config", str(path), "--lr", "0.25")
    expected = dataclasses.replace(
        PRESETS["cifar10"],
        epochs=7,
        lr=0.25,
        options=SimCLROptions(temperature=0.9),
        augment=dataclasses.replace(PRESETS["cifar10"].augment, size=40),
    )
    assert options.config == expected and (options.preset, options.out) == ("cifar10", Path("there"))
    assert pretrain("-c", str(path), "--preset", "demo").config.head_dim == PRESETS["demo"].head_dim
    assert pretrain("-c", str(path), "--preset", "demo").config.epochs == 7


def test_another_method_drops_the_options_of_the_files_method_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("method: moco-v2\nmoco: {queue: 512}\nlr: 0.5\n")
    assert pretrain("-c", str(path)).config.options == MoCoOptions(queue=512)
    path.write_text("method: moco-v2\nmoco-v2.queue: 512\nlr: 0.5\n")
    assert pretrain("-c", str(path)).config.options == MoCoOptions(queue=512)
    byol = pretrain("-c", str(path), "--method", "byol").config
    assert (byol.method, byol.options, byol.lr) == ("byol", BYOLOptions(), 0.5)  # its recipe, but for the file


def test_the_other_commands_take_a_file_with_their_own_options(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\nself_first: true\nfinetune:\n  share: 1%\n  seeds: 2\n")
    options = parse(V2Options, ["-c", str(path), "--finetune.seeds", "4"], "fastclr v2", head_layers=3)
    assert (options.config.epochs, options.config.head_layers, options.self_first) == (3, 3, True)
    assert (options.finetune.share, options.finetune.seeds) == ("1%", 4)
    path.write_text("head_layers: 1\nsteps: 4\n")
    assert parse(ProfileOptions, ["-c", str(path)], "fastclr profile").steps == 4
    path.write_text("head_layers: 1\n")
    assert parse(V2Options, ["-c", str(path)], "fastclr v2", head_layers=3).config.head_layers == 1


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("epohcs: 3", [], "c.yaml: there is no option 'epohcs'; did you mean 'epochs'?"),
        ("simclr: {temprature: 3}", [], "no option of simclr 'temprature'; did you mean 'temperature'?"),
        ("epochs: many", [], "c.yaml: epochs in the configuration must be int, got 'many'"),
        ("epochs: 0", [], "c.yaml: epochs must be at least 1, got 0"),
        ("method: simclear", [], "got 'simclear'; did you mean 'simclr'?"),
        ("out: 3", [], "out in c.yaml must be"),
        ("preset: cifar", [], "got 'cifar'; did you mean 'cifar10'?"),
        ("resume: runs/a", [], "resume must be auto in c.yaml, got 'runs/a'"),
        ("epochs: 3", ["--resume", "runs/a"], "drop --config"),
        (None, [], "there is no file c.yaml"),
    ],
)
def test_what_does_not_fit_is_one_line(
    text: str | None,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("c.yaml").write_text(text)
    assert message in fails(["pretrain", "-c", "c.yaml", *arguments], capsys)


def test_a_run_stores_its_settings_for_people_too(tmp_path: Path, pictures: Path) -> None:
    run = tmp_path / "run"
    tiny = ["--width", "0.0625", "--epochs", "1", "--batch-size", "32", "--device", "cpu", "--knn-every", "0"]
    assert main(["pretrain", "--data", str(pictures), "--out", str(run), *tiny]) == 0
    again = pretrain("-c", str(run / "config.yaml")).config
    stored = json.loads((run / "config.json").read_text())
    stored.pop("started_in")
    assert json.loads(json.dumps(again.as_dict())) == stored


@pytest.mark.parametrize(
    ("method", "option", "value", "have"),
    [
        ("autoencoder", "jitter_p", 1.0, r"0\.0"),
        ("jigsaw", "gray_p", 0.0, r"0\.66"),
        ("dino", "crop_scale", (0.2, 1.0), r"\(0\.4, 1\.0\) and \(0\.05, 0\.4\)"),
    ],
)
def test_an_augmentation_that_the_method_does_not_make_is_warned_of(
    method: str, option: str, value: Any, have: str
) -> None:
    message = rf"{option} .* has no effect: the views of {method} have {have}, by its own options"
    with pytest.warns(UserWarning, match=message):
        configure(PretrainConfig(data="x"), {"method": method, option: value})
    typed = [str(each) for each in (value if isinstance(value, tuple) else [value])]
    with pytest.warns(UserWarning, match=message):
        parse(PretrainOptions, ["--method", method, f"--{option.replace('_', '-')}", *typed], "fastclr pretrain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configure(PretrainConfig(data="x"), {"method": method, "flip_p": 0.25})
        configure(PretrainConfig(data="x"), {"method": "byol", option: value})
