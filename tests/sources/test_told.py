"""What lies in a source and is easily overlooked: other spellings, other suffixes, folders of the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

import fastclr
from fastclr.cli import main
from fastclr.data import load_splits
from fastclr.sources.entries import arrange
from fastclr.sources.folder import index_folder, other_suffixes


def picture(path: Path, value: int = 0) -> None:
    """Write an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".avif": "AVIF", "": "PNG", ".tga": "TGA"}
    Image.new("RGB", (16, 16), (value, value, value)).save(path, kind.get(path.suffix))


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("Training", "validation")],
)
def test_spellings_of_splits(train: str, test: str) -> None:
    groups = arrange([f"{train}/{kind}/{i}.png" for kind in "ab" for i in range(2)] + [f"{test}/a/9.png"])
    assert next(iter(groups)) == "train" and len(groups) == 2 and len(groups["train"]) == 4
    assert [entry.name for entry in next(group for name, group in groups.items() if name != "train")] == ["a/9.png"]
    assert {entry.kind for entry in groups["train"]} == {"a", "b"}


def test_a_class_may_be_called_train() -> None:
    groups = arrange(["Train/1.png", "Bus/1.png", "Car/1.png"])
    assert list(groups) == ["train"] and {entry.kind for entry in groups["train"]} == {"Train", "Bus", "Car"}


def test_a_class_called_train_costs_no_other_class() -> None:
    """Beside a lone folder `train`, a tenth of the images may lie elsewhere; more are an error."""
    classes = [f"{kind}/{i}.png" for kind in ("airplane", "bus", "train") for i in range(4)]
    message = r"8 of 12 images would be left out: .* 'airplane', 'bus' lie beside it\. If 'train' is a class, rename it"
    for paths in (classes, [f"photos/{path}" for path in classes]):
        with pytest.raises(ValueError, match=message):
            arrange(paths)
    assert len(arrange([*classes, "val/bus/1.png"])["train"]) == 4
    many = [f"train/{kind}/{i}.png" for kind in "ab" for i in range(9)]
    assert len(arrange([*many, "extra/1.png", "extra/2.png"])["train"]) == 18
    with pytest.raises(ValueError, match=r"3 of 21 images would be left out: .* 'extra', 'more' lie beside it"):
        arrange([*many, "extra/1.png", "extra/2.png", "more/1.png"])


def test_two_folders_of_one_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'Train' and 'train' are both the split train"):
        arrange(["Train/a/1.png", "train/a/1.png", "test/a/1.png"])


def test_two_ways_to_write_a_name_are_one_class(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart
    for index, (folder, kind) in enumerate([("train", composed), ("train", apart), ("train", "tea"), ("test", apart)]):
        picture(tmp_path / folder / kind / f"{index}.png", index)
    splits = load_splits(tmp_path, cache="off")
    assert splits.train.classes == (composed, "tea") and splits.train.labels.tolist().count(0) == 2
    assert splits.test is not None and splits.test.labels.tolist() == [0]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"name,label\ntrain/tea/2.png,{apart}\ntrain/{composed}/0.png,{composed}\n")
    assert load_splits(tmp_path, cache="off", labels=str(labels)).train.classes == (composed,)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_table_of_labels_may_spell_names_in_another_way(
    on_disk: Literal["NFC", "NFD"], in_table: Literal["NFC", "NFD"], tmp_path: Path
) -> None:
    name = "caf\u00e9/\u00fc.png"
    picture(tmp_path / unicodedata.normalize(on_disk, name))
    picture(tmp_path / "1.png")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"name,label\n{unicodedata.normalize(in_table, name)},x\n1.png,y\n", encoding="utf-8")
    train = load_splits(tmp_path, cache="off", labels=str(labels), holdout=0).train
    assert train.classes == ("x", "y") and train.labels.tolist() == [1, 0]


