"""What is said about the project in several places is the same in all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import fastclr

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_is_the_same_everywhere() -> None:
    version = re.findall(r'^version = "(.+)"', PROJECT, re.M)
    citation: Any = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == [fastclr.__version__] == [citation["version"]]
    assert citation["license"] == "Apache-2.0" and f'license = "{citation["license"]}"' in PROJECT
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_every_python_that_is_promised_is_classified_and_built() -> None:
    classified = re.findall(r'Programming Language :: Python :: (3\.\d+)"', PROJECT)
    pythons = re.findall(r"foreach version,([\d. ]+),", (ROOT / "Makefile").read_text())
    image = re.findall(r"for version in ([\d ]+);", (ROOT / ".github" / "workflows" / "release.yml").read_text())
    oldest = re.findall(r'requires-python = ">=(3\.\d+)"', PROJECT)
    assert [" ".join(classified)] == pythons and [" ".join(classified).replace(".", "")] == image
    assert oldest == classified[:1] and len(classified) >= 5
    assert "Typing :: Typed" in PROJECT and (ROOT / "fastclr" / "py.typed").is_file()


def test_torch_and_numpy_are_all_that_is_required() -> None:
    """triton comes with torch's CUDA builds, and would replace that of others."""
    assert re.findall(r"^dependencies = (.*)", PROJECT, re.M) == ['["torch>=2.11", "numpy"]']


def test_a_release_is_built_before_it_is_published_and_stores_no_password() -> None:
    workflow: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    publish, release = (workflow["jobs"][name] for name in ("publish", "release"))
    assert publish["needs"] == ["wheels"] and set(release["needs"]) == set(workflow["jobs"]) - {"release"}
    allowed = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert allowed == {"publish": {"id-token": "write"}, "release": {"contents": "write"}}
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(path: Path) -> None:
    form: Any = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist_and_may_write_nothing_by_themselves(path: Path) -> None:
    workflow: Any = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = re.findall(r"^\s*(?:- run: )?make ([^=\n]*?)(?: [A-Z]+=.*)?$", path.read_text(), re.M)
    assert called and {target for line in called for target in line.split()} <= targets
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        checkouts = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)
