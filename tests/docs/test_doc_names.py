"""Every public name has a docstring and stands in the API pages, and the names that pages mention exist."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml
from doc_pages import DOCS, PAGES, ROOT, blocks, hooks, name_of, prose

import fastclr
from fastclr import compat

SITE = hooks()
API = {page: yaml.safe_load(page.read_text().split("---")[1]) for page in DOCS.glob("api/*.md") if page.stem != "index"}
PACKAGES = sorted(package for meta in API.values() for package in meta.get("packages", ()))
LISTED = {name for meta in API.values() for name in SITE.entries(meta)}
MENTIONED = re.compile(r"(?<![\w.])fastclr(?:\.[A-Za-z_]\w*)+")


def find(name: str) -> object:
    """Import what a dotted name stands for."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def test_every_public_package_has_an_api_page() -> None:
    """Packages with `__all__`; fastclr.kernels finds its names while it runs, and its page lists them."""
    public = {path.parent.name for path in (ROOT / "fastclr").glob("*/__init__.py") if "__all__" in path.read_text()}
    assert {f"fastclr.{name}" for name in public} - {*PACKAGES, "fastclr.compat", "fastclr.kernels"} == set()
    from fastclr import kernels

    assert {name.rpartition(".")[2] for name in LISTED if name.startswith("fastclr.kernels.")} == set(kernels.__all__)


def test_every_name_of_fastclr_has_an_entry() -> None:
    entries = {name.rpartition(".")[2] for name in LISTED if not name.startswith("fastclr.compat.")}
    assert set(fastclr.__all__) - entries == set()


def test_every_drop_in_has_an_entry() -> None:
    names = {
        f"{module.__name__}.{name}"
        for module in (getattr(compat, library) for library in compat._LIBRARIES)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and re.search("Loss$|NCE$|_nce$|loss_func$|_loss$", name)
    }
    assert names == {name for name in LISTED if name.startswith("fastclr.compat.")}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    assert SITE.undocumented(package) == []
    module = importlib.import_module(package)
    assert sorted(SITE.public_names(package)) == sorted(module.__all__)


def test_single_entries_are_documented() -> None:
    for meta in API.values():
        for name in meta.get("names", ()):
            place, _, last = name.rpartition(".")
            assert SITE.undocumented(place, [last]) == [] and inspect.getdoc(find(name))


def test_a_name_without_a_docstring_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fastclr" / "sample"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('from fastclr.sample.code import A, b, c\n__all__ = ["A", "b", "c", "d"]\n')
    (package / "code.py").write_text('class A:\n    """A."""\n    def m(self): ...\ndef b(): ...\nc = 1\n"""C."""\n')
    monkeypatch.setattr(SITE, "ROOT", tmp_path)
    assert SITE.undocumented("fastclr.sample") == [f"fastclr.sample.{name}" for name in ("A.m", "b", "d")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_on_a_page_exist(page: Path) -> None:
    text = "\n".join([*re.findall("`([^`\n]+)`", prose(page)), *blocks(page, "python")])
    for name in sorted(set(MENTIONED.findall(text)) - {"fastclr.bench"}):
        if page.name != "CHANGELOG.md":
            find(name)
