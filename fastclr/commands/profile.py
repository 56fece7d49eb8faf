"""`fastclr profile`: where the time of a training step goes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass

import tyro

from fastclr.config import PretrainConfig
from fastclr.presets import PRESETS
from fastclr.profile import profile_training
from fastclr.profile_report import advice, table


@dataclass
class ProfileOptions:
    """Measure a training step by stage. Without data it runs on random images in memory."""

    config: tyro.conf.OmitArgPrefixes[PretrainConfig]
    preset: str | None = None
    """Start from the values of a preset of `fastclr pretrain`."""
    steps: int = 20
    """Steps to measure."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> None:
    """Read the options, measure, and print."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    chosen, _ = first.parse_known_args(arguments)
    if chosen.preset is not None and chosen.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {chosen.preset!r}")
    # the defaults that the help shows, and that the other options change
    base = PRESETS.get(chosen.preset, PretrainConfig())
    options = tyro.cli(ProfileOptions, args=arguments, default=ProfileOptions(base), prog="fastclr profile")
    profile = profile_training(options.config, options.steps)
    if options.json:
        print(json.dumps({**dataclasses.asdict(profile), "advice": advice(profile)}, indent=2))
    else:
        print(table(profile))
