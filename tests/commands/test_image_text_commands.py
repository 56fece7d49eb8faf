"""Images and words on the command line: pretrain on captions, then classify, retrieve and search by words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastclr.cli import main

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230), "white": (240, 240, 240)}
TOWERS = ["--clip.text-width", "32", "--clip.text-layers", "1", "--clip.text-heads", "2"]
TINY = ["--width", "0.125", "--warmup-epochs", "0", "--batch-size", "16", "--device", "cpu", "--amp", "off"]
TINY += ["--epochs", "30", "--lr", "0.004", "--checkpoint-epochs", "30", "--knn-every", "0"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Forty squares of four colours on noise, each with a caption that names its colour, in folders by colour."""
    rng = np.random.default_rng(0)
    for number in range(40):
        name, colour = list(COLOURS.items())[number % 4]
        pixels = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        pixels[4:20, 4:20] = colour
        folder = tmp_path / "pairs" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {name} square\n")
    return tmp_path / "pairs"


@pytest.mark.slow
def test_pretrain_then_ask_in_words(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a few epochs words find colours: what is found by text are the images that have it."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install 'fastclr[text]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastclr[text]'")
    run, features = str(tmp_path / "run"), str(tmp_path / "features.npz")
    start = ["pretrain", "--preset", "demo", "--method", "clip", "--data", str(pairs), "--captions", "auto"]
    assert main([*start, "--out", run, "--holdout", "0.2", "--cache", "off", *TOWERS, *TINY]) == 0
    capsys.readouterr()
    assert main(["zeroshot", run, "--prompts", "a {} square", "--device", "cpu"]) == 0
    assert main(["retrieve", run, "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["zeroshot"]["accuracy"] > 0.6 and results["zeroshot"]["class_count"] == 4
    assert results["retrieve"]["text to image"]["recall_at_1"] > 0.6
    out = capsys.readouterr().out
    assert "zero-shot accuracy" in out and "image to text: recall@1" in out
    assert main(["embed", run, str(pairs), "--features", "z", "--out", features, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["search", features, "--text", "a blue square", "--run", run, "--k", "4", "--device", "cpu"]) == 0
    found = capsys.readouterr().out.splitlines()[1:]
    assert len(found) == 4 and sum("blue/" in line for line in found) >= 3
    other = str(tmp_path / "h.npz")
    assert main(["embed", run, str(pairs), "--out", other, "--device", "cpu"]) == 0
    for arguments, message in (
        ([other, "--text", "blue", "--run", run], "a text is compared with features z"),
        ([features, "--text", "blue"], "pass it with --run"),
        ([features], "must be an image or a text"),
        ([features, "3", "--text", "blue"], "must be an image or a text"),
    ):
        assert main(["search", *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
