"""Captions in CSV and TSV files, as a source of their own and beside one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stream_cases import encode, photo, write_tar
from test_captions import captions_of, written

from fastclr.data import CaptionOptions, load_splits

ROWS = [("b.jpg", "a star, small"), ("a.jpg", "a disc"), ("b.jpg", 'a "star"'), ("sub/c.jpg", "x")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images in folders."""
    names = ("a.jpg", "b.jpg", "sub/c.jpg")
    return written(tmp_path, {name: encode(photo(row, 20, 30), "JPEG") for row, name in enumerate(names)})


def quoted(text: str) -> str:
    """Return a field of CSV."""
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize(
    ("delimiter", "first"), [("\t", "filepath\ttitle"), (",", "Title,ignored,FilePath"), (";", "\ufeffname;caption")]
)
def test_a_table_is_a_source(pictures: Path, delimiter: str, first: str) -> None:
    """Rows of one image are its captions, in their order; images are numbered by their first rows."""
    lines = [first]
    for name, text in ROWS:
        cells = [quoted(text), "-", name] if first.startswith("Title") else [name, quoted(text)]
        lines.append(delimiter.join(cells))
    (pictures / "t.csv").write_text("\r\n".join(lines), encoding="utf-8")
    train = load_splits(pictures / "t.csv", holdout=0, captions="auto", loader="torch").train
    assert train.names == ("b.jpg", "a.jpg", "sub/c.jpg") and train.ids.tolist() == [0, 1, 2]
    assert train.captions == (("a star, small", 'a "star"'), ("a disc",), ("x",))
    assert load_splits(pictures / "t.csv", holdout=0, loader="resident").train.captions is None


def test_a_table_beside_a_source(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names are paths in the source, paths of its files, or begin with the source's own folder; a tar has them too."""
    elsewhere = tmp_path_factory.mktemp("tables")
    expected = {0: ("a disc",), 1: ("a star, small", 'a "star"'), 2: ("x",)}
    for name, prefix in (("plain", ""), ("dotted", "./"), ("absolute", f"{pictures}/"), ("top", f"{pictures.name}/")):
        table = elsewhere / f"{name}.tsv"
        table.write_text("\n".join(["filepath\ttitle", *(f"{prefix}{image}\t{quoted(text)}" for image, text in ROWS)]))
        assert captions_of(pictures, str(table)) == expected, name
    packed = write_tar(
        elsewhere / "p.tar", {str(path.relative_to(pictures)): path.read_bytes() for path in pictures.rglob("*.jpg")}
    )
    assert captions_of(packed, str(elsewhere / "plain.tsv")) == expected


def test_columns_can_be_named(pictures: Path) -> None:
    """The header may be anything; without the columns an error shows what is there."""
    table = pictures / "t.csv"
    table.write_text("where,what\na.jpg,one\nb.jpg,two\n")
    assert captions_of(table, CaptionOptions(columns=("where", "What"))) == {0: ("one",), 1: ("two",)}
    with pytest.raises(
        ValueError, match=r"t\.csv: its first line must have .*filepath.* got 'where, what': --caption-columns"
    ):
        load_splits(table, captions="auto")
    table.write_text("")
    with pytest.raises(ValueError, match="got none"):
        load_splits(table, captions="auto")
    table.write_text("filepath,title\n")
    with pytest.raises(ValueError, match="names no image"):
        load_splits(table, captions="auto")


def test_damaged_rows_are_left_out_and_named(tmp_path: Path) -> None:
    """A row that is empty, not UTF-8, of 10 MB, or names no image costs itself; a missing picture likewise."""
    written(tmp_path, {f"{row}.jpg": encode(photo(row, 20, 30), "JPEG") for row in range(9)})
    rows = [
        b"filepath,title",
        b"0.jpg,zero",
        b"1.jpg,",
        b"2.jpg,St\xe4rnchen",
        b"3.jpg," + b"x" * 10_000_000,
        b"4.jpg",
        b",nobody",
        b"5\x00.jpg,nul",
        b"",
        b"6.jpg," + b"y" * 20_000,
        b"7.jpg,seven",
        b"gone.jpg,gone",
        b"2.jpg,but this one is fine",
        b'8.jpg,"eight',  # the quote is never closed
    ]
    (tmp_path / "t.csv").write_bytes(b"\n".join(rows))
    train = load_splits(tmp_path / "t.csv", holdout=0, captions="auto", loader="torch").train
    assert dict(zip(train.names, train.captions or (), strict=True)) == {
        "0.jpg": ("zero",),
        "2.jpg": ("but this one is fine",),
        "7.jpg": ("seven",),
        "8.jpg": ("eight",),
    }
    reasons = dict(train.skipped)
    assert {"1.jpg", "4.jpg", "6.jpg", "gone.jpg", "t.csv, line 5", "t.csv, line 7", "t.csv, line 8"} <= set(reasons)
    assert reasons["gone.jpg"].startswith("FileNotFoundError") or "No such file" in reasons["gone.jpg"]
    assert "20000 characters" in reasons["6.jpg"] and "empty" in reasons["1.jpg"]


def test_paths_may_be_relative_to_the_current_folder(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As open_clip reads them, if they do not lie beside the table; no link is followed."""
    (pictures / "tables").mkdir()
    (pictures / "tables/t.csv").write_text("filepath,title\na.jpg,one\nb.jpg,two\nl.jpg,link\n")
    os.symlink(pictures / "sub/c.jpg", pictures / "l.jpg")
    monkeypatch.chdir(pictures)
    train = load_splits("tables/t.csv", holdout=0, captions="auto", loader="torch").train
    assert train.captions == (("one",), ("two",)) and [name for name, _ in train.skipped] == ["l.jpg"]
