"""Captions beside the images of a program, in arrays, and in columns: those of files, or named as missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from stream_cases import encode
from torch.utils.data import Dataset

import fastclr
from fastclr.data import CaptionOptions, load_splits
from fastclr.sources.captions import MAX_CHARACTERS
from fastclr.training.build import load_data
from fastclr.training.keywords import configure
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS

COUNT = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 11, 3), dtype=np.uint8)
LABELS = [number % 2 for number in range(COUNT)]
# one or two captions; in the source there is an empty one too, and spaces that do not count
CAPTIONS = tuple((f"picture {n}", f"no. {n}")[: 1 + n % 2] for n in range(COUNT))
RAW = [[f" picture  {n}\n", "", f"no. {n}"][: 1 + 2 * (n % 2)] for n in range(COUNT)]
PNG = [encode(Image.fromarray(array), "PNG") for array in PIXELS]


class Pairs(Dataset[Any]):
    """A dataset as people write it; `make` says what an item is."""

    classes = ("even", "odd")

    def __init__(self, make: Callable[[int], Any], count: int = COUNT) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index >= self.count:
            raise IndexError(index)
        return self.make(index)


def picture(index: int) -> Image.Image:
    return Image.fromarray(PIXELS[index])


def npz(to: Path, **arrays: Any) -> Path:
    np.savez(to / "x.npz", **arrays)
    return to / "x.npz"


def texts() -> np.ndarray:
    """Two columns, with an empty text where there is no second caption."""
    return np.array([[f"picture {n}", f"no. {n}" if n % 2 else ""] for n in range(COUNT)])


def parquet(to: Path, **columns: Any) -> Path:
    pa.parquet.write_table(
        pa.table({"image": [{"bytes": png, "path": None} for png in PNG], **columns}), to / "x.parquet"
    )
    return to / "x.parquet"


def arrow(to: Path, **columns: Any) -> Path:
    table = pa.table({"image": PNG, **columns})
    with pa.ipc.new_file(to / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return to / "x.arrow"


def files(to: Path) -> Path:
    for number in range(COUNT):
        folder = to / "files" / Pairs.classes[LABELS[number]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.png").write_bytes(PNG[number])
        (folder / f"{number:02d}.txt").write_text("\n".join(RAW[number]))
    return to / "files"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "dictionaries": lambda _: Pairs(lambda n: {"image": picture(n), "label": LABELS[n], "captions": RAW[n]}),
    "pairs": lambda _: Pairs(lambda n: (picture(n), tuple(RAW[n]))),
    "with labels": lambda _: Pairs(lambda n: (PIXELS[n], LABELS[n], RAW[n])),
    "arrays": lambda _: (PIXELS, RAW),
    "tensors with labels": lambda _: (torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(LABELS), RAW),
    "arrays of text": lambda _: (PIXELS, np.array(LABELS), texts()),
    "npz": lambda to: npz(to, images=PIXELS, labels=LABELS, captions=texts()),
    "npz of bytes": lambda to: npz(to, train_images=PIXELS, train_captions=np.char.encode(texts(), "utf-8")),
    "parquet": lambda to: parquet(to, label=LABELS, caption=RAW),
    "arrow": lambda to: arrow(to, label=LABELS, text=RAW),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_captions_are_those_of_files(kind: str, tmp_path: Path) -> None:
    splits = load_splits(SOURCES[kind](tmp_path), captions="auto", holdout=0.25)
    assert splits.test is not None and splits.held_out and len(splits.train) + len(splits.test) == COUNT
    for part in (splits.train, splits.test):
        assert isinstance(part.images, torch.Tensor) and part.captions is not None
        for row, key in enumerate(part.ids.tolist()):
            assert part.captions[row] == CAPTIONS[key]
            assert torch.equal(part.images[row], torch.from_numpy(PIXELS[key]))
            assert part.labels[row] in (-1, LABELS[key])
    with_labels = kind not in ("pairs", "arrays", "npz of bytes")
    assert bool((splits.train.labels >= 0).all()) == with_labels


def test_files_themselves(tmp_path: Path) -> None:
    """What the others are compared with says what is in the files."""
    train = load_splits(files(tmp_path), captions="auto", holdout=0).train
    assert train.captions == tuple(CAPTIONS[int(Path(name).stem)] for name in train.names)


def test_texts_of_one_each_and_splits() -> None:
    """A text needs no list, and test images need no class."""
    part = Pairs(lambda n: (picture(n), f"picture {n}"))
    splits = load_splits({"train": part, "val": Pairs(lambda n: (picture(n), LABELS[n], "x"), 3)}, captions="auto")
    assert splits.train.captions == tuple((f"picture {n}",) for n in range(COUNT))
    assert splits.test is not None and splits.test.captions == (("x",),) * 3
    assert splits.train.classes == splits.test.classes == () and splits.test.labels.tolist() == [-1] * 3
    other = load_splits(part, Pairs(lambda n: (picture(n), LABELS[n], "x"), 3), captions="auto")
    assert other.test is not None and other.test.captions == splits.test.captions and other.test.classes == ()
    bare = load_splits(Pairs(lambda n: (picture(n), LABELS[n], RAW[n])))  # captions that are not asked for
    assert bare.train.captions is None and bare.train.classes == ("even", "odd")


def test_names_that_are_given(tmp_path: Path) -> None:
    wanted = CaptionOptions(columns=("second", "what"))
    other = parquet(tmp_path, second=PNG[::-1], what=RAW, caption=["x"] * COUNT)
    train = load_splits(other, captions=wanted, holdout=0).train
    assert train.captions == CAPTIONS and torch.equal(train.images[0], torch.from_numpy(PIXELS[-1]))  # type: ignore[index]
    items = Pairs(lambda n: {"image": picture(0), "second": picture(n), "what": RAW[n], "caption": "x"})
    found = load_splits(items, captions=wanted, holdout=0).train
    assert found.captions == CAPTIONS and torch.equal(found.images[3], torch.from_numpy(PIXELS[3]))  # type: ignore[index]
    keyed = load_splits(items, captions=CaptionOptions(key="caption"), holdout=0).train
    assert keyed.captions == (("x",),) * COUNT
    named = npz(tmp_path, x_train=PIXELS, what_train=texts(), captions_train=texts()[::-1])
    assert load_splits(named, captions=CaptionOptions(key="what"), holdout=0).train.captions == CAPTIONS


LONG = "x" * (MAX_CHARACTERS + 1)
BAD: list[Any] = [None, "", [], LONG, b"\xff\xfe", "good"] + ["good"] * (COUNT - 6)
REASONS = ("none", "empty", "empty", "10001 characters, more than 10000", "utf-8")


def column() -> Any:
    """A column of texts, one of which is no UTF-8."""
    values = [value.encode() if isinstance(value, str) else value for value in BAD]
    values[2] = b" "
    offsets, data, place = [0], b"".join(value or b"" for value in values), 0
    for value in values:
        place += len(value or b"")
        offsets.append(place)
    valid = np.packbits([value is not None for value in values] + [False] * 4, bitorder="little")
    buffers = [pa.py_buffer(valid.tobytes()), pa.py_buffer(np.array(offsets, np.int32).tobytes()), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), COUNT, buffers)


@pytest.mark.parametrize("kind", ["items", "arrays", "parquet", "arrow"])
def test_what_cannot_be_used_is_named_and_its_neighbours_stay(kind: str, tmp_path: Path) -> None:
    made: dict[str, Callable[[], Any]] = {
        "items": lambda: Pairs(lambda n: (picture(n), BAD[n])),
        "arrays": lambda: (PIXELS, BAD),
        "parquet": lambda: parquet(tmp_path, caption=column()),
        "arrow": lambda: arrow(tmp_path, caption=column()),
    }
    source = made[kind]()
    train = load_splits(source, captions="auto", holdout=0).train
    assert train.ids.tolist() == list(range(5, COUNT)) and train.captions == (("good",),) * (COUNT - 5)
    assert torch.equal(train.images[0], torch.from_numpy(PIXELS[5]))  # type: ignore[index]
    assert len(train.skipped) == 5
    for (name, reason), wanted in zip(train.skipped, REASONS, strict=True):
        assert reason.startswith("no caption: ") and wanted in reason, (name, reason)
    survey = fastclr.survey(source, captions="auto")
    assert survey.captions is not None and len(survey.captions.without) == 5 and survey.captions.captions == COUNT - 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Pairs(lambda n: (picture(n), LABELS[n])), r"12 of the 12 .*'0': a caption must be text .* got int"),
        (lambda _: Pairs(picture), r"12 of the 12 images of the Pairs \(train\) have no caption: '0': it has none"),
        (lambda _: (PIXELS, np.array(LABELS)), "12 of the 12 .*a caption must be text or a list of texts, got int"),
        (lambda _: PIXELS, "12 of the 12 images of the ndarray .*it has none"),
        (lambda _: (PIXELS, RAW[1:]), "must be 12, one or a list for each image, got 11"),
        (lambda to: npz(to, images=PIXELS, labels=LABELS), "under the name captions; it has images, labels"),
        (
            lambda to: parquet(to, label=LABELS),
            r"a column of captions \(caption, .*got image, label: --caption-columns",
        ),
        (lambda to: parquet(to, caption=LABELS), "12 of the 12 .*a caption must be text or a list of texts, got int"),
    ],
)
def test_images_without_captions_are_refused(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_splits(make(tmp_path), captions="auto")


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"the captions of the tuple .* must be a list or an array, got str"):
        load_splits((PIXELS, "one for all"), captions="auto")
    draws = iter(range(1000))
    with pytest.raises(ValueError, match="another caption for 0 each time: give all captions of an image as a list"):
        load_splits(Pairs(lambda n: (picture(n), f"draw {next(draws)}")), captions="auto")
    with pytest.raises(ValueError, match="captions='txt' cannot be had for tuple, which holds pixels: only"):
        load_splits((PIXELS, RAW), captions="txt")
    with pytest.raises(ValueError, match=r"captions='txt' is for files of text, and .*x\.parquet has a column of them"):
        load_splits(parquet(tmp_path, caption=RAW), captions="txt")
    np.save(tmp_path / "x.npy", PIXELS)
    with pytest.raises(ValueError, match=r"holds one array, and captions are asked for: an \.npz has them"):
        load_splits(tmp_path / "x.npy", captions="auto")
    damaged = np.frombuffer(np.full(4 * COUNT, 0x7FFFFFFF, np.uint32).tobytes(), dtype="<U4")
    with pytest.raises(ValueError, match=r"12 of the 12 .*a caption is no text in UTF-8"):
        load_splits((PIXELS, damaged), captions="auto")


def test_three_pictures_are_a_dataset_and_no_labels() -> None:
    assert load_splits(tuple(PIXELS[:3])).train.images.shape == (3, 9, 11, 3)  # type: ignore[union-attr]


def test_a_run_of_words_reads_the_captions_of_what_it_is_given(tmp_path: Path) -> None:
    """`fastclr.pretrain(dataset, method="clip")` asks for them by itself."""
    config = configure(PRESETS["demo"], {"data": SOURCES["pairs"](tmp_path), "method": "clip", "cache": "off"})
    assert config == dataclasses.replace(with_method(PRESETS["demo"], "clip"), data=config.data, cache="off")
    assert load_data(config).train.captions is not None
