"""`fastclr data`: counts, damage and copies that were put into the source by hand."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastclr.cli import main
from fastclr.commands.data import copies, split_lines
from fastclr.data import make_shapes
from fastclr.data.cache import cache_folder
from fastclr.report import data_survey, decode_rate
from fastclr.report.data_survey import Copies, SplitSurvey, Spread, evenly
from fastclr.report.decode_rate import cores_for, dali_rate, pillow_rate

RNG = np.random.default_rng(0)


def encoded(height: int, width: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """An image of noise."""
    buffer = io.BytesIO()
    noise = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    noise.convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve image files in two splits: two damaged, one grey, one CMYK, one PNG, two copies, one of them a leak."""
    root = tmp_path / "photos"
    first = encoded(20, 30)
    tree = {
        "train/cat/1.jpg": first,
        "train/cat/2.jpg": encoded(40, 10),
        "train/cat/3.jpg": first,  # a copy in the same split
        "train/dog/1.jpg": encoded(50, 60, "L"),
        "train/dog/2.jpg": encoded(20, 30, "CMYK"),
        "train/dog/3.png": encoded(20, 30, kind="PNG"),
        "train/cat/cut.jpg": encoded(64, 64)[:-200],
        "train/cat/text.jpg": b"no image",
        "train/loose.jpg": encoded(20, 30),
        "test/cat/1.jpg": first,  # a copy in the other split
        "test/dog/1.jpg": encoded(20, 31),
        "test/dog/2.jpg": encoded(20, 32),
    }
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    os.mkfifo(root / "train" / "pipe.jpg")
    return root


