"""`fastclr demo`: a pretraining on the built-in shapes, evaluated against its baselines."""

from __future__ import annotations

import tyro

from fastclr.demo import DemoOptions, run_demo


def main(arguments: list[str]) -> None:
    """Run the demo."""
    run_demo(tyro.cli(DemoOptions, args=arguments, prog="fastclr demo"))
