"""Builds what is published and installs it where no source tree can help."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import check_release
import pytest

import fastclr
from fastclr._build_plan import find_cuda_home

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

VENV, MACHINE = sys.prefix, platform.machine().replace("_", "-")
USE = Path(__file__).with_name("use_wheel.py")
PAGE = "from fastclr.report.pages import page; print(page('title', 'lead', []).endswith(b'</html>'))"
# a path to the tree must not answer for what is installed
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str, cwd: Path, **environment: str) -> str:
    variables = CLEAN | environment
    result = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist, and the wheel for all Pythons of this machine, built from it."""
    out, built = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("built")
    build = "auto" if find_cuda_home({}) is None else "cuda"
    make = ["make", "-s", "-o", f"{VENV}/.ready", "wheels", f"VENV={VENV}", f"DIST={out}", f"BUILT={built}"]
    run(*make, cwd=ROOT, FASTCLR_BUILD=build)
    return out


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of a clean environment, without torch."""
    venv.create(tmp_path / "venv", with_pip=False)
    return tmp_path / "venv" / "bin" / "python"


def pip(python: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pip for that Python outside of the tree."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    return subprocess.run(
        command, cwd=python.parent, env=CLEAN | variables, capture_output=True, text=True, check=False
    )


def test_sdist_holds_the_sources_and_nothing_built(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "LICENSE-THIRD-PARTY", "README.md", "setup.py", "csrc/ops.cpp", "fastclr/py.typed"} <= names
    assert {"kernels/__init__.py", "fastclr/report/page.html"} <= names
    assert not [n for n in names if n.endswith((".so", ".pyc", "_build.json"))]


def test_wheel_holds_the_package_and_the_libraries_for_every_python(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {"_C.so", "kernels/__init__.py", "_build.json", "py.typed", "report/page.html"}
    wanted |= {"_host" + sysconfig.get_config_var("EXT_SUFFIX")} | ({"_C_cuda.so"} if find_cuda_home({}) else set())
    assert {f"fastclr/{name}" for name in wanted} <= set(names)
    assert not [n for n in names if n.startswith(("kernels/", "csrc/", "tests/", "fastclr.libs/"))]
    licences = {
        f"fastclr-{fastclr.__version__}.dist-info/licenses/{name}" for name in ("LICENSE", "LICENSE-THIRD-PARTY")
    }
    assert licences <= set(names)
    assert re.fullmatch(r"fastclr-[\d.]+-py310-none-(manylinux_2_\d+_\w+\.?)+", wheel.stem)
    assert check_release.wrong_files(ROOT, dist) == []


def test_libraries_need_what_torch_brings_and_the_system_has(dist: Path, tmp_path: Path) -> None:
    """Above all no CUDA runtime: torch may have that of another version."""
    zipfile.ZipFile(next(dist.glob("*.whl"))).extractall(tmp_path)
    system = {"libc", "libm", "libdl", "librt", "libpthread", "libgcc_s", "libstdc++", f"ld-linux-{MACHINE}"}
    for library in (tmp_path / "fastclr").glob("*.so"):
        needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", run("readelf", "-d", str(library), cwd=tmp_path)))
        assert needed - system <= {"libtorch_cpu", "libtorch_cuda"}, library.name
        undefined = run("nm", "-D", "--undefined-only", str(library), cwd=tmp_path)
        assert re.findall(r" U (cu\w+)", undefined) == [], library.name


def test_installed_wheel_is_usable_outside_of_the_tree(dist: Path, environment: Path, tmp_path: Path) -> None:
    wheel = str(next(dist.glob("*.whl")))
    installed = pip(environment, "install", "-q", "--no-deps", wheel)
    assert installed.returncode == 0, installed.stderr
    # torch itself comes from this environment: downloading it again would test pip
    python = str(environment)
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    torch_site = run(sys.executable, "-c", "import torch; print(torch.__path__[0])", cwd=tmp_path).strip()
    (Path(site) / "dependencies.pth").write_text(str(Path(torch_site).parent) + "\n")
    # an editable install of the tree must not answer instead
    assert run(python, str(USE), cwd=tmp_path).strip() == "used"
    assert run(python, "-c", PAGE, cwd=tmp_path).strip() == "True"
    assert "fastclr" in run(str(environment.with_name("fastclr")), "--version", cwd=tmp_path) + "fastclr"


def test_an_isolated_build_without_torch_says_what_to_type_before_anything_is_fetched(
    dist: Path, environment: Path
) -> None:
    """And builds nothing where it is told so; pip shows the one line among its own."""
    sdist = str(next(dist.glob("*.tar.gz")))
    refused = pip(environment, "install", sdist)
    (said,) = (line.strip() for line in refused.stderr.splitlines() if "fastclr: " in line and "skip" not in line)
    assert refused.returncode == 1 and said.startswith("fastclr: cannot build cpu: no torch is installed"), refused
    assert "; pip install torch, then install again; FASTCLR_BUILD=0 installs without native code" in said
    assert "Downloading torch" not in refused.stdout and "Collecting torch" not in refused.stdout
    accepted = pip(environment, "install", "--no-deps", sdist, FASTCLR_BUILD="0")
    assert accepted.returncode == 0, accepted.stderr
    listed = pip(environment, "show", "-f", "fastclr").stdout
    assert "fastclr/_build.json" in listed and ".so" not in listed


def test_a_build_that_fails_says_so_and_keeps_no_record_of_success(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    tree, compiler = next(tmp_path.glob("fastclr-*")), tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    compiler.chmod(0o755)
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    cpu = CLEAN | {"CXX": str(compiler), "FASTCLR_BUILD": "cpu"}
    failed = subprocess.run(build, cwd=tree, env=cpu, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("fastclr: the native code does not compile, see above; FASTCLR_BU")
    record = tree / "built" / "fastclr" / "_build.json"
    assert not record.exists()
    # a record stays when the sources are copied again, as `make site` does
    run(*build, cwd=tree, FASTCLR_BUILD="0")
    run(sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built", cwd=tree, FASTCLR_BUILD="auto")
    targets = json.loads(record.read_text())["targets"]
    assert [targets[name]["reason"] for name in ("host", "cpu", "cuda")] == ["FASTCLR_BUILD=0"] * 3
