"""Writers follow no link that lies where they write."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from fastclr.files import append_text, create_new, is_own, locked, make_folder, write_text_atomically
from fastclr.files import write_atomically as write
from fastclr.sources.byte_ranges import Storage


@pytest.fixture
def prey(tmp_path: Path) -> Path:
    """A file that nobody asked to change."""
    path = tmp_path / "prey"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("name", ["out.json.tmp", "out.json"])
def test_a_planted_link_is_replaced_and_not_followed(prey: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(prey)
    write_text_atomically(tmp_path / "out.json", "new")
    assert prey.read_text() == "precious"
    assert (tmp_path / "out.json").read_text() == "new" and not (tmp_path / "out.json").is_symlink()


def test_a_link_that_hangs_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "out.tmp").symlink_to(tmp_path / "elsewhere")
    write_text_atomically(tmp_path / "out", "new")
    assert not (tmp_path / "elsewhere").exists()


def test_logs_and_locks_refuse_links(prey: Path, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(prey)
    for call in (lambda: append_text(tmp_path / "log", "line\n"), locked(tmp_path / "log", "busy").__enter__):
        with pytest.raises(OSError, match="symbolic links"):
            call()
    assert prey.read_text() == "precious"
    append_text(tmp_path / "other", "é\n")
    append_text(tmp_path / "other", "b\n")
    assert (tmp_path / "other").read_text() == "é\nb\n"


def test_a_lock_has_one_holder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, order = tmp_path / "lock", ["first"]

    def second() -> None:
        with locked(path, "somebody works here", wait=True):
            order.append("second")

    with locked(path, "somebody works here"):
        with pytest.raises(BlockingIOError, match="somebody works here"), locked(path, "somebody works here"):
            order.append("never")
        with caplog.at_level(logging.WARNING):
            thread = threading.Thread(target=second)
            thread.start()
            while "somebody works here: waiting for it" not in caplog.text and thread.is_alive():
                thread.join(0.01)
        order.append("first ends")
    thread.join()
    assert order == ["first", "first ends", "second"]
    with locked(path, "somebody works here"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_work_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(file: object, flags: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    with locked(tmp_path / "lock", "busy"), locked(tmp_path / "lock", "busy"):
        pass


@pytest.mark.slow
def test_everything_is_imported_where_there_is_no_module_of_unix_alone() -> None:
    """As on Windows; torch and the rest are imported before, because they ask the system what it is."""
    code = """
import importlib, pkgutil, sys
import timm, tyro, fsspec, filelock, tqdm, matplotlib.pyplot, scipy.optimize, sklearn, torch.distributed.run
unix = ("fcntl", "resource", "pwd", "grp", "termios")
sys.modules.update(dict.fromkeys(unix))
import fastclr
for each in pkgutil.walk_packages(fastclr.__path__, "fastclr."):
    if not each.name.startswith(("fastclr.bench", "fastclr.kernels", "fastclr.__main__", "fastclr._")):
        importlib.import_module(each.name)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_are_read_where_there_is_no_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(bytes(range(200)))
    storage = Storage.of_files([str(tmp_path / "x")])
    monkeypatch.delattr(os, "pread")
    assert storage.read(0) == bytes(range(200))
    assert storage.read_ends(0, 3, 5)[:2] == (bytes(range(3)), bytes(range(195, 200)))


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        make_folder(tmp_path / "checkpoints")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")


def test_two_that_write_one_file_never_mix(tmp_path: Path) -> None:
    """The first finds at its end that its file is no longer its own; what the second wrote stays whole."""
    path = tmp_path / "out"

    def first(file: BinaryIO) -> None:
        file.write(b"first")
        write(path, lambda other: other.write(b"second"))
        create_new(tmp_path / "out.tmp").close()  # a third one has just begun

    with pytest.raises(OSError, match="another process writes the same file"):
        write(path, first)
    assert path.read_bytes() == b"second" and (tmp_path / "out.tmp").exists()


def test_modes_are_those_of_other_files(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a", "")
    (tmp_path / "b").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1


def test_ownership(tmp_path: Path, prey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(prey)
    assert is_own(prey) and not is_own(tmp_path / "link") and not is_own(tmp_path / "nothing")
    monkeypatch.setattr(os, "geteuid", lambda: prey.stat().st_uid + 1)
    assert not is_own(prey)
