"""`fastclr info`: what is installed, built and available."""

from __future__ import annotations

from fastclr.info import report


def main(arguments: list[str]) -> None:
    """Print the report; must work where the packages of the other commands are missing."""
    if arguments:
        raise ValueError(f"fastclr info takes no options, got {' '.join(arguments)}")
    print(report())
