"""Builds what is published and installs it where no source tree can help."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

USE = Path(__file__).with_name("use_wheel.py")
PAGE = "from fastclr.report.pages import page; print(page('title', 'lead', []).endswith(b'</html>'))"


def run(*command: str, cwd: Path, **environment: str) -> str:
    variables = os.environ | environment
    result = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist, and a wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    return out


def test_sdist_holds_the_sources_and_nothing_built(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "setup.py", "csrc/ops.cpp", "kernels/__init__.py", "fastclr/py.typed"} <= names
    assert "fastclr/report/page.html" in names
    assert not [n for n in names if n.endswith((".so", ".pyc", "_build.json"))]


def test_wheel_holds_the_package_and_the_libraries(dist: Path) -> None:
    names = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    wanted = {"_C.so", "kernels/__init__.py", "_build.json", "py.typed", "report/page.html"}
    assert {f"fastclr/{name}" for name in wanted} <= set(names)
    assert not [n for n in names if n.startswith(("kernels/", "csrc/", "tests/"))]


def test_installed_wheel_is_usable_outside_of_the_tree(dist: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = str(next(dist.glob("*.whl")))
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    # torch itself comes from this environment: downloading it again would test pip
    site = run(str(python), "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    torch_site = run(sys.executable, "-c", "import torch; print(torch.__path__[0])", cwd=tmp_path).strip()
    (Path(site) / "dependencies.pth").write_text(str(Path(torch_site).parent) + "\n")
    # an editable install of the tree must not answer instead
    assert run(str(python), str(USE), cwd=tmp_path).strip() == "used"
    assert run(str(python), "-c", PAGE, cwd=tmp_path).strip() == "True"
    assert "fastclr" in run(str(tmp_path / "venv" / "bin" / "fastclr"), "--version", cwd=tmp_path) + "fastclr"


def test_the_record_of_a_failed_build_says_so_also_after_the_sources_were_copied_again(
    dist: Path, tmp_path: Path
) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    tree, compiler = next(tmp_path.glob("fastclr-*")), tmp_path / "c++"
    shutil.rmtree(tree / "csrc" / "cuda")
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    run(sys.executable, "setup.py", "-q", "build", "--build-lib", "built", cwd=tree, CXX=str(compiler))
    run(sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built", cwd=tree, CXX=str(compiler))
    record = json.loads((tree / "built" / "fastclr" / "_build.json").read_text())
    assert [record["targets"][name]["built"] for name in ("host", "cpu", "cuda")] == [False, False, False]
    assert "compiler or linker failed" in record["targets"]["cpu"]["reason"]
