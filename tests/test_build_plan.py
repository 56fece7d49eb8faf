"""What an installation builds, for every kind of machine."""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastclr import _build_plan
from fastclr._build_plan import (
    BuildError,
    BuildFacts,
    find_cuda_home,
    gather_facts,
    parse_archs,
    plan_build,
    reinstall_command,
)

BARE = BuildFacts(compiler="/usr/bin/g++", ninja="/usr/bin/ninja", pybind11="3.0")
CPU = {"torch": "2.11.0+cpu"}
CUDA = {"torch": "2.14.1+cu130", "torch_cuda": "13.0"}
NVCC = {"cuda_home": "/usr/local/cuda", "nvcc": "13.0", "cuda_sources": True}
NO_COMPILER = {"compiler": None}


def facts(*changes: dict[str, Any]) -> BuildFacts:
    """The bare machine with changes, the later ones winning."""
    return dataclasses.replace(BARE, **functools.reduce(operator.or_, changes, {}))


@pytest.mark.parametrize(
    ("machine", "built", "reasons"),
    [
        (facts(CPU), {"host", "cpu"}, {"cuda": "torch 2.11.0.cpu is not a CUDA build"}),
        (facts(CPU, NVCC), {"host", "cpu"}, {"cuda": "not a CUDA build"}),
        (facts(CUDA), {"host", "cpu"}, {"cuda": "nvcc not found"}),
        (facts(CUDA, NVCC), {"host", "cpu", "cuda"}, {}),
        (facts(CUDA, NVCC, {"nvcc": "12.8"}), {"host", "cpu"}, {"cuda": "nvcc 12.8 does not match the CUDA 13.0"}),
        (facts(CUDA, NVCC, {"cuda_sources": False}), {"host", "cpu"}, {"cuda": "no CUDA sources"}),
        (facts(CPU, {"pybind11": None}), {"cpu"}, {"host": "pybind11 is not installed"}),
        (facts(CUDA, NVCC, {"request": "0"}), set(), {"host": "FASTCLR_BUILD=0", "cuda": "FASTCLR_BUILD=0"}),
        (facts(CUDA, NVCC, {"request": "cpu"}), {"host", "cpu"}, {"cuda": "FASTCLR_BUILD=cpu"}),
        (facts(CUDA, NVCC, {"request": "cuda"}), {"host", "cpu", "cuda"}, {}),
    ],
)
def test_plan(machine: BuildFacts, built: set[str], reasons: dict[str, str]) -> None:
    plan = plan_build(machine)
    assert {d.target for d in plan.decisions if d.build} == built
    assert [d.target for d in plan.decisions] == ["host", "cpu", "cuda"]
    for target, reason in reasons.items():
        (line,) = (line for line in plan.lines() if line.startswith(f"fastclr: {target}: skip: "))
        assert re.search(reason, line)
    for decision in plan.decisions:
        assert bool(decision.remedy) != decision.build


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (
            facts(),
            "cannot build cpu: no torch is installed .*; pip install torch, then install again; FASTCLR_BUILD=0 ",
        ),
        (facts({"request": "cpu"}), "cannot build cpu: no torch is installed"),
        (facts({"torch": "2.9.1"}), "cannot build cpu: torch 2.9.1 is older than 2.11; pip install -U torch, "),
        (facts(CPU, NO_COMPILER), "cannot build cpu: no C.. compiler found; install g"),
        (facts(CPU, {"ninja": None}), "cannot build cpu: ninja is not installed; pip install ninja, "),
        (facts(CPU, NVCC, {"request": "cuda"}), "cannot build cuda: .*not a CUDA build"),
        (facts(CUDA, {"request": "cuda"}), "cannot build cuda: nvcc not found; .*CUDA_HOME"),
        (facts({"request": "gpu"}), "FASTCLR_BUILD must be auto, 0, cpu or cuda, got 'gpu'"),
        (facts(CUDA, NVCC, {"arch_list": "9.0;hopper"}), "TORCH_CUDA_ARCH_LIST must be like .*Hopper.*'hopper'"),
    ],
)
def test_plan_refuses(machine: BuildFacts, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        plan_build(machine)


def test_archs() -> None:
    assert parse_archs("8.0;9.0+PTX") == ("sm_80", "sm_90", "compute_90")
    assert parse_archs("Ampere;Hopper") == ("sm_80", "sm_86", "compute_86", "sm_90", "compute_90")
    assert parse_archs("9.0a 10.0f,12.0") == ("sm_90a", "sm_100f", "sm_120")
    assert plan_build(facts(CUDA, NVCC)).archs == ("sm_80", "sm_90", "sm_100", "compute_100")
    assert plan_build(facts(CUDA, NVCC, {"arch_list": "9.0"})).archs == ("sm_90",)
    assert plan_build(facts(CPU)).archs == ()


def test_cuda_home_needs_its_own_nvcc(tmp_path: Path) -> None:
    """A CUDA_HOME without nvcc is passed over; a wrapper script on PATH comes last."""
    toolkit, empty = tmp_path / "toolkit", tmp_path / "empty"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "bin" / "nvcc").touch(mode=0o755)
    empty.mkdir()
    assert find_cuda_home({"CUDA_HOME": str(toolkit), "PATH": ""}) == str(toolkit)
    assert find_cuda_home({"CUDA_HOME": str(empty), "CUDA_PATH": str(toolkit), "PATH": ""}) == str(toolkit)
    if not Path("/usr/local/cuda/bin/nvcc").exists():
        assert find_cuda_home({"CUDA_HOME": str(empty), "PATH": str(toolkit / "bin")}) == str(toolkit)


