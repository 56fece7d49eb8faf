"""`fastclr profile`: where the time of a training step goes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from fastclr.commands.preset import ConfigCommand, parse
from fastclr.sources.printable import show
from fastclr.training.profile import profile_training
from fastclr.training.profile_table import advice, format_profile


@dataclass(kw_only=True)
class ProfileOptions(ConfigCommand):
    """Measure a training step by stage. Without data, random images in memory are used."""

    steps: int = 20
    """Number of steps to measure."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> None:
    """Parse the options, measure, and print."""
    options = parse(ProfileOptions, arguments, "fastclr profile")
    profile = profile_training(options.config, options.steps)
    if options.json:
        show(json.dumps({**dataclasses.asdict(profile), "advice": advice(profile)}, indent=2))
    else:
        show(format_profile(profile))
