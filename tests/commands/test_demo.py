"""The demo: same rows as ever, nothing computed twice, no warning, and a line wherever seconds pass."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.commands import browser, demo
from fastclr.commands.demo import DemoOptions, run_demo, table
from fastclr.evaluate import Features
from fastclr.training import build as building
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run

ROWS = ["raw pixels", "untrained encoder", "SimCLR encoder", "supervised encoder"]


@pytest.mark.slow
def test_its_rows_lines_and_what_it_does_not_repeat(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = dataclasses.replace(
        PRESETS["demo"], data=str(pictures), augment=AugmentConfig(16), width=0.125, batch_size=32, amp="off"
    )
    monkeypatch.setitem(PRESETS, "demo", small)
    loads, encoders, load, plain = [], [], building.load_data, demo.run_features

    def counted_load(*arguments: Any) -> Any:
        loads.append(arguments)
        return load(*arguments)

    def counted_features(encoder: nn.Module, *rest: Any) -> Features:
        encoders.append(encoder)
        return plain(encoder, *rest)

    monkeypatch.setattr(building, "load_data", counted_load)
    monkeypatch.setattr(demo, "run_features", counted_features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = run_demo(DemoOptions(out=tmp_path / "demo", epochs=3, device="cpu", open=False))
    assert len(loads) == 1
    # raw pixels, untrained, supervised: SimCLR's are those of the last evaluation
    assert len(encoders) == 3 and isinstance(encoders[0], nn.Flatten)
    scores = json.loads((folder / "results.json").read_text())["demo"]
    assert list(scores) == ROWS and all(set(found) == {"knn", "linear"} for found in scores.values())
    out, err = capsys.readouterr()
    assert [line[:26].strip() for line in out.splitlines()[1:5]] == ROWS
    assert [line[26:34].strip() for line in out.splitlines()[:5]] == ["epochs", "", "", "3", "2"]
    said = err.splitlines()
    for start in (
        "SimCLR: building resnet18",
        "reading the images of",
        "epoch 3/3:",
        "report: t-SNE",
        "supervised training: resnet18 x0.125",
        "epoch 2/2:",
        "kNN and linear",
    ):
        assert any(line.startswith(start) for line in said), start
    assert "demo: raw pixels" in (folder / "report.html").read_text()
    assert out.endswith(f"report: {folder / 'report.html'}\n")
    run = Run.open(folder)
    again = plain(run.load_encoder(), load(run.config), run.config)
    assert demo.score(run, "SimCLR encoder", again) == scores["SimCLR encoder"]


def test_the_table_names_epochs() -> None:
    text = table(
        {"raw pixels": {"knn": 0.25, "linear": 0.125}, "SimCLR encoder": {"knn": 1, "linear": 1}},
        {"SimCLR encoder": 30},
    )
    assert text.splitlines() == [
        "accuracy on test images     epochs     kNN   linear",
        "raw pixels                           25.0%    12.5%",
        "SimCLR encoder                  30  100.0%   100.0%",
    ]


def test_a_page_opens_on_a_desktop_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(browser.webbrowser, "open", lambda address: bool(opened.append(address)) or True)
    monkeypatch.setattr(browser.sys, "platform", "linux")
    monkeypatch.setattr(browser.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    page = tmp_path / "a b.html"
    assert not browser.open_page(page)
    monkeypatch.setenv("DISPLAY", ":0")
    assert browser.open_page(page) and opened == [page.as_uri()]
    monkeypatch.setenv("SSH_CONNECTION", "host")
    assert not browser.open_page(page)
    monkeypatch.delenv("SSH_CONNECTION")
    monkeypatch.setattr(browser.sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert not browser.open_page(page) and len(opened) == 1
