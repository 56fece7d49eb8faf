"""From the command line to a `PretrainConfig`: a preset, then a file of settings, then flags; what is later wins."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from fastclr.augment import AugmentConfig
from fastclr.commands.config_file import NOT_IN_FILES, own_settings, settings_in
from fastclr.commands.option_groups import ask, options_of, short_help
from fastclr.methods import METHODS
from fastclr.sources.nearest import near
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.config_yaml import to_yaml
from fastclr.training.keywords import ALIASES, configure, family_of, unaliased, warn_of_ignored
from fastclr.training.presets import PRESETS, for_channels


@dataclass(kw_only=True)
class ConfigCommand:
    """What every command takes that needs the configuration of a training."""

    config: PretrainConfig
    preset: str | None = None
    config_file: Path | None = None
    """YAML file of settings, such as `epochs: 200`: the defaults of this call, in place of a preset's. Flags win."""
    print_config: bool = False
    """Print all settings as YAML that --config reads, and do nothing."""


Options = TypeVar("Options", bound=ConfigCommand)


def early_option(arguments: list[str], *names: str) -> str | None:
    """Return the value of one option, or None if it is absent; all other arguments are ignored."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*names, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def early(arguments: list[str], name: str) -> str | None:
    """Return the value of an option that may be typed under an alias."""
    aliases = [alias for alias, known in ALIASES.items() if known == name]
    return early_option(arguments, f"--{name}", *(f"--{a.replace('_', '-')}" for a in aliases))


def parse(
    options: type[Options], arguments: list[str], prog: str, base: PretrainConfig | None = None, **changes: Any
) -> Options:
    """Parse the options of a command.

    Flags are flat, except that the method's are ``--METHOD.option``, with ``--temperature`` as a short form. They
    depend on ``--method``, which is therefore read first, as is all that sets the others' defaults.

    Args:
        options: of the command.
        arguments: what was typed.
        prog: what the command is called.
        base: the defaults, such as those of a run that goes on. Default: those of the preset.
        changes: values that hold in place of the preset's.

    Raises:
        SystemExit: help or settings were asked for, and shown; or a flag is unknown.
        ValueError: there is no such preset or method, or a value is out of range.
    """
    path = early_option(arguments, "--config", "-c")
    settings = {} if path is None else settings_in(Path(path))
    own = own_settings(options, settings, str(path))
    preset = early_option(arguments, "--preset") or own.get("preset")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}{near(preset, PRESETS)}")
    if base is None:
        base = dataclasses.replace(PretrainConfig() if preset is None else PRESETS[preset], **changes)
    default = options(config=defaults(base, settings, arguments, str(path)), **own)
    known, about = options_of(options, default), options.__doc__ or ""
    if "--help-all" in arguments:
        ask(known, ["--help"], prog, about)
    if "--help" in arguments or "-h" in arguments:
        try:
            ask([option for option in known if not option.group], ["--help"], prog, about)
        finally:
            show(short_help(known))
    found = ask(known, arguments, prog, about)
    config, own_values = assembled(default.config, found)
    parsed = options(config=config, **own_values)
    if parsed.print_config:
        unset = shallow(options(config=config))
        told = {n: v for n, v in shallow(parsed).items() if n not in NOT_IN_FILES and v != unset[n]}
        show(to_yaml(config, told).rstrip("\n"))
        raise SystemExit(0)
    return parsed


def defaults(base: PretrainConfig, settings: dict[str, Any], arguments: list[str], path: str) -> PretrainConfig:
    """Return the defaults of all flags: `base`, the settings of a file, and what follows from three of the flags."""
    typed = {name: value for name in ("method", "encoder") if (value := early(arguments, name)) is not None}
    method = typed.get("method")
    if method is not None and method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {method!r}{near(method, METHODS)}")
    if method is not None and method != settings.get("method", base.method):  # the file's options are another method's
        others = {family_of(each) for each in METHODS} - {family_of(method)}
        settings = {name: value for name, value in settings.items() if name not in others}
    try:
        config = configure(base, {**unaliased(settings), **typed})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}" if settings else str(error)) from error
    return for_channels(config, early(arguments, "channels"))


def assembled(base: PretrainConfig, found: dict[str, Any]) -> tuple[PretrainConfig, dict[str, Any]]:
    """Return the configuration, with the values of `base` that are not typed, and the command's own options.

    Args:
        base: the defaults.
        found: values by `Option.place`.
    """
    parts: dict[str, dict[str, Any]] = {"config": {}, "method": {}, "augment": {}, "command": {}}
    for place, value in found.items():
        owner, _, name = place.partition("_")
        parts[owner][name] = value
    options, augment = METHODS[base.method].Options(**parts["method"]), AugmentConfig(**parts["augment"])
    config = dataclasses.replace(base, **parts["config"], options=options, augment=augment)
    warn_of_ignored(base.augment, config)
    return config, parts["command"]


def shallow(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without converting nested ones."""
    return {each.name: getattr(instance, each.name) for each in fields(instance)}
