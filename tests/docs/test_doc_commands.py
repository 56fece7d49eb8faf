"""Commands in the pages exist, with the options that they are shown with."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from functools import cache
from typing import Any

import pytest
import torch
import tyro
from doc_pages import PAGES, blocks, name_of

from fastclr.cli import COMMANDS, main
from fastclr.commands import bench

COMMAND = re.compile(
    r"^(?:torchrun .* -m |docker run .* )?fastclr(?::\w+)? (?!checkpoint,)([a-z0-9-]+)(.*)$", re.MULTILINE
)


def shown() -> list[tuple[str, str, str]]:
    """Page, command and the rest of its line, of every command in fenced code."""
    found = []
    for page in PAGES:
        for code in blocks(page, "", "text", "bash", "console"):
            for name, rest in COMMAND.findall(code.replace("\\\n", " ")):
                found.append((name_of(page), name, rest.split(" # ")[0]))
    return found


@cache
def help_of(*words: str) -> str:
    """The help of a command."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return text.getvalue()


def flags(*words: str) -> set[str]:
    """The options that the help of a command lists."""
    return set(re.findall(r"--[a-z][\w.-]*", help_of(*words)))


def asked(rest: str) -> list[str]:
    """The options on a line."""
    return [word.split("=")[0] for word in shlex.split(rest.replace("...", "")) if word.startswith("--")]


def test_commands_exist() -> None:
    assert [each for each in shown() if each[1] not in COMMANDS] == []
    assert len({name for _, name, _ in shown()}) > 10


@pytest.mark.parametrize("name", COMMANDS)
def test_options_exist(name: str) -> None:
    wrong = []
    for page, each, rest in shown():
        if each == name and asked(rest):
            first = rest.split()[0]
            words = (name, first) if name in ("bench", "findings") and not first.startswith("-") else (name,)
            known = flags(*words)
            assert len(known) > 1, words
            wrong += [(page, flag) for flag in asked(rest) if flag not in known]
    assert wrong == []


def test_benchmarks_are_asked_for_contestants_that_exist() -> None:
    asked_for = []
    for _, name, rest in shown():
        if name == "bench" and "--against" in rest:
            question: Any = tyro.cli(bench.Question, args=shlex.split(rest))
            case = bench.Joined(question.case(torch.device("cpu")))
            asked_for.append(bench.select_contestants(question.against, case.contestants()))
    assert len(asked_for) > 2 and min(map(len, asked_for)) > 1


def test_only_commands_that_take_words_without_an_option_are_shown_with_some() -> None:
    groups = {"bench", "findings"}  # what follows is a command of theirs
    bare = {name for _, name, rest in shown() if re.match(r" +\w", rest)} - groups
    assert {"knn", "embed"} < bare
    assert [name for name in sorted(bare) if "positional arguments" not in help_of(name)] == []
