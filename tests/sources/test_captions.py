"""Captions: where they are found, which count, and what damaged or hostile ones cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stream_cases import encode, photo, write_tar

from fastclr.data import ImageIndex, load_splits
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.open_source import open_source
from fastclr.sources.captions import MAX_BYTES, CaptionOptions, read_captions


def pairs(*texts: dict[str, bytes]) -> dict[str, bytes]:
    """Return images with the files beside them."""
    files: dict[str, bytes] = {}
    for number, text in enumerate(texts):
        files[f"{number:04d}.jpg"] = encode(photo(number, 20, 30), "JPEG")
        files |= {f"{number:04d}.{suffix}": content for suffix, content in text.items()}
    return files


def written(root: Path, files: dict[str, bytes]) -> Path:
    """Write files to a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def stored(kind: str, root: Path, files: dict[str, bytes]) -> Path:
    """Store files as a folder, a tar of a folder, a compressed one, or two WebDataset shards."""
    if kind == "folder":
        return written(root / "pictures", files)
    if kind == "tar":
        return write_tar(root / "pictures.tar", files)
    folder = root / "shards"
    folder.mkdir()
    names = sorted(files)
    first = [name for name in names if name < "0002"]
    write_tar(folder / "x-0.tar", {name: files[name] for name in first})
    write_tar(folder / "x-1.tar", {name: files[name] for name in names if name not in first})
    return folder


def captions_of(source: Path, captions: str | CaptionOptions = "auto", **options: Any) -> dict[int, tuple[str, ...]]:
    """Return the captions of a source by id."""
    train = load_splits(source, holdout=0, loader="torch", captions=captions, **options).train
    assert train.captions is not None
    return dict(zip(train.ids.tolist(), train.captions, strict=True))


@pytest.mark.parametrize("kind", ["folder", "tar", "shards"])
def test_text_and_json(kind: str, tmp_path: Path) -> None:
    """A .txt has a caption a line and counts before a .json; ids are those without captions."""
    record = json.dumps({"caption": ["from json", "from json", " again "], "label": 1}).encode()
    source = stored(
        kind,
        tmp_path,
        pairs(
            {"txt": b"\xef\xbb\xbfa  red\tstar \r\n\r\nein St\xc3\xa4rnchen\n"},
            {"json": record},
            {"json": record, "txt": b"from text"},
            {"TXT": b"upper case", "json": b"{}"},
        ),
    )
    assert captions_of(source) == {
        0: ("a red star", "ein Stärnchen"),
        1: ("from json", "again"),
        2: ("from text",),
        3: ("upper case",),
    }
    assert captions_of(source, "txt") == {key: text for key, text in captions_of(source).items() if key != 1}
    with pytest.raises(ValueError, match=r"have no caption: .*0000\.jpg.* no \.json"):
        load_splits(written(tmp_path / "bare", pairs({"txt": b"x"})), captions="json")
    without = load_splits(source, holdout=0, loader="torch").train
    assert without.captions is None and "-" not in without.fingerprint.partition("-")[2]


HOSTILE = {
    "missing": {},
    "empty": {"txt": b""},
    "blank": {"txt": b" \n\t\n"},
    "latin-1": {"txt": "Stärnchen".encode("latin-1")},
    "10 MB": {"txt": b"star " * 2_000_000},
    "one long line": {"txt": b"x" * 100_000},
    "half a pair": {"json": b'{"caption": "\\ud800"}'},
    "no JSON": {"json": b"{"},
    "nested": {"json": b'{"caption": ' + b"[" * 100_000},
    "a number": {"json": b'{"caption": 7}'},
    "numbers": {"json": b'{"caption": ["a", 7]}'},
    "no caption": {"json": b'{"label": 7}'},
    "a list": {"json": b"[]"},
    "null": {"json": b'{"caption": null}'},
}


@pytest.mark.parametrize("kind", ["folder", "tar", "shards"])
def test_what_cannot_be_used_is_left_out_and_named(kind: str, tmp_path: Path) -> None:
    """Every way to have no caption costs its image, which is named with the reason; the others keep their ids."""
    good = [{"txt": b"good %d" % number} for number in range(len(HOSTILE))]
    source = stored(
        kind, tmp_path, pairs(*(each for pair in zip(HOSTILE.values(), good, strict=True) for each in pair))
    )
    train = load_splits(source, holdout=0, loader="torch", captions="auto").train
    assert train.captions == tuple((f"good {number}",) for number in range(len(HOSTILE)))
    assert train.ids.tolist() == list(range(1, 2 * len(HOSTILE), 2))
    # in a shard, a JSON that cannot be read may hide a label
    causes = ("no caption", "its label")
    reasons = {name[-8:-4]: reason for name, reason in train.skipped if reason.startswith(causes)}
    assert sorted(reasons) == [f"{number:04d}" for number in range(0, 2 * len(HOSTILE), 2)]
    assert "larger than 1048576 bytes" in reasons["0008"] and "100000 characters" in reasons["0010"]
    assert all("0002.txt" in reason or number != "0002" for number, reason in reasons.items())


def test_too_many_without_captions(tmp_path: Path) -> None:
    """Where more than half have none, the place is wrong, and an error names it."""
    source = written(tmp_path, pairs({"txt": b"good"}, {}, {}))
    with pytest.raises(ValueError, match=r"2 of the 3 images of .* have no caption: .*0001\.jpg"):
        load_splits(source, captions="auto")
    with pytest.raises(ValueError, match="captions must be one of auto, txt, json"):
        load_splits(source, captions="")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        load_splits(source, captions="nowhere.csv")


def test_keys_of_json() -> None:
    """The first of three usual keys counts, or the one that is named."""
    content = b'{"text": "t", "captions": ["a", "b"], "alt": "c"}'
    assert read_captions(content, "json") == ("a", "b")
    assert read_captions(content, "json", "alt") == ("c",)
    with pytest.raises(ValueError, match="it has no 'title'"):
        read_captions(content, "json", "title")
    with pytest.raises(ValueError, match="larger than"):
        read_captions(b" " * (MAX_BYTES + 1), "json")


def test_captions_and_splits(tmp_path: Path) -> None:
    """Without labels a part of all images is held out; a folder for tests is taken as it is, with labels or without."""
    flat = written(tmp_path / "flat", pairs(*({"txt": b"%d" % number} for number in range(20))))
    splits = load_splits(flat, captions="auto", holdout=0.2, loader="torch")
    assert splits.test is not None and splits.held_out and len(splits.test) == 4 and len(splits.train) == 16
    assert splits.test.captions == tuple((str(key),) for key in splits.test.ids.tolist())
    assert load_splits(flat, holdout=0.2, loader="torch").test is None
    tree = {
        f"{split}/{name}": content
        for split in ("train", "val")
        for name, content in pairs(*[{"txt": b"x"}] * 4).items()
    }
    apart = load_splits(written(tmp_path / "apart", tree), captions="auto", loader="torch")
    assert apart.test is not None and len(apart.test) == len(apart.train) == 4 and not apart.held_out
    other = load_splits(flat, tmp_path / "apart", captions="auto", loader="torch")
    assert other.test is not None and other.test.captions == (("x",),) * 4 and len(other.train) == 20
    both = open_source(flat, captions=CaptionOptions()).load_test((), "resident", DecodeOptions())
    assert len(both) == 20 and not isinstance(both, ImageIndex)
