"""Each format with each kind of damage through all loaders: one definition of what can be read, and no crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from damaged_files import damaged_files
from stream_cases import encode, photo, without_scan


def run(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return what every loader gave, as a process of its own found, which may neither crash nor hang."""
    tests = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("corpus_run.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, dict[str, str]]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("seed", [1])
def test_loaders_agree_on_damaged_files(seed: int, tmp_path: Path) -> None:
    """All loaders give the same images with the same pixels and refuse the others for the same reasons."""
    files = damaged_files(seed, rounds=2)
    assert len(files) >= 400
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    results = run(tmp_path)
    expected = results["resident 8"]
    assert len(results) >= 6 and expected["good"].keys() | expected["refused"].keys() == files.keys()
    assert not expected["good"].keys() & expected["refused"].keys()
    assert all(f"whole-{number}.{kind}" in expected["good"] for number in range(12) for kind in ("jpg", "png", "tif"))
    for name, found in results.items():
        for part in ("good", "refused"):
            differing = {
                k for k in expected[part].keys() | found[part].keys() if expected[part].get(k) != found[part].get(k)
            }
            assert not differing, f"{name}: {part} differs from the resident loader's: {sorted(differing)[:10]}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_many_jpegs_without_a_scan(tmp_path: Path) -> None:
    """Two or more of these in a batch of 64 end a process in which DALI decodes them."""
    for number in range(80):
        (tmp_path / f"{number}.jpg").write_bytes(encode(photo(number, 40, 50), "JPEG"))
    for number in range(60):
        (tmp_path / f"bad {number}.jpg").write_bytes(without_scan(encode(photo(number, 40, 50), "JPEG")))
    for found in run(tmp_path).values():
        assert len(found["good"]) == 80 and len(found["refused"]) == 60
