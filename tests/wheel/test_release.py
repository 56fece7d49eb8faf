"""What stops a release: versions that differ, an address that nobody filled in, files that lack something."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import check_release
import pytest
import try_wheels
import yaml

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
HOME, PLACE = "https://github.com/them/fastclr", "them/fastclr"
WHEEL = "fastclr-0.1.0-py310-none-manylinux_2_28_x86_64.whl"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The texts of this tree, with the address of a repository in them."""
    for name in ("CHANGELOG.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    edit(tmp_path, "pyproject.toml", "[project.optional", f'[project.urls]\nSource = "{HOME}"\n\n[project.optional')
    return tmp_path


def edit(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new, 1))


def test_a_filled_in_tree_is_right(tree: Path) -> None:
    assert check_release.wrong_sources(tree, PLACE, "v0.1.0") == []
    assert check_release.wrong_sources(tree, PLACE, "") == []


def test_this_tree_lacks_nothing_but_its_address() -> None:
    """Version, date and citation are in step; when [project.urls] is filled in, nothing is wrong any more."""
    found = check_release.wrong_sources(ROOT, PLACE, "v" + metadata.version("fastclr"))
    assert [line for line in found if "[project.urls]" not in line] == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"', "the tag is v0.1.0, the version .* 0.2.0"),
        ("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"', "CHANGELOG.md has no dated section for 0.2.0"),
        ("CHANGELOG.md", "## 0.1.0 - 2026-11-30", "## 0.1.0", "CHANGELOG.md has no dated section for 0.1.0"),
        ("CHANGELOG.md", "- 2026-11-30", "- 2026-12-01", "CITATION.cff has version 0.1.0 of 2026-11-30"),
        ("CITATION.cff", "version: 0.1.0", "version: 0.0.9", "CITATION.cff has version 0.0.9 of"),
        (
            "pyproject.toml",
            HOME,
            "https://github.com/OWNER/NAME",
            "must have https://github.com/them/fastclr, got .*OWN",
        ),
        (
            "pyproject.toml",
            "\n[project.urls]\n",
            "\n[tool.urls]\n",
            "must have https://github.com/them/fastclr, got none",
        ),
        ("pyproject.toml", "\n[project.urls]\n", '\n[project.urls]\nDocs = "docs/"\n', "Docs in .* is docs/"),
    ],
)
def test_what_differs_is_said(tree: Path, name: str, old: str, new: str, said: str) -> None:
    edit(tree, name, old, new)
    found = check_release.wrong_sources(tree, PLACE, "v0.1.0")
    assert any(re.search(said, line) for line in found), found


def write_dist(folder: Path, said: str, *left_out: str, wheel: str = WHEEL) -> Path:
    """A wheel and an sdist with that metadata, of empty files."""
    info = "fastclr-0.1.0.dist-info"
    names = {"fastclr/py.typed", "fastclr/_C.so", "fastclr/_build.json"}
    names |= {f"{info}/licenses/LICENSE", f"{info}/licenses/LICENSE-THIRD-PARTY"}
    folder.mkdir()
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", said)
        for name in names - set(left_out):
            archive.writestr(name, "")
    with tarfile.open(folder / "fastclr-0.1.0.tar.gz", "w:gz") as sdist:
        for name in ("PKG-INFO", "LICENSE", "LICENSE-THIRD-PARTY", "fastclr/py.typed"):
            info_file = tarfile.TarInfo(f"fastclr-0.1.0/{name}")
            info_file.size = len(said) if name == "PKG-INFO" else 0
            sdist.addfile(info_file, io.BytesIO(said.encode()[: info_file.size]))
    return folder


SAID = f"""Metadata-Version: 2.4
Name: fastclr
Version: 0.1.0
License-Expression: Apache-2.0
License-File: LICENSE
License-File: LICENSE-THIRD-PARTY
Project-URL: Source, {HOME}

The text of README.
"""


def test_files_that_lack_something_are_named(tree: Path) -> None:
    assert check_release.wrong_files(tree, write_dist(tree / "right", SAID)) == []
    for number, (said, left_out, wheel, expected) in enumerate(
        [
            (SAID, "fastclr/py.typed", WHEEL, "fastclr/py.typed is missing"),
            (SAID, "fastclr-0.1.0.dist-info/licenses/LICENSE-THIRD-PARTY", WHEEL, "THIRD-PARTY is missing"),
            (SAID.replace("0.1.0", "0.1.1"), "", WHEEL, "Version is ['0.1.1'], expected ['0.1.0']"),
            (SAID.replace("Project-URL", "X"), "", WHEEL, "Project-URL is [], expected ['Source, https"),
            (SAID, "", "fastclr-0.1.0-py310-none-linux_x86_64.whl", "is not built for every Linux"),
            (SAID, "", "fastclr-0.1.0.json", "is neither a wheel nor an sdist"),
        ]
    ):
        found = check_release.wrong_files(tree, write_dist(tree / str(number), said, left_out, wheel=wheel))
        assert any(expected in line for line in found), (expected, found)


def test_the_workflow_checks_before_it_builds_and_before_it_uploads(capsys: pytest.CaptureFixture[str]) -> None:
    workflow: Any = yaml.safe_load(RELEASE.read_text())
    steps = [str(step.get("run", step.get("uses"))) for step in workflow["jobs"]["wheels"]["steps"]]
    (first, again) = (index for index, step in enumerate(steps) if "tests/wheel/check_release.py" in step)
    (build,) = (index for index, step in enumerate(steps) if " wheels " in step)
    upload = next(index for index, step in enumerate(steps) if "upload-artifact" in step)
    assert first < build < again < upload and steps[again].split()[-1] == "dist"
    sbom = workflow["jobs"]["wheels"]["env"]["SBOM"]
    assert "matrix.image" in sbom and 'SBOM="$SBOM"' in steps[build]  # two files of a release cannot have one name
    assert check_release.main(["--repository", PLACE, "--tag", "v9"]) == 1
    assert "release: the tag is v9" in capsys.readouterr().out


def test_licences_of_what_is_compiled_in_are_those_of_the_packages() -> None:
    """The texts with their conditions, as pybind11 and torch have them; years and names of the newer ones change."""
    ours = " ".join((ROOT / "LICENSE-THIRD-PARTY").read_text().split())
    for package in ("pybind11", "torch"):
        files = metadata.files(package) or []
        (path,) = (file for file in files if re.search(r"dist-info/(licenses/)?LICENSE$", str(file)))
        theirs = path.read_text()
        conditions = theirs[theirs.index("Redistribution and use") : theirs.index("POSSIBILITY OF SUCH DAMAGE")]
        assert " ".join(conditions.split()) in ours, package
    assert "Copyright (c) 2016 Wenzel Jakob" in ours and "Soumith Chintala" in ours and "libcudart_static" in ours


def test_versions_of_torch_that_are_tried() -> None:
    text = "torch (2.15.0)\nAvailable versions: 2.15.0, 2.14.1, 2.14.0, 2.12.0, 2.11.0, 2.10.0\n  INSTALLED: 2.14.1\n"
    assert try_wheels.promised(text) == ["2.11.0", "2.12.0", "2.14.1", "2.15.0"]
    assert try_wheels.promised("Available versions: 2.15.0, 2.14.2, 2.11.1, 2.9.0\n") == ["2.11.1", "2.14.2", "2.15.0"]
