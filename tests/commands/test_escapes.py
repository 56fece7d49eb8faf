"""Names of classes and files, and the values in configurations, reach no terminal and no page as commands."""

from __future__ import annotations

import ast
import io
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damaged_cases import STORED, change_json

import fastclr
from fastclr.cli import main
from fastclr.sources.printable import one_line, printable, show
from fastclr.transfer.feature_file import FeatureFile, write_features

EVIL = "cat\x1b]0;owned\x07\x1b[2J\r\u202egpj\x9b31m\udcff"


def harmless(text: str) -> bool:
    """Tell whether text holds nothing that a terminal obeys, but for breaks of line."""
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_what_is_escaped() -> None:
    assert printable("caf\u00e9 \u732b\n\tx") == "caf\u00e9 \u732b\n\tx"
    assert printable("a\x1b[2Jb") == "a\\x1b[2Jb" and one_line("a\nb") == "a\\nb"
    assert harmless(printable(EVIL)) and printable(EVIL).encode()
    for encoding in ("ascii", "latin-1", "utf-8"):
        raw = io.BytesIO()
        show("caf\u00e9 \u732b", stream := io.TextIOWrapper(raw, encoding))
        stream.flush()
        assert raw.getvalue().decode(encoding).startswith("caf")


def test_search_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(3, dtype=np.int64)
    names = np.array([f"{EVIL}/{row}.png" for row in rows])
    write_features(tmp_path / "f.npz", FeatureFile(np.eye(3, dtype=np.float32), rows, names, rows * 0, (EVIL,), {}))
    assert main(["search", str(tmp_path / "f.npz"), "0", "--k", "2"]) == 0
    assert main(["search", str(tmp_path / "f.npz"), EVIL]) == 2
    assert main(["knn", str(tmp_path / EVIL)]) == 2
    assert main([EVIL]) == 2
    out, err = capsys.readouterr()
    assert "cat\\x1b]0;owned" in out and harmless(out) and harmless(err)
    assert len(out.splitlines()) == 3


def test_pages_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    shutil.copytree(STORED, folder)
    change_json(folder / "config.json", {"data": EVIL})
    change_json(folder / "results.json", {EVIL: {"accuracy": 0.5, "protocol": EVIL}})
    assert main(["report", str(folder), "--device", "cpu"]) == 0
    assert harmless((folder / "report.html").read_text())
    # pytest keeps what reaches the root logger, and cannot send a lone surrogate from its worker process
    monkeypatch.setattr(logging.getLogger("fastclr"), "propagate", False)
    logging.getLogger("fastclr").warning("%s is damaged", EVIL)
    out, err = capsys.readouterr()
    assert harmless(out) and harmless(err) and "is damaged" in err


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path) -> None:
    for kind in ("circle\x1b[2J", "square\x07"):
        shutil.copytree(next((pictures / "train").iterdir()), tmp_path / "images" / kind)
    assert main(["data", str(tmp_path / "images")]) == 0
    out, err = capsys.readouterr()
    assert "circle\\x1b[2J" in out and harmless(out) and harmless(err)


def test_a_process_escapes_warnings() -> None:
    code = f"import warnings, fastclr.cli as c; c.escape_notices(); warnings.warn({EVIL[:-1]!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cat\\x1b" in done.stderr and harmless(done.stderr)


def test_nothing_else_prints() -> None:
    """`print` is called where all output is escaped, and nowhere else in what users run."""
    root = Path(fastclr.__file__).parent
    found = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == ["sources/printable.py"]