def test_facts_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The facts name the torch that is installed, found without importing it."""
    import torch

    monkeypatch.setenv("FASTCLR_BUILD", "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    found = gather_facts(tmp_path)
    assert (found.torch, found.torch_cuda) == (torch.__version__, torch.version.cuda)
    assert (found.request, found.compiler, found.cuda_sources) == ("cpu", None, False)


def test_torch_is_found_where_pip_hides_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A build that pip isolates runs the Python of the environment, whose packages pip's variables hide."""
    import torch

    hide = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    code = "import importlib.util as u, sys; s = u.spec_from_file_location('plan', sys.argv[1])\n"
    code += "plan = u.module_from_spec(s); sys.modules['plan'] = plan; s.loader.exec_module(plan)\n"
    code += "print(plan.package_dir('torch'), plan.torch_dir(), sep='\\n')"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    script = str(Path(_build_plan.__file__))
    output = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["None", str(Path(torch.__file__).parent)]


@pytest.mark.parametrize(
    ("recorded", "end"),
    [
        (None, " --no-binary fastclr fastclr==0.1.0"),
        ({"url": "file:///my%20files/fastclr", "dir_info": {}}, " '/my files/fastclr'"),
        ({"url": "file:///files/fastclr-0.1.0.tar.gz", "archive_info": {}}, " /files/fastclr-0.1.0.tar.gz"),
        ({"url": "https://a.b/fastclr-0.1.0.tar.gz", "archive_info": {}}, " https://a.b/fastclr-0.1.0.tar.gz"),
        ({"url": "https://a.b/f.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}}, " git+https://a.b/f.git@12ab"),
    ],
)
def test_it_is_installed_again_from_where_it_came(recorded: dict[str, Any] | None, end: str, tmp_path: Path) -> None:
    """PEP 610's record of the installation; a checkout is told by its setup.py, whatever else is installed."""
    command = reinstall_command(tmp_path / "fastclr", "0.1.0", recorded)
    assert command.startswith("pip install ") and command.endswith(end) and not re.search(r" \.$", command)
    (tmp_path / "setup.py").touch()
    assert reinstall_command(tmp_path / "fastclr", "0.1.0", recorded).endswith(f" -e {tmp_path}")
