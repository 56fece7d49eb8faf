"""Installs the wheel with a torch of the registry where there is no compiler, and uses it: `make test-wheels`.

python tests/wheel/try_wheels.py WHEEL PYTHON... [--torch VERSION...] [--corners] [--sbom FILE]

Without --torch: 2.11.0 and the newest release of every minor version from 2.11 on, as far as a Python has them.
--corners: the oldest Python with the oldest torch, the newest with the newest. --sbom: what the last of these
installations holds, in CycloneDX's format, by `cyclonedx-py` of the environment that runs this.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

USE = Path(__file__).with_name("use_wheel.py")
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
# the machine's own limits on versions do not count: what is published must fit what the registry has
ENVIRONMENT = os.environ | {"PIP_CONSTRAINT": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def output(*command: str, **environment: str) -> str:
    done = subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def releases(python: str) -> list[str]:
    """The torch versions of the registry that are promised, ascending: 2.11.0, and the last of every minor version.

    Only those that the registry has for this Python.
    """
    return promised(output(sys.executable, "-m", "pip", "--python", python, "index", "versions", "torch"))


def promised(text: str) -> list[str]:
    """Choose from the text of `pip index versions`."""
    listed = re.findall(r"\d+\.\d+\.\d+(?![\w+.])", re.search(r"Available versions: (.*)", text)[1])
    newest: dict[tuple[int, ...], str] = {}
    for version in reversed(listed):
        newest[tuple(map(int, version.split(".")[:2]))] = version
    oldest = ["2.11.0"] if "2.11.0" in listed else []
    return list(dict.fromkeys([*oldest, *(version for key, version in sorted(newest.items()) if key >= (2, 11))]))


def use(wheel: str, python: str, torch: str, sbom: str | None = None) -> str:
    """Install and use the wheel; return what was used, or the error."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        try:
            output(python, "-m", "venv", "--without-pip", f"{folder}/venv")
            new = f"{folder}/venv/bin/python"
            pip = [sys.executable, "-m", "pip", "--python", new]  # quicker than a pip for each environment
            output(*pip, "install", "-q", "--no-compile", "--only-binary", ":all:", f"torch=={torch}", wheel)
            used = output(new, str(USE), PATH=f"{folder}/venv/bin", CC="", CXX="")
            seconds = time.monotonic() - started
            if sbom:
                tool = str(Path(sys.executable).with_name("cyclonedx-py"))
                output(tool, "environment", new, "--pyproject", str(PROJECT), "--output-file", sbom)
        except RuntimeError as error:
            return f"FAILED {error}"
        return f"{used.strip()} ({seconds:.0f} s)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel")
    parser.add_argument("pythons", nargs="+", help="paths of interpreters, the oldest first")
    parser.add_argument("--torch", nargs="+", default=[])
    parser.add_argument("--corners", action="store_true")
    parser.add_argument("--sbom", help="file to write")
    options = parser.parse_args()
    pairs = [(python, torch) for python in options.pythons for torch in options.torch or releases(python)]
    pairs = [pairs[0], pairs[-1]] if options.corners else pairs
    failed = 0
    for index, (python, torch) in enumerate(pairs):
        version = output(python, "--version").strip()
        result = use(options.wheel, python, torch, options.sbom if index == len(pairs) - 1 else None)
        failed += not result.startswith("used")
        sys.stdout.write(f"{version}, torch {torch}: {result}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
