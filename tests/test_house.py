"""How the house is built: short files, packages that say what they are for, few modules beside them."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {"__init__", "__main__", "_build_plan", "cli", "device", "environment", "files", "parallel"}
FOLDERS = ("fastclr", "kernels", "benchmarks", "tests")
PACKAGES = sorted(path.parent for path in (ROOT / "fastclr").glob("*/__init__.py"))


def test_files_are_short() -> None:
    files = [ROOT / "setup.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert len(lines) > 200 and median(lines.values()) < 130


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_in_its_first_line_what_it_is_for(package: Path) -> None:
    purpose = (ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or "").partition("\n\n")[0]
    assert purpose.endswith(".") and "\n" not in purpose, purpose


def test_no_new_module_lies_beside_the_packages() -> None:
    assert {path.stem for path in (ROOT / "fastclr").glob("*.py")} <= BESIDE
    assert len(PACKAGES) >= 11


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]  # folders of tests are no packages
    assert sorted(name for name in set(names) if names.count(name) > 1 and name != "conftest.py") == []


def test_slow_tests_are_where_make_test_slow_looks_for_them() -> None:
    folder = ROOT / "tests" / "interpret"
    assert [path.name for path in folder.rglob("*.py") if "mark.slow" in path.read_text()] == []
