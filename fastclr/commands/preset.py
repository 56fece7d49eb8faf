"""The options that decide the defaults of all others, and so are read before them."""

from __future__ import annotations

import argparse

from fastclr.training.config import PretrainConfig
from fastclr.training.presets import PRESETS

PRESET_HELP = f"Start from the values of a preset: {', '.join(PRESETS)}."


def early_option(arguments: list[str], name: str) -> str | None:
    """Return the value of one option, None if it is not given; the others are not looked at."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def base_config(arguments: list[str]) -> PretrainConfig:
    """Return the defaults that the help shows and that the other options change: those of ``--preset``, if it is given.

    Raises:
        ValueError: there is no such preset.
    """
    preset = early_option(arguments, "--preset")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return PretrainConfig() if preset is None else PRESETS[preset]
