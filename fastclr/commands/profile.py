"""`fastclr profile`: where the time of a training step goes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from fastclr.commands.preset import PRESET_HELP, base_config, parse
from fastclr.sources.printable import show
from fastclr.training.config import PretrainConfig
from fastclr.training.profile import profile_training
from fastclr.training.profile_table import advice, format_profile


@dataclass
class ProfileOptions:
    """Measure a training step by stage. Without data, random images in memory are used."""

    config: PretrainConfig
    preset: Annotated[str | None, tyro.conf.arg(help=PRESET_HELP)] = None
    steps: int = 20
    """Number of steps to measure."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> None:
    """Parse the options, measure, and print."""
    base = base_config(arguments)
    options = parse(ProfileOptions, base, arguments, "fastclr profile")
    profile = profile_training(options.config, options.steps)
    if options.json:
        show(json.dumps({**dataclasses.asdict(profile), "advice": advice(profile)}, indent=2))
    else:
        show(format_profile(profile))