def report(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run `fastclr data --json` and return what it prints."""
    assert main(["data", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_everything_is_counted(packed: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders and archives give the numbers that were put in."""
    path = folder
    if packed:
        path = tmp_path / "photos.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, ".")
    found = report(str(path), capsys=capsys)
    assert found["splits"] == {
        "train": {
            "images": 7,
            "unlabelled": 1,
            "classes": {"cat": 3, "dog": 3},
            "per_class": {"min": 3, "median": 3.0, "max": 3},
        },
        "test": {
            "images": 3,
            "unlabelled": 0,
            "classes": {"cat": 1, "dog": 2},
            "per_class": {"min": 1, "median": 1.5, "max": 2},
        },
    }
    assert found["test_images"] == "the folder test" and found["held_out"] is False
    # heights 20 40 20 50 20 20 20 20 20 20, widths 30 10 30 60 30 30 30 30 31 32
    assert found["height"] == {"min": 20, "median": 20.0, "max": 50}
    assert found["width"] == {"min": 10, "median": 30.0, "max": 60}
    assert found["formats"] == {"JPEG": 9, "PNG": 1} and found["grey"] == 1 and found["cmyk"] == 1
    bad = dict(found["unreadable"])
    assert set(bad) == {"train/cat/cut.jpg", "train/cat/text.jpg"}
    assert "truncated" in bad["train/cat/cut.jpg"] and bad["train/cat/text.jpg"] == "no image of a known format"
    assert [name.split("/")[-1] for name, _ in found["not_read"]] == ["pipe.jpg"]
    assert found["copies"] == {"of": "files", "images": 2, "shared_with_train": {"test": 1}}
    assert found["decoded_bytes"] == 3 * (5 * 20 * 30 + 400 + 50 * 60 + 600 + 20 * 31 + 20 * 32)
    assert found["all_decoded"] is True and found["decoded"] == 11
    machine = found["machine"]
    assert machine["samples"] == 10 and machine["gpu_images_per_s"] == 5000
    for name, rate in machine["images_per_s_per_core"].items():
        assert rate > 0 and machine["cores_needed"][name] == -int(-5000 // rate)


def test_the_report_is_the_same_every_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Apart from what is measured on the machine."""
    one, two = report(str(folder), capsys=capsys), report(str(folder), capsys=capsys)
    del one["machine"], two["machine"]
    assert one == two


def test_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text says the same as the JSON, and warns of the leak."""
    assert main(["data", str(folder), "--gpu-images-per-s", "1e9"]) == 0
    text = capsys.readouterr().out
    for part in (
        "train        7 images, 2 classes of 3 / 3 / 3 images (min / median / max), 1 unlabelled",
        "cat 3, dog 3",
        "JPEG 9, PNG 1; not JPEG 10%, greyscale 10%, CMYK 10%",
        "2 of 12 images (every image was decoded), and 1 entries that are not read",
        "'train/cat/text.jpg': no image of a known format",
        "2 images equal another one (identical files)",
        "WARNING: 1 images of test are also in train",
        "a GPU that trains on 1,000,000,000 images/s: about",
    ):
        assert part in text, text


def test_only_the_first_unreadable_files_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten by default, all on request."""
    for index in range(13):
        (tmp_path / f"bad{index:02d}.jpg").write_bytes(b"x")
        (tmp_path / f"good{index:02d}.jpg").write_bytes(encoded(8, 8))
    assert main(["data", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "bad09.jpg" in text and "bad10.jpg" not in text and "and 3 more (--all lists them)" in text
    assert main(["data", str(tmp_path), "--all"]) == 0
    text = capsys.readouterr().out
    assert "bad12.jpg" in text and "more" not in text


def test_large_sets_are_decoded_in_part(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit evenly spaced images are decoded, and the report says so; everything else is still counted."""
    monkeypatch.setattr(data_survey, "DECODED_PIXELS", 64 * 64)
    found = report(str(folder), capsys=capsys)
    # 64 x 64 + 10 x (20 x 30) or so: every fourth of the eleven images with a good header
    assert found["all_decoded"] is False and found["decoded"] == 3
    assert sum(split["images"] for split in found["splits"].values()) in (10, 11)
    assert found["copies"]["shared_with_train"] == {"test": 1}
    assert main(["data", str(folder)]) == 0
    assert "3 evenly spaced ones were decoded, of the others only the header was read" in capsys.readouterr().out


def test_resizing_counts_in_the_estimate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pixels are those that would be kept."""
    found = report(str(folder), "--resize-shorter", "10", capsys=capsys)
    kept = 4 * 10 * 15 + 40 * 10 + 10 * 12 + 10 * 15 + 10 * 15 + 10 * 16
    # 20 x 31 becomes 10 x 15.5, which rounds to 16 as Python does
    assert found["decoded_bytes"] == 3 * (kept + 10 * 16)


def test_kinds_of_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels in CIFAR's files, a named set, and shapes need no decoding; copies are compared as pixels."""
    from published_cases import CONTENT, write_folder

    root = tmp_path / "data"
    write_folder(root / "cifar-10-batches-py", CONTENT["cifar10"])
    write_folder(
        root / "stl10_binary", {**CONTENT["stl10"], "test_X.bin": CONTENT["stl10"]["train_X.bin"][: 5 * 27648]}
    )
    by_path = report(str(root / "cifar-10-batches-py"), capsys=capsys)
    by_name = report("cifar10", "--data-root", str(root), capsys=capsys)
    assert by_path["splits"] == by_name["splits"] and by_name["splits"]["train"]["images"] == 10
    assert by_name["formats"] == {} and "samples" not in by_name["machine"]
    stl = report("stl10", "--data-root", str(root), capsys=capsys)
    assert stl["splits"]["train"]["unlabelled"] == 600 and stl["splits"]["train"]["images"] == 607
    assert stl["copies"] == {"of": "pixels", "images": 5, "shared_with_train": {"test": 5}}
    assert stl["decoded_bytes"] == (607 + 5) * 27648
    monkeypatch.setattr("fastclr.data.open_source.make_shapes", lambda: make_shapes(train=16, test=8))
    assert main(["data", "shapes"]) == 0
    assert "pixels, nothing to decode" in capsys.readouterr().out


def test_labels_and_held_out_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes from a CSV count; where a part is held out, copies are a risk that is named."""
    content = encoded(8, 8)
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(content if index < 2 else encoded(8, 8))
    assert report(str(tmp_path), capsys=capsys)["test_images"].startswith("none")
    (tmp_path / "labels.csv").write_text("name,label\n0.jpg,a\n1.jpg,a\n2.jpg,b\n")
    found = report(str(tmp_path), "--labels", str(tmp_path / "labels.csv"), capsys=capsys)
    assert found["splits"]["train"]["classes"] == {"a": 2, "b": 1} and found["splits"]["train"]["unlabelled"] == 1
    assert found["held_out"] is True
    assert main(["data", str(tmp_path), "--labels", str(tmp_path / "labels.csv")]) == 0
    assert "WARNING: held-out test images may have a copy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to look at must be given"),
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "no images in empty"),
        (["bad"], "none of the 1 images in bad can be read: 'x.jpg': no image of a known format"),
        (["empty", "--resize-shorter", "0"], "resize_shorter must be a positive number, got 0"),
        (["empty", "--gpu-images-per-s", "nan"], "gpu_images_per_s must be a positive number, got nan"),
        (["empty", "--clear-cache"], "drop 'empty'"),
        (["--clear-cache", "--cache", "off"], "got off"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and a status of 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"x")
    assert main(["data", *arguments]) == 2
    text = capsys.readouterr().err
    assert message in text and len(text.splitlines()) == 1


def test_clear_cache_and_info(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept shows in `info` and goes with `data --clear-cache`."""
    from fastclr.data import load_splits

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_splits(pictures, cache="auto")
    folder = cache_folder("auto")
    assert folder is not None and len(list(folder.iterdir())) == 1
    size = next(folder.iterdir()).stat().st_size
    assert main(["info"]) == 0
    assert f"{folder}: 1 file(s), {size / 1e9:.3g} GB" in capsys.readouterr().out
    assert main(["data", "--clear-cache"]) == 0
    assert f"removed 1 file(s), {size / 1e9:.3g} GB, from {folder}" in capsys.readouterr().out
    assert list(folder.iterdir()) == []
    assert main(["data", "--clear-cache", "--cache", str(tmp_path / "none")]) == 0


def test_rates_count_images_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images over seconds, on a clock that tells two seconds a batch; a slow measurement ends early."""
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(decode_rate.time, "perf_counter", lambda: next(ticks))
    seen: list[int] = []
    # the clock is read once at the start, once after each batch, once at the end
    rate = decode_rate.measure([b""] * 8, 4, lambda batch: seen.append(len(batch)))
    assert seen == [4, 4] and rate == 8 / 6
    rate = decode_rate.measure([b""] * 40, 4, lambda batch: seen.append(len(batch)))
    assert len(seen) == 5 and rate == 12 / 8
    assert cores_for(5000, 110) == 46 and cores_for(10, 10) == 1


def test_rates_of_real_decoders() -> None:
    """Both decoders take what Pillow writes; a file that DALI does not know is an error that it names."""
    samples = [encoded(40, 50) for _ in range(20)]
    assert pillow_rate(samples) > 0 and pillow_rate(samples, 16) > 0
    pytest.importorskip("nvidia.dali")
    assert dali_rate(samples) > 0 and dali_rate(samples, 16) > 0
    with pytest.raises(RuntimeError):
        dali_rate([b"no image"])


def test_without_dali(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The report says so and goes on."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    machine = report(str(folder), capsys=capsys)["machine"]
    assert machine["dali"] == "not installed" and list(machine["images_per_s_per_core"]) == ["Pillow"]


def test_details_of_the_text() -> None:
    """Many classes are not listed; names that a terminal cannot show are escaped; no leak is no warning."""
    many = {f"class{i}": 5 for i in range(21)}
    assert split_lines(SplitSurvey(105, 0, many, Spread(5, 5, 5))) == [
        "105 images, 21 classes of 5 / 5 / 5 images (min / median / max)"
    ]
    assert "a\\x1b[31m 2" in split_lines(SplitSurvey(2, 0, {"a\x1b[31m": 2}, Spread(2, 2, 2)))[1]
    assert not any("WARNING" in line for line in copies(Copies("files", 3, {"test": 0}), False))
    assert evenly([str(i) for i in range(10)], 4) == ["0", "2", "5", "7"]
