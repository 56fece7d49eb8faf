"""`fastclr methods` tells of every method, and its page in the docs names each with its presets."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import fields
from pathlib import Path

import pytest

from fastclr.api import pretrain
from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.commands.preset import parse
from fastclr.commands.pretrain import PretrainOptions
from fastclr.methods import METHODS, BYOLOptions, MoCoOptions
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()


def test_all_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for name, method in METHODS.items():
        assert f"  {name} " in text and method.title in text and method.when.split(";")[0].split(",")[0] in text


@pytest.mark.parametrize("name", METHODS)
def test_a_method_tells_its_options_presets_and_advice(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    method = METHODS[name]
    assert method.tune and method.when
    first = str(method.__doc__).splitlines()[0].replace("``", "")
    for part in (f"--method {name}", method.tune, method.when, method.cause, first):
        assert part in text
    for field in dataclasses.fields(method.Options):
        flag, default = f"--{method.flags or name}.{field.name.replace('_', '-')} ", f"({field.default})"
        assert flag in text and default in text.partition(flag)[2]
        assert text.partition(flag)[2].partition(default)[0].strip() not in ("", ".")  # every option is explained
    for preset, config in PRESETS.items():
        listed = text.partition(" presets ")[2].partition(" to tune ")[0].split(", ")
        assert (preset in listed) == (config.method == name)


def flags_of(name: str) -> set[str]:
    """All flags that `pretrain --method NAME` takes."""
    own = METHODS[name]
    names = {field.name for owner in (PretrainConfig, PretrainOptions, AugmentConfig) for field in fields(owner)}
    names |= {f"{own.flags or name}.{field.name}" for field in fields(own.Options)}
    found = {f"--{each.replace('_', '-')}" for each in {*names, "temperature"}}
    return found | {f"--{'.'.join([*each[2:].split('.')[:-1], 'no-' + each[2:].split('.')[-1]])}" for each in found}


@pytest.mark.parametrize("name", METHODS)
def test_advice_names_flags_that_exist(name: str) -> None:
    method = METHODS[name]
    for flag in re.findall(r"--[a-z][a-z0-9.-]*", " ".join((method.tune, method.when, method.cause))):
        assert flag.rstrip(".") in flags_of(name), flag


def test_the_page_names_flags_that_exist() -> None:
    known = set.union(*(flags_of(name) for name in METHODS))
    assert [flag for flag in re.findall(r"`(--[a-z][a-z0-9.-]*)", PAGE) if flag not in known] == []


def test_an_unknown_method_comes_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "simsian"]) == 2
    assert "did you mean 'simsiam'?" in capsys.readouterr().err


def test_flags_of_a_family_and_recipes_of_a_method() -> None:
    def parsed(*arguments: str) -> PretrainConfig:
        return parse(PretrainOptions, list(arguments), "fastclr pretrain").config

    config = parsed("--method", "moco-v2", "--moco.queue", "16384", "--moco.momentum", "0.98", "--temperature", "0.3")
    assert config.options == MoCoOptions(queue=16384, momentum=0.98, temperature=0.3)
    config = parsed("--method", "byol", "--byol.momentum", "0.9", "--lr", "0.2")
    assert config.options == BYOLOptions(momentum=0.9)
    assert (config.lr, config.head_dim, config.head_last_bn) == (0.2, 256, "none")  # the method's where none is given
    assert parsed("--method", "supervised").lr == PretrainConfig().lr
    loaded = PretrainConfig.from_dict(config.as_dict())
    assert loaded == config


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].recipe])
def test_a_recipe_leaves_nothing_of_another_methods_head(name: str) -> None:
    heads = ("head", "head_layers", "head_hidden", "head_dim", "head_bn")
    fields = (*heads, "optimizer", "lr", "lr_scaling", "weight_decay")
    made = [with_method(PRESETS[preset], name) for preset in ("demo", "cifar10", "simclr-v2")]
    assert len({tuple(getattr(config, field) for field in fields) for config in made}) == 1


def test_the_python_door_takes_a_familys_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="queue must be a multiple of the 32 keys of a step"):
        pretrain("shapes", method="moco-v2", moco={"queue": 100}, out=tmp_path / "run", batch_size=32, device="cpu")


def test_the_docs_have_every_method_and_every_preset() -> None:
    for name, method in METHODS.items():
        assert f"`{name}`" in PAGE and method.title in PAGE
    for preset, config in PRESETS.items():
        if config.method != "simclr":
            assert f"`{preset}`" in PAGE
