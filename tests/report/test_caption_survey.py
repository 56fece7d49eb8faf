"""What `fastclr data --captions` tells of captions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastclr
from fastclr.cli import main
from fastclr.data import CaptionOptions
from fastclr.report.spread import Spread


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Six pictures in two folders of a class each, five with captions in JSON."""
    for number in range(6):
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        folder = tmp_path / ("a" if number < 3 else "b")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(file.getvalue())
        captions = ["the same", f"number {number} of six"][: 1 + number % 2]
        (folder / f"{number}.json").write_text(json.dumps({"alt": captions}) if number != 4 else "{}")
    return tmp_path


def test_captions_are_counted_and_missing_ones_named(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of five images with captions three have two; the sixth is named with the reason, and not as a file not read."""
    found = fastclr.survey(pairs, captions=CaptionOptions("json", "alt"))
    assert found.captions is not None and found.images == 5 and found.not_read == ()
    assert (found.captions.captions, found.captions.different) == (8, 4)
    assert (found.captions.per_image, found.captions.words) == (Spread(1, 2, 2), Spread(2, 2, 4))
    assert found.captions.without == (("b/4.png", "no caption: 'b/4.json': it has no 'alt'"),)
    assert main(["data", str(pairs), "--captions", "json", "--caption-key", "alt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(row for row, line in enumerate(lines) if line.startswith("captions"))
    assert lines[first].split(None, 1)[1] == (
        "8, of which 4 differ; 1 / 2 / 2 an image, 2 / 2 / 4 words (min / median / max)"
    )
    assert [line.strip() for line in lines[first + 1 : first + 3]] == [
        "1 images without one that can be used, which are left out",
        "'b/4.png': 'b/4.json': it has no 'alt'",
    ]


def test_where_test_images_come_from(pairs: Path) -> None:
    """Captions need no labels to be tested on: the survey says what `load_splits` does."""
    for number in (0, 1, 2, 3, 5):
        folder = pairs / ("a" if number < 3 else "b")
        (folder / f"{number}.png").rename(pairs / f"{number}.png")
        (folder / f"{number}.json").rename(pairs / f"{number}.json")
    (pairs / "b/4.png").unlink()
    assert fastclr.survey(pairs).test_images == "none: the training images are unlabelled"
    found = fastclr.survey(pairs, captions=CaptionOptions(key="alt"))
    assert found.test_images == "a part of train (--holdout)" and found.held_out
    assert fastclr.survey(pairs).captions is None