def test_more_suffixes_are_read_and_others_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = ["0.jfif", "1.jpe", "2.png", "3.PNG", "4.jp2"]
    for name in [*read, "5.tga", "6", "7"]:
        picture(tmp_path / "a" / name, 20)
        shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("")
    splits = load_splits(tmp_path, cache="off", holdout=0)
    assert len(splits.train) == 2 * len(read)
    assert dict(splits.train.skipped) == {
        "*.tga": "2 file(s), a kind that is not read",
        "names without a suffix": "4 file(s), a kind that is not read",
    }
    assert other_suffixes(index_folder(tmp_path).names) == {".tga": 2, ".txt": 1, "none": 4}
    assert main(["data", str(tmp_path)]) == 0
    assert "other files  not read: .tga 2, .txt 1, none 4" in capsys.readouterr().out


def test_avif_is_read_where_pillow_has_it(tmp_path: Path) -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    for kind in "ab":
        picture(tmp_path / kind / "0.avif", 200)
    pixels = load_splits(tmp_path, cache="off", holdout=0).train.images
    assert abs(int(pixels[0].float().mean()) - 200) < 5  # type: ignore[index]


HEIF = """
from PIL import Image, ImageFile

class HeifImage(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        if self.fp.read(8) != b"fakeheif":
            raise SyntaxError("no HEIF")
        self._size, self._mode = tuple(self.fp.read(2)), "RGB"
        self.tile = [("raw", (0, 0, *self._size), 10, ("RGB", 0, 1))]

def register_heif_opener():
    Image.register_open("HEIF", HeifImage, lambda head: head.startswith(b"fakeheif"))
"""


@pytest.mark.parametrize("installed", [True, False])
def test_heic_is_read_where_its_plugin_is_installed(installed: bool, tmp_path: Path) -> None:
    """All loaders read it with the package pillow_heif, here one that reads raw pixels, and count it without."""
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "pillow_heif.py").write_text(HEIF if installed else "raise ImportError")
    for index in range(4):
        picture(tmp_path / "root" / "ab"[index % 2] / f"{index}.png", index)
        heic = tmp_path / "root" / "ab"[index % 2] / f"{index}.heic"
        heic.write_bytes(b"fakeheif" + bytes([3, 2]) + bytes([40 + index]) * (18 if index else 9))
    script = (
        "import sys, warnings\n"
        "from fastclr.data import Order, load_splits, make_loader\n"
        "from fastclr.data.loader_choice import has_dali\n"
        "warnings.simplefilter('ignore')\n"
        "for kind in ('resident', 'torch', *['dali'] * has_dali()):\n"
        "    train = load_splits(sys.argv[1], holdout=0, loader=kind).train\n"
        "    loader = make_loader(train, kind, Order(8, shuffle=False, drop_last=False), workers=1)\n"
        "    batches = [batch.images for batch in loader.epoch(0)]\n"
        "    sizes = sorted({image.sizes[i, 1].item() for image in batches for i in range(len(image))})\n"
        "    loader.close()\n"
        "    print(sizes if batches else None, sorted(dict(train.skipped) | dict(loader.skipped)))\n"
        if installed
        else "import sys\nfrom fastclr.data import load_splits\n"
        "train = load_splits(sys.argv[1], holdout=0, loader='resident').train\n"
        "print(len(train), sorted(dict(train.skipped)))\n"
    )
    places = [str(tmp_path / "with"), str(Path(fastclr.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "root")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = "[3, 16] ['a/0.heic']" if installed else "4 ['a/0.heic', 'a/2.heic', 'b/1.heic', 'b/3.heic']"
    assert set(done.stdout.splitlines()) == {expected}


def test_folders_of_the_system_are_left_out(tmp_path: Path) -> None:
    for folder in ("a", "b", "@eaDir", "$RECYCLE.BIN", "__MACOSX", "#recycle", ".trash"):
        picture(tmp_path / folder / "0.png")
    assert load_splits(tmp_path, cache="off", holdout=0).train.classes == ("a", "b")


def test_classes_that_train_lacks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, name in enumerate(["train/a", "train/b", "val/a", "val/c"]):
        picture(tmp_path / name / "0.png", index)
    assert main(["data", str(tmp_path)]) == 0
    assert "1 class(es) that train lacks, which a run refuses: c" in capsys.readouterr().out
    with pytest.raises(ValueError, match="1 test classes that the training set lacks: c"):
        load_splits(tmp_path, cache="off")
