"""From the command line to a `PretrainConfig`: first the options that set the others' defaults, then the others."""

from __future__ import annotations

import argparse
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from fastclr.methods import METHODS
from fastclr.training.config import SHORT_OPTIONS, TRANSIENT, PretrainConfig
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS, for_channels, for_encoder

PRESET_HELP = f"Start from the values of a preset: {', '.join(PRESETS)}."

Options = TypeVar("Options")


def early_option(arguments: list[str], name: str) -> str | None:
    """Return the value of one option, or None if it is absent; all other arguments are ignored."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def base_config(arguments: list[str]) -> PretrainConfig:
    """Return the defaults shown in the help and overridden by the other options: those of ``--preset``, if given.

    Raises:
        ValueError: there is no such preset.
    """
    preset = early_option(arguments, "--preset")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return PretrainConfig() if preset is None else PRESETS[preset]


def parse(options: type[Options], base: PretrainConfig, arguments: list[str], prog: str) -> Options:
    """Parse the options of a command with a field ``config`` whose defaults are `base`.

    Configuration flags are flat, except that the method's are ``--METHOD.option``, with ``--temperature`` as a short
    form. They depend on ``--method``, which is therefore read first.

    Raises:
        ValueError: there is no such method, or a value is out of range.
    """
    method = early_option(arguments, "--method") or base.method
    if method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    if method != base.method:
        base = with_method(base, method)
    base = for_encoder(base, early_option(arguments, "--encoder") or base.encoder)
    base = for_channels(base, early_option(arguments, "--channels"))
    own = flags_of_method(method)
    # no checks while parsing: the configuration is validated as a whole afterwards
    unchecked: dict[str, Any] = {"__post_init__": lambda self: None}
    asked: list[Any] = [("options", Annotated[own, tyro.conf.arg(name=method)], field(default_factory=own))]
    for name in (*TRANSIENT, "extensions"):  # --extend writes the last
        asked.append((name, Annotated[Any, tyro.conf.Suppress], field(default=None)))
    bases: tuple[type[Any], ...] = (PretrainConfig,)
    config: Any = make_dataclass("Config", asked, bases=bases, namespace=unchecked, frozen=True, kw_only=True)
    flat: list[Any] = [("config", Annotated[config, tyro.conf.OmitArgPrefixes])]
    command: Any = make_dataclass(options.__name__, flat, bases=(options,), kw_only=True)
    command.__doc__ = options.__doc__
    default = command(config=config(**{**shallow(base), "options": own(**shallow(base.options))}))
    parsed = tyro.cli(command, args=arguments, default=default, prog=prog)
    found = {**shallow(parsed.config), "options": METHODS[method].Options(**shallow(parsed.config.options))}
    return options(**{**shallow(parsed), "config": PretrainConfig(**found)})


def flags_of_method(method: str) -> type[Any]:
    """Return the options of a method as a class whose flags are prefixed with the method's name, or its family's."""
    own, prefix = METHODS[method].Options, METHODS[method].flags or method
    hints = get_type_hints(own)
    flags: list[Any] = []
    for each in fields(own):
        short = [f"--{each.name.replace('_', '-')}"] if each.name in SHORT_OPTIONS else []
        flag = tyro.conf.arg(name=f"{prefix}.{each.name}", aliases=short)
        flags.append((each.name, Annotated[hints[each.name], flag], field(default=each.default)))
    return make_dataclass(own.__name__, flags, bases=(own,), frozen=True, kw_only=True)


def shallow(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without converting nested ones."""
    return {each.name: getattr(instance, each.name) for each in fields(instance)}
