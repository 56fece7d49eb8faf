"""The help of commands with a configuration: the usual options first, all by group, and what a misspelling may mean."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.commands.option_groups import GROUPS, USUAL
from fastclr.commands.option_texts import argument_texts
from fastclr.methods import METHODS
from fastclr.training.config import TRANSIENT, PretrainConfig
from fastclr.training.keywords import ALIASES


def flags(method: str) -> set[str]:
    """The flags of all fields, by their rule."""
    hidden = {"options", "augment", "extensions", "_", *TRANSIENT}
    names = {f.name for owner in (PretrainConfig, AugmentConfig) for f in dataclasses.fields(owner)} - hidden
    own = METHODS[method]
    names |= {f"{own.flags or method}.{f.name}" for f in dataclasses.fields(own.Options)}
    return {f"--{name.replace('_', '-')}" for name in {*names, "out", "preset", "resume", "extend", "config"}}


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def flags_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)


@pytest.mark.parametrize("method", ["simclr", "moco-v2"])
def test_help_has_the_usual_options_explained_and_all_others_by_name(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(["pretrain", "--method", method, "--help"], capsys)
    first, _, rest = text.partition("--help-all")
    assert len(USUAL) == 10
    places = [first.index(f"--{name.replace('_', '-')}") for name in USUAL]
    assert places == sorted(places) and first.count("(default:") == 10
    there = set(flags_in(text))
    assert flags(method) <= {re.sub(r"--(.*\.)?no-", r"--\1", flag) for flag in there} | there
    groups = re.findall(r"^  (\w+)  +--", rest, re.M)
    assert groups == ["data", "model", "method", "views", "optimiser", "run"]


def test_all_options_are_explained_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["pretrain", "--help-all"], capsys)
    titles = re.findall(r"^[\s╭─]*((?:\w+ )?options)[\s─╮]*$", text, re.M)  # lines only where the terminal has them
    assert titles == ["options", *(f"{name} options" for name in GROUPS)]
    there = set(flags_in(text))
    assert flags("simclr") <= there
    assert {f"--{alias.replace('_', '-')}" for alias in ALIASES} <= there
    assert text.count("(default:") + text.count("(optional") >= len(flags("simclr")) - 10
    words = " ".join(re.sub(r"[│─]", " ", text).split())
    for name, said in argument_texts(AugmentConfig.__doc__ or "").items():
        assert said[:20] in words, name


def test_aliases_are_typed_like_the_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--model", "resnet34", "--num-workers", "2", "--img-size", "48", "--in-chans", "1"]
    text = shown(["pretrain", *asked, "--initial-checkpoint", "a.pt", "--print-config"], capsys)
    for line in ("encoder: resnet34", "workers: 2", "  size: 48", "  channels: 1", "init: a.pt"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretian"], "unknown command 'pretian'; did you mean 'pretrain'?"),
        (["pretrain", "--preset", "cifar01"], "got 'cifar01'; did you mean 'cifar10'?"),
        (["pretrain", "--method", "simlcr"], "got 'simlcr'; did you mean 'simclr'?"),
        (["pretrain", "--epcohs", "3"], "--epochs"),
        (["pretrain", "--data", "shapes", "--encoder", "resnte18"], "similar names: resnet18"),
        (["pretrain", "--data", "shapes", "--optimizer", "adam"], "adamw"),
    ],
)
def test_a_misspelling_comes_with_what_was_meant_before_anything_is_read(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = " ".join(re.sub(r"[│─╭╮╰╯]", " ", capsys.readouterr().err).split())
    assert message in said and "reading" not in said
    assert list(tmp_path.iterdir()) == []
