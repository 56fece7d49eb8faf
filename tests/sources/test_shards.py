"""WebDataset shards: samples, labels, ids, and what people's shards also contain."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stream_cases import encode, photo, picture, write_tar

from fastclr.data import ImageDataset, ImageIndex, Order, load_splits, make_loader
from fastclr.sources.shards import expand


def sample(number: int, **files: bytes) -> dict[str, bytes]:
    """Return an image and what stands beside it."""
    return {f"{number:04d}.jpg": encode(photo(number, 20 + number % 3, 30), "JPEG")} | {
        f"{number:04d}.{suffix}": content for suffix, content in files.items()
    }


def merge(*parts: dict[str, bytes]) -> dict[str, bytes]:
    """Join samples."""
    return {name: content for part in parts for name, content in part.items()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of four samples, with class number modulo three."""
    root = tmp_path / "shards"
    root.mkdir()
    for shard in range(3):
        numbers = range(4 * shard, 4 * shard + 4)
        write_tar(root / f"x-{shard:03d}.tar", merge(*(sample(n, cls=b"%d\n" % (n % 3)) for n in numbers)))
    return root


def index_of(source: str | Path) -> ImageIndex:
    """Return the index of all samples."""
    train = load_splits(source, holdout=0, loader="torch").train
    assert isinstance(train, ImageIndex)
    return train


def test_folder_and_pattern(shards: Path) -> None:
    """Ids count the samples through the sorted shards; labels come from .cls; both ways to name them agree."""
    index = index_of(shards)
    assert index.ids.tolist() == list(range(12)) and index.labels.tolist() == [n % 3 for n in range(12)]
    assert index.classes == ("0", "1", "2") and index.names[5] == "x-001.tar/0005.jpg"
    assert [index.read(row) for row in range(12)] == [sample(n)[f"{n:04d}.jpg"] for n in range(12)]
    pattern = index_of(f"{shards}/x-{{000..002}}.tar")
    assert pattern.names == index.names and pattern.fingerprint == index.fingerprint
    part = index_of(f"{shards}/x-{{001..002}}.tar")
    assert part.ids.tolist() == list(range(8)) and part.read(0) == index.read(4)
    with pytest.raises(ValueError, match=r"2 of the 5 shards of .* do not exist, the first is .*x-003\.tar"):
        load_splits(f"{shards}/x-{{000..004}}.tar")
    with pytest.raises(ValueError, match=r"\{5\.\.2\} .* runs backwards"):
        load_splits(f"{shards}/x-{{5..2}}.tar")


