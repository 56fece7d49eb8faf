from __future__ import annotations

import hashlib
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import run

from fastclr.files import write_atomically, write_text_atomically
from fastclr.training.checkpoint import Checkpoint, load_checkpoint, load_latest, save_checkpoint


def make(step: int, size: int = 10) -> Checkpoint:
    return Checkpoint(
        config={"lr": 0.1, "crop": (0.2, 1.0)},
        fingerprint="abc",
        epoch=1,
        step_in_epoch=2,
        step=step,
        method={"w": torch.full((size,), float(step))},
        optimizer={"state": {}, "param_groups": []},
        probe={},
        totals={"loss": torch.zeros(())},
        seconds=(1.5, 0.5),
    )


def test_round_trip_is_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "step-00000007.pt"
    save_checkpoint(path, make(7))
    assert torch.load(path, weights_only=True)["step"] == 7
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.epoch, loaded.config) == (7, 1, {"lr": 0.1, "crop": (0.2, 1.0)})
    assert torch.equal(loaded.method["w"], torch.full((10,), 7.0))
    assert list(tmp_path.iterdir()) == [path]


def test_the_last_line_is_the_sha256_of_all_before_it(tmp_path: Path) -> None:
    path = tmp_path / "step-00000007.pt"
    save_checkpoint(path, make(7))
    contents, _, line = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    assert line.decode() == f"fastclr checkpoint, format 0003, sha256 {hashlib.sha256(contents).hexdigest()}"
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    assert re.findall(r"^fastclr checkpoint, (format \d{4}), sha256", page, re.M) == ["format 0003"]


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", b"PK\x03\x04 torn zip"])
def test_other_files_are_refused_by_name(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"step-00000001\.pt must end in the line .* \({len(contents)} bytes\)"):
        load_checkpoint(path)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    """A bit flipped anywhere, and the file cut anywhere, are found."""
    path = tmp_path / "step-00000001.pt"
    save_checkpoint(path, make(1))
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"SHA-256|must end|of format"):
            load_checkpoint(path)
        path.write_bytes(whole[:place])
        with pytest.raises(ValueError, match="cut off"):
            load_checkpoint(path)


def test_other_formats_and_other_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"format": 1, "model": {}}, path)
    with pytest.raises(ValueError, match="checkpoint of format 3, and does not"):
        load_checkpoint(path)
    save_checkpoint(path, make(1))
    path.write_bytes(path.read_bytes().replace(b"format 0003", b"format 0004"))
    with pytest.raises(ValueError, match="format 2 or 3, got 4"):
        load_checkpoint(path)

    class Newer:
        def __init__(self) -> None:
            self.step = 1

    save_checkpoint(path, Newer())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got \['step'\]: it was made by another version"):
        load_checkpoint(path)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "step-00000001.pt")


def write_three(folder: Path) -> list[Path]:
    paths = [folder / f"step-{step:08d}.pt" for step in (8, 9, 123_456_789)]
    for step, path in zip((8, 9, 123_456_789), paths, strict=True):
        save_checkpoint(path, make(step))
    return paths


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0x10
    path.write_bytes(contents)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_the_newest_is_loaded_and_other_files_are_passed_over(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nothing", pytest.fail) is None
    assert load_latest(tmp_path, pytest.fail) is None
    for name in ("step-00000999.pt.tmp", "step-1.pt", "notes.txt", "step-00000999.pt.part"):
        (tmp_path / name).write_bytes(b"x")
    assert load_latest(tmp_path, pytest.fail) is None
    write_three(tmp_path)
    latest = load_latest(tmp_path, pytest.fail)
    assert latest is not None and latest.step == 123_456_789


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_newest_is_reported_and_the_next_is_taken(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    _, middle, newest = write_three(tmp_path)
    damage(newest)
    warnings: list[str] = []
    latest = load_latest(tmp_path, warnings.append)
    assert latest is not None and latest.step == 9
    assert len(warnings) == 1 and newest.name in warnings[0] and "going back to the checkpoint of step 9" in warnings[0]
    damage(middle)
    latest = load_latest(tmp_path, warnings.append)
    assert latest is not None and latest.step == 8 and len(warnings) == 3


def test_nothing_usable_is_an_error_that_names_each(tmp_path: Path) -> None:
    for path, damage in zip(write_three(tmp_path), (cut, flip, empty), strict=True):
        damage(path)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used.*89\.pt .*09\.pt .*08\.pt "):
        load_latest(tmp_path, pytest.fail)


def fill_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes past the limit then fail as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    save_checkpoint(path, make(2, size=10**6))


def test_failed_write_keeps_the_old_checkpoint_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    save_checkpoint(path, make(1))
    said = run(fill_disk, path, status=1).err
    assert "could not write" in said and "the previous step-00000001.pt is untouched" in said
    assert load_checkpoint(path).step == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed"), KeyboardInterrupt()])
def test_a_write_that_stops_halfway_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "results.json"
    write_text_atomically(path, "é old\n")

    def write(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise error

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError):
        write_atomically(path, write)
    assert path.read_bytes() == "é old\n".encode()
    assert list(tmp_path.iterdir()) == [path]
