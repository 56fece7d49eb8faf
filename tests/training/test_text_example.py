"""The example of images and words learns more than chance in a few epochs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "images_and_words.py"


@pytest.mark.slow
def test_the_example_finds_pictures_by_words() -> None:
    pytest.importorskip("transformers", reason="the example needs the extra text")
    pytest.importorskip("tokenizers", reason="the example needs the extra text")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(EXAMPLE), "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = [float(value) for value in re.findall(r"recall@10 (\d\.\d+)", done.stdout)]
    chance = [float(value) for value in re.findall(r"recall@10 \d\.\d+ \(chance (\d\.\d+)\)", done.stdout)]
    assert len(found) == 2 and all(one > 5 * other for one, other in zip(found, chance, strict=True)), done.stdout
