"""Zero-shot classes and retrieval of a run whose towers are known: colours, and the words for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fastclr
from fastclr.cli import main
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS
from fastclr.training.results import score_rows
from fastclr.training.run import Run as Folder

COLOURS = {"red_one": (255, 0, 0), "see green": (0, 255, 0), "the_blue": (0, 0, 255)}
WORDS = ("red", "green", "blue")


class Towers(nn.Module):
    """Mean channels of an image, and the channel that a text names; a text without one has all."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``[n, 3]``."""
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return ``[n, 3]``."""
        return tokens.float()


def words(texts: Sequence[str]) -> Tensor:
    """Return which colours a text names, int64 ``[n, 3]``; a text that names none says them all."""
    rows = [[int(word in text) for word in WORDS] for text in texts]
    return torch.tensor([row if sum(row) else [1, 1, 1] for row in rows])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fastclr.Run:
    """A run whose test split has three pictures of each colour; one of the red ones is green."""
    for split in ("train", "test"):
        for kind, colour in COLOURS.items():
            for number in range(3):
                pixels = np.full((10, 12, 3), colour, dtype=np.uint8)
                if (split, kind, number) == ("test", "red_one", 0):
                    pixels[:] = COLOURS["see green"]
                    pixels[-1, -1, 1] ^= 1  # an equal picture would have the captions of the green one too
                pixels[0, 0, 0] ^= number  # no two are equal
                folder = tmp_path / "data" / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.png")
                captions = [f"all of {WORDS[list(COLOURS).index(kind)]}", f"{kind} {number}"][: 1 + (number == 2)]
                (folder / f"{number}.json").write_text(json.dumps({"caption": captions}))
    base = dataclasses.replace(PRESETS["demo"], data=str(tmp_path / "data"), cache="off", device="cpu", amp="off")
    augment = dataclasses.replace(base.augment, mean=None, std=None)
    config = with_method(dataclasses.replace(base, augment=augment), "clip")
    Folder.create(tmp_path / "run", dataclasses.replace(config, captions="auto"))
    monkeypatch.setattr(Folder, "load_tokenizer", lambda self: words, raising=False)
    monkeypatch.setattr(Folder, "load_method", lambda self: Towers(), raising=False)
    return fastclr.Run(tmp_path / "run")


def test_zero_shot(run: fastclr.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight of nine are right with the folders' names, in which spaces stand for underscores, or with those given."""
    result = run.zeroshot(prompts=["{}", "a {} thing"])
    assert result["accuracy"] == pytest.approx(8 / 9) and result["test_images"] == 9 and result["top5"] is None
    assert result["classes"] == ["red one", "see green", "the blue"]
    assert result["confusion"] == [[2, 1, 0], [0, 3, 0], [0, 0, 3]] and result["chance"] == pytest.approx(1 / 3)
    (tmp_path / "names.txt").write_text("blue\n\n green \nred\n")
    assert main(["zeroshot", str(run.folder), "--names", str(tmp_path / "names.txt"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("zero-shot accuracy 33.33% (3 classes, chance 33.33%, 1 prompt(s), 9 images)")
    other = run.zeroshot(data=tmp_path / "data/train", names=("red", "green", "blue"))
    assert other["accuracy"] == 1 and set(run.results) == {"zeroshot", "zeroshot-train"}
    rows = {name: (value, protocol) for name, value, protocol in score_rows(Folder.open(run.folder))}
    assert rows["zeroshot"][0] == "33.33%" and "prompts=['a photo of a {}']" in rows["zeroshot"][1]


def test_retrieval(run: fastclr.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All captions of a colour are alike to the towers: equal ones are right, the others count as before them.

    "all of red" is the caption of three images, "red_one 2" of one of these alone. So the last image of a colour has no
    wrong caption before a right one, and the others have one.
    """
    assert main(["retrieve", str(run.folder), "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads((run.folder / "results.json").read_text())["retrieve"]
    by_image, by_text = found["image to text"], found["text to image"]
    assert (by_image["queries"], by_image["items"], by_image["different_captions"]) == (9, 12, 6)
    # the red picture that is green has all captions of green before those of red, and those of blue, which are as far
    assert by_image["recall_at_1"] == pytest.approx(3 / 9)
    assert by_image["recall_at_5"] == pytest.approx(8 / 9)
    assert by_text["queries"] == 12 and by_text["recall_at_10"] == 1
    assert out[0].startswith(f"image to text: recall@1 {100 * 3 / 9:.2f}% (chance")
    (tmp_path / "t.csv").write_text(
        "filepath,title\n" + "".join(f"data/train/{kind}/1.png,{kind}\n" for kind in COLOURS)
    )
    pairs = run.retrieve(data=tmp_path / "t.csv")
    assert pairs["image to text"]["recall_at_1"] == pairs["text to image"]["recall_at_1"] == 1
    assert set(run.results) == {"retrieve", "retrieve-t.csv"}
    rows = {name: value for name, value, _ in score_rows(Folder.open(run.folder))}
    assert rows["retrieve-t.csv: image to text"].startswith("recall_at_1 100.00%, recall_at_5 100.00%")


def test_images_of_a_program(run: fastclr.Run, tmp_path: Path) -> None:
    """A Dataset or arrays of the pixels of a folder have its scores, as other images and as the run's own."""
    paths = [tmp_path / "data/test" / kind / f"{number}.png" for kind in COLOURS for number in range(3)]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = np.repeat(np.arange(3), 3)
    captions = [json.loads(path.with_suffix(".json").read_text())["caption"] for path in paths]
    items = [
        {"image": one, "label": kind, "texts": list(texts)}
        for one, kind, texts in zip(pixels, labels, captions, strict=True)
    ]
    asked = {"prompts": ["{}", "a {} thing"], "device": "cpu"}
    named = [kind.replace("_", " ") for kind in COLOURS]
    folder, own = run.zeroshot(**asked), run.retrieve(device="cpu")
    assert run.zeroshot(data=(pixels, labels), names=named, **asked) == folder
    assert run.zeroshot(data=items, names=named, **asked) == folder
    assert run.retrieve(data=(pixels, labels, captions), device="cpu") == own
    assert run.retrieve(data=(pixels, captions), device="cpu") == own
    assert run.retrieve(data={"train": items[::3], "test": items}, caption_key="texts", device="cpu") == own
    assert set(run.results) == {
        *("zeroshot", "zeroshot-tuple", "zeroshot-list"),
        *("retrieve", "retrieve-tuple", "retrieve-dict"),
    }
    given = fastclr.Run(run.folder, data={"train": items[::3], "test": items})
    assert given.retrieve(caption_key="texts", device="cpu") == own
    with pytest.raises(TypeError, match="data must be a path, a Dataset with a length or arrays, got int"):
        run.retrieve(data=7)  # type: ignore[arg-type]


def test_refusals(run: fastclr.Run, tmp_path: Path) -> None:
    """What a run cannot be asked is said before its towers are built."""
    with pytest.raises(ValueError, match=r"a prompt must have one {} for the name of the class, got 'red'"):
        run.zeroshot(prompts=["red"])
    with pytest.raises(ValueError, match="names must be 3, one for each class in their order, got 2"):
        run.zeroshot(names=["a", "b"])
    with pytest.raises(ValueError, match="the images to classify must have labels"):
        run.zeroshot(data=tmp_path / "data/train/the_blue")
    for path in (tmp_path / "data").rglob("*.json"):
        path.unlink()
    with pytest.raises(ValueError, match=r"have no caption: .*there is no \.txt or \.json beside it"):
        run.retrieve()
    Folder.create(tmp_path / "simclr", dataclasses.replace(PRESETS["demo"], data=str(tmp_path / "data")))
    for ask in ("zeroshot", "retrieve"):
        with pytest.raises(ValueError, match=r"a method with a text tower \(clip.*\), got one of simclr"):
            getattr(fastclr.Run(tmp_path / "simclr"), ask)()
