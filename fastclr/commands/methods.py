"""`fastclr methods`: what can be pretrained with, and what is to be known about one method."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastclr.commands.option_texts import field_texts
from fastclr.methods import METHODS
from fastclr.sources.nearest import near
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method
from fastclr.training.optim import peak_lr
from fastclr.training.presets import PRESETS

WIDTH = 110


@dataclass(frozen=True)
class MethodsOptions:
    """List the methods, or describe one: its loss, options, presets, what to tune and when to take it."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A method; without one, all are listed."""


def main(arguments: list[str]) -> None:
    """Parse the options and print."""
    name = tyro.cli(MethodsOptions, args=arguments, prog="fastclr methods").name
    if name is not None and name not in METHODS:
        raise ValueError(f"there is no method {name!r}, only {', '.join(METHODS)}{near(name, METHODS)}")
    show(table() if name is None else description(name))


def table() -> str:
    """Return all methods as text, a line or two each."""
    lines = []
    for name, method in METHODS.items():
        lines += wrapped(method.when, f"  {name:<12}{method.title:<22}", " " * 36)
    end = "`fastclr methods NAME` describes one; `fastclr pretrain --method NAME --data PATH` trains with it."
    return "\n".join([*lines, "", end])


def description(name: str) -> str:
    """Return everything about one method as text."""
    method = METHODS[name]
    config = with_method(PretrainConfig(), name)
    about = inspect.cleandoc(method.__doc__ or "").partition("\nAttributes:")[0].partition("\nArgs:")[0]
    lines = [f"{method.title} (--method {name})", "", about.strip().replace("``", ""), "", "options"]
    prefix, texts = method.flags or name, field_texts(method.Options)
    for field in dataclasses.fields(method.Options):
        flag = f"--{prefix}.{field.name.replace('_', '-')}"
        lines += wrapped(f"{texts.get(field.name, '')} ({field.default})", f"  {flag:<31} ", " " * 34)
    head = f"{config.head} head, {config.head_layers} layers" if config.head == "mlp" else f"{config.head} head"
    recipe = f"{config.optimizer} at {config.lr:g}" + (" B/256" if config.lr_scaling == "linear" else "")
    recipe += f" ({peak_lr(config):g} at {config.batch_size} images), weight decay {config.weight_decay:g}, "
    recipe += f"{head} to {config.head_dim} values"
    presets = [each for each, preset in PRESETS.items() if preset.method == name]
    for title, text in [
        ("without a preset", recipe),
        ("presets", ", ".join(presets) or "none"),
        ("to tune", method.tune),
        ("take it for", method.when),
        ("if embeddings collapse", method.cause or "they are not watched: what is to be told of the images forbids it"),
    ]:
        lines += ["", title, *wrapped(text, "  ", "  ")]
    return "\n".join(lines)


def wrapped(text: str, first: str, indent: str) -> list[str]:
    """Return a text in lines of limited width."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
