"""The example of images and words learns more than chance in a few epochs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import run, script

EXAMPLE = Path(__file__).parents[2] / "examples" / "images_and_words.py"


@pytest.mark.slow
def test_the_example_finds_pictures_by_words() -> None:
    pytest.importorskip("transformers", reason="the example needs the extra text")
    pytest.importorskip("tokenizers", reason="the example needs the extra text")
    said = run(script, EXAMPLE, "8").out
    found = [float(value) for value in re.findall(r"recall@10 (\d\.\d+)", said)]
    chance = [float(value) for value in re.findall(r"recall@10 \d\.\d+ \(chance (\d\.\d+)\)", said)]
    assert len(found) == 2 and all(one > 5 * other for one, other in zip(found, chance, strict=True)), said