@pytest.mark.parametrize("kind", ["resident", "dali", "torch"])
def test_every_loader_reads_shards(kind: str, shards: Path) -> None:
    """The images are those that Pillow decodes from the members."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")
    train = load_splits(shards, holdout=0, loader=kind).train  # type: ignore[arg-type]
    loader = make_loader(train, kind, Order(5, 1, drop_last=False), workers=1)  # type: ignore[arg-type]
    seen = []
    for batch in loader.epoch(0):
        for i, key in enumerate(batch.ids.tolist()):
            expected = np.asarray(Image.open(io.BytesIO(sample(key)[f"{key:04d}.jpg"]))).astype(int)
            assert np.abs(picture(batch.images, i).astype(int) - expected).max() <= 2
            assert batch.labels[i] == key % 3
            seen.append(key)
    assert sorted(seen) == list(range(12))
    loader.close()


def test_a_single_shard(shards: Path) -> None:
    """A tar with .cls files is a shard, not a folder of images."""
    index = index_of(shards / "x-001.tar")
    assert index.labels.tolist() == [n % 3 for n in range(4, 8)] and index.ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("train", "test"), [("train", "val"), ("Train", "Test"), ("training", "testing")])
def test_splits_by_folder(train: str, test: str, tmp_path: Path) -> None:
    """Shards in train and val are those splits, in other spellings too; each counts its ids from zero."""
    for split, numbers in ((train, range(6)), (test, range(6, 9))):
        (tmp_path / split).mkdir()
        write_tar(tmp_path / split / "0.tar", merge(*(sample(n, cls=b"%d" % (n % 2)) for n in numbers)))
    splits = load_splits(tmp_path, loader="torch")
    assert splits.test is not None and splits.test.ids.tolist() == [0, 1, 2]
    assert splits.train.names[0] == "0.tar/0000.jpg" and splits.test.labels.tolist() == [0, 1, 0]


def test_labels(tmp_path: Path) -> None:
    """.cls counts before .json; a number may be written as text or float; without a label the class is unknown."""
    path = write_tar(
        tmp_path / "a-0.tar",
        merge(
            sample(0, cls=b" 2 ", json=json.dumps({"label": 1}).encode()),
            sample(1, json=json.dumps({"label": 1}).encode()),
            sample(2, json=json.dumps({"label": 1.0}).encode()),
            sample(3, json=b"[1, 2]"),
            sample(4),
            sample(5, cls=b"-1"),
            sample(6, json=json.dumps({"label": "11"}).encode(), txt=b"a caption"),
            sample(7, cls=b"3.0\n"),
            sample(8, json=b"{}"),
        ),
    )
    index = index_of(path)
    assert index.labels.tolist() == [2, 1, 1, -1, -1, -1, 11, 3, -1] and len(index.classes) == 12


def test_labels_that_are_names(tmp_path: Path) -> None:
    """Names become classes in their order; numbers among them are names too, as the digits of handwriting are."""
    (tmp_path / "shards").mkdir()
    labels = ["cat", "dog", "7", "cat", "-1"]
    files = [sample(n, json=json.dumps({"label": label}).encode()) for n, label in enumerate(labels)]
    write_tar(tmp_path / "shards" / "s.tar", merge(*files, sample(5, cls=b" cat\n"), sample(6)))
    index = index_of(tmp_path / "shards")
    assert index.classes == ("7", "cat", "dog") and index.labels.tolist() == [1, 2, 0, 1, -1, 1, -1]


BROKEN = {
    "nested.json": (b'{"label": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
    "empty.json": (b"", "Expecting value: line 1 column 1 (char 0)"),
    "half.json": (b'{"label": 1', "Expecting ',' delimiter: line 1 column 12 (char 11)"),
    "list.json": (b'{"label": [1]}', "it must be a number or a name, got '[1]'"),
    "part.json": (b'{"label": 1.5}', "it must be a number or a name, got '1.5'"),
    "nan.json": (b'{"label": NaN}', "it must be a number or a name, got 'nan'"),
    "none.json": (b'{"label": null}', "it must be a number or a name, got 'None'"),
    "true.json": (b'{"label": true}', "it must be a number or a name, got 'True'"),
    "pair.json": (b'{"label": "\\ud800"}', "surrogates not allowed"),
    "binary.json": (b"\xff\xfe\x00\x01", "cannot be used: Expecting value"),
    "long.json": (json.dumps({"label": "x" * 300}).encode(), "it must be a number or a name, got 'xxxx"),
    "huge.json": (b'{"label": ' + b"9" * 9999 + b"}", "Exceeds the limit"),
    "empty.cls": (b"", "it must be a number or a name, got ''"),
    "blank.cls": (b" \n", "it must be a number or a name, got ''"),
    "binary.cls": (b"\xff\xff", "'utf-8' codec can't decode"),
    "low.cls": (b"-2", "the label must be in -1 .. 999999, got -2"),
    "high.cls": (b"1000000", "the label must be in -1 .. 999999, got 1000000"),
    "name.cls": (b"cat", "its label 'cat' is a name, where the others are numbers"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_one_broken_label_costs_one_sample(broken: str, tmp_path: Path) -> None:
    """A sample whose label cannot be used is left out and named; ids and labels of the others stay."""
    (tmp_path / "shards").mkdir()
    content, reason = BROKEN[broken]
    good = [sample(n, cls=b"%d" % (n % 3)) for n in range(12)]
    bad = {"0005.jpg": good[5]["0005.jpg"], f"0005.{broken.partition('.')[2]}": content}
    write_tar(tmp_path / "shards" / "s.tar", merge(*good[:5], bad, *good[6:]))
    index = index_of(tmp_path / "shards")
    assert index.ids.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert index.labels.tolist() == [n % 3 for n in index.ids.tolist()] and index.classes == ("0", "1", "2")
    assert reason in dict(index.skipped)["s.tar/0005.jpg"]


def test_a_broken_json_beside_a_good_cls(tmp_path: Path) -> None:
    """The label is known, in whichever order they are stored, so the sample stays; the file is named."""
    (tmp_path / "shards").mkdir()
    tree = merge(
        sample(0, cls=b"1", json=b"{"), sample(1, json=b"{", cls=b"0"), sample(2, json=b'{"label": 1}', cls=b"")
    )
    write_tar(tmp_path / "shards" / "s.tar", tree)
    index = index_of(tmp_path / "shards")
    assert index.labels.tolist() == [1, 0] and index.ids.tolist() == [0, 1]
    assert {"s.tar/0000.json", "s.tar/0001.json", "s.tar/0002.cls", "s.tar/0002.jpg"} == dict(index.skipped).keys()


def test_labels_that_are_mostly_broken(tmp_path: Path) -> None:
    """More than half cannot be an accident."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "s.tar", merge(*(sample(n, json=b"{") for n in range(3)), sample(3), sample(4)))
    with pytest.raises(ValueError, match=r"3 of 5 labels in .* cannot be used: 's\.tar/0000\.jpg': its label in"):
        index_of(tmp_path / "shards")


def test_names_with_dots(tmp_path: Path) -> None:
    """Where a tenth of the images would be lost to the rule of the key, the set is refused with that rule."""
    (tmp_path / "shards").mkdir()
    content = encode(photo(0, 20, 30), "PNG")
    write_tar(tmp_path / "shards" / "s.tar", {f"{n // 10}.{n % 10:02d}.png": content for n in range(40)})
    with pytest.raises(
        ValueError, match=r"36 of the 40 images of .* would be lost: the key .* 's\.tar/0\.00\.png' and"
    ):
        index_of(tmp_path / "shards")


def test_samples(tmp_path: Path) -> None:
    """The key ends at the first dot of the file's name; without an image there is no id, and a second has none."""
    picture_bytes = encode(photo(0, 20, 30), "PNG")
    tree = {
        "a.b/x.left.png": picture_bytes,
        "a.b/x.cls": b"1",
        "a.b/x.right.png": picture_bytes,
        "note.txt": b"no image",
        "note.cls": b"0",
        "y.PNG": picture_bytes,
        "y.json": b'{"label": 0}',
        "broken.jpg": b"",
        **{f"z{number}.png": picture_bytes for number in range(9)},
    }
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "s.tar", tree)
    index = index_of(tmp_path / "shards")
    assert index.names[:3] == ("s.tar/a.b/x.left.png", "s.tar/y.PNG", "s.tar/z0.png") and len(index) == 11
    assert index.ids.tolist() == [0, 1, *range(3, 12)] and index.labels.tolist() == [1, 0] + [-1] * 9
    assert dict(index.skipped) == {
        "s.tar/a.b/x.right.png": "second image of its sample",
        "s.tar/broken.jpg": "no image of a known format",
    }


