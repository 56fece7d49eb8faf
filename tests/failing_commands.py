"""What a command that refuses its arguments says."""

from __future__ import annotations

import pytest

from fastclr.cli import main


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must exit with status 2, and return its message without tyro's line breaks."""
    assert main(arguments) == 2
    return " ".join(capsys.readouterr().err.split())
