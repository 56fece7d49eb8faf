"""Notebooks: without outputs, an installation first, a badge once there is an address; they run from top to bottom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from effort import EFFORT

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
QUICK = ("drop_in_loss",)
# what a notebook's front end does: shell commands, whose {names} are variables, and the value of the last line
SCRIPT = """
import ast, sys
place = {"__name__": "__main__"}
for cell in sys.stdin.read().split(chr(0)):
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), place)
    value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), place)
    if hasattr(value, "_repr_html_"):
        print("shown:", value._repr_html_()[:60], len(value._repr_html_()))
"""


def cells(path: Path, kind: str) -> list[str]:
    """Return the sources of all cells of a kind."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def as_python(cell: str) -> str:
    """Return a cell without installations, and with its shell commands as Python."""
    lines = []
    for line in cell.splitlines():
        if line.startswith("!fastclr "):
            command = f"f{line[1:].removeprefix('fastclr ')!r}.split()"
            line = f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'fastclr', *{command}], check=True)"
        lines.append("" if line.startswith("%pip ") else line)
    return "\n".join(lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook: dict[str, Any] = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", each) for each in ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "".join(code[0]["source"]).startswith("%pip install -q ")
    first = cells(path, "markdown")[0]
    place = path.relative_to(ROOT)
    named = re.findall(r"github\.com/([\w.-]+/[\w.-]+)", (ROOT / "pyproject.toml").read_text())
    badges = re.findall(r"colab\.research\.google\.com/github/([\w./-]+)", first)
    assert badges == [f"{owner}/blob/main/{place}" for owner in sorted(set(named))], (
        "a badge needs the repository that [project.urls] in pyproject.toml names, and every notebook then has one: "
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/OWNER/NAME/blob/main/{place})"
    )
    assert badges or "*Upload notebook*" in first
    docs = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert f"../examples/notebooks/{path.name}" in docs


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if EFFORT > 1 or path.stem in QUICK], ids=lambda p: p.stem)
def test_notebooks_run_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    """One of them; `make test-long` runs all."""
    sources = "\0".join(map(as_python, cells(path, "code")))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, input=sources, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("shown: <iframe sandbox srcdoc=" in done.stdout) == (path.stem == "what_simclr_learns")


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 4 and {*QUICK} < {path.stem for path in NOTEBOOKS}
