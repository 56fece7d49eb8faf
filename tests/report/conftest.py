"""A finished run, and reports of few images."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import TINY

import fastclr.report.material
from fastclr.report import write_report
from fastclr.training.loop import pretrain_in


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The folder of a complete run on labelled images."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    augment = dataclasses.replace(TINY.augment, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    write_report(*pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), augment=augment)))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A writable copy of that folder."""
    shutil.copytree(finished, tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show few images, to save time."""
    monkeypatch.setattr(fastclr.report.material, "SHOWN", 24)
    yield
