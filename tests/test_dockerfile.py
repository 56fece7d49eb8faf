"""The Dockerfile names what exists, and keeps to hadolint's rules as far as they can be read off the text."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", "\n".join(x for x in TEXT.splitlines() if not x.startswith("#"))).split("\n")
INSTRUCTIONS = [line.split(" ", 1) for line in LINES if line]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_files_and_extras_that_it_names_exist() -> None:
    copied = [rest.split()[0] for rest in values("COPY") if not rest.startswith("--from")]
    assert copied and all((ROOT / name).exists() for name in copied)
    extras = re.search(r"^ARG EXTRAS=(.*)$", TEXT, re.M)
    project = (ROOT / "pyproject.toml").read_text()
    assert extras and all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras[1].split(","))
    pinned = (ROOT / "constraints.txt").read_text()
    for package in ("torch", "torchvision", "setuptools", "pybind11"):
        assert re.search(rf"^{package}==", pinned, re.M), package


def test_rules() -> None:
    runs = values("RUN")
    for run in runs:
        if "apt-get install" in run:  # DL3009, DL3014, DL3015
            assert "-y --no-install-recommends" in run and "rm -rf /var/lib/apt/lists/*" in run
        if "pip install" in run:  # DL3013, DL3042
            assert "--no-cache-dir --constraint constraints.txt" in run
        assert "sudo" not in run and "cd /" not in run  # DL3004, DL3003
    users = values("USER")
    assert users[-1:] == ["fastclr"]  # DL3002
    assert all(":" in rest.partition("=")[2] for rest in values("ARG") if "BASE=" in rest)  # DL3006, DL3007
    assert "latest" not in TEXT and not values("ADD")  # DL3007, DL3020
    assert all(rest.startswith("[") for rest in (*values("CMD"), *values("ENTRYPOINT")))  # DL3025
    assert all(rest.startswith("/") for rest in values("WORKDIR"))  # DL3000


def test_every_argument_is_documented_and_every_documented_one_exists() -> None:
    document = (ROOT / "docs" / "docker.md").read_text()
    declared = {rest.partition("=")[0] for rest in values("ARG")}
    rows = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == declared
    assert set(re.findall(r"--build-arg (\w+)=", document)) <= declared


def test_nothing_that_is_built_is_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "dist", "runs", "**/*.so", "fastclr/_build.json"} <= set(ignored)
    needed = {"fastclr", "kernels", "benchmarks", "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    assert not needed & set(ignored)