def test_compressed_shards_are_resident_only(tmp_path: Path) -> None:
    """Members of a compressed shard can only be read in order."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "s.tar.gz", merge(*(sample(n, cls=b"%d" % n) for n in range(3))))
    assert isinstance(load_splits(tmp_path / "shards", holdout=0).train, ImageDataset)
    with pytest.raises(ValueError, match=r"s\.tar\.gz is compressed"):
        index_of(tmp_path / "shards")


def test_no_samples(tmp_path: Path) -> None:
    """Shards without an image say so."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "s.tar", {"a.txt": b"x", "a.cls": b"1"})
    with pytest.raises(ValueError, match="no images in"):
        load_splits(tmp_path / "shards")


def test_expand() -> None:
    """Ranges keep the width of their first number, and several multiply."""
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{0..1}/{9..10}.tar") == ["0/9.tar", "0/10.tar", "1/9.tar", "1/10.tar"]
    assert expand("plain.tar") == ["plain.tar"]
    assert expand("{a,b}-{1..2}.tar") == ["a-1.tar", "a-2.tar", "b-1.tar", "b-2.tar"]
    with pytest.raises(ValueError, match=r"\{x\} of a\{x\}\.tar must be a range, \{000\.\.099\}, or a list, \{a,b\}"):
        expand("a{x}.tar")


def test_lists_and_stars(shards: Path) -> None:
    """They name the same shards as a range does; what a star stands for comes in sorted order."""
    index = index_of(shards)
    for pattern in ("x-*.tar", "x-00?.tar", "x-00[0-2].tar", "{x-000,x-001,x-002}.tar", "x-{000,00[12]}.tar"):
        found = index_of(f"{shards}/{pattern}")
        assert found.names == index.names and found.fingerprint == index.fingerprint
    assert index_of(f"{shards.parent}/sh*/x-002.tar").names[0] == "shards/x-002.tar/0008.jpg"
    with pytest.raises(ValueError, match=r"1 of the 4 shards of .* do not exist, the first is .*y-\*\.tar"):
        load_splits(f"{shards}/{{x,y}}-*.tar")
    (shards / "z.tar").mkdir()
    with pytest.raises(ValueError, match=r"must name archives \(\.tar, .*\), and .*z\.tar is none"):
        load_splits(f"{shards}/*.tar")
    with pytest.raises(ValueError, match=r"photos/\*\.jpg must name archives .*: a pattern stands for shards only"):
        load_splits("photos/*.jpg")
