"""Decides what an installation builds, and why; separate from setup.py so that tests and `fastclr info` can use it.

setup.py loads this file by path, before fastclr or torch can be imported, so it uses the standard library only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TARGETS = ("host", "cpu", "cuda")
MIN_TORCH = (2, 11)
DEFAULT_ARCHS = "8.0;9.0;10.0+PTX"
REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."


class BuildError(RuntimeError):
    """An invalid request, or one (FASTCLR_BUILD=cpu or cuda) that this machine cannot fulfil."""


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What the machine has; None or False means absent.

    Args:
        request: FASTCLR_BUILD: ``auto`` (whatever can be built), ``0`` (nothing), ``cpu`` or ``cuda`` (that or fail).
        torch: version of the torch in the build environment, such as ``"2.14.1+cu130"``.
        torch_cuda: the CUDA version of that torch, such as ``"13.0"``; None for a CPU build.
        compiler: path of the C++ compiler.
        pybind11: version of pybind11.
        cuda_home: root of the CUDA toolkit.
        nvcc: version of its nvcc, such as ``"13.0"``.
        cuda_sources: whether csrc/cuda holds sources.
        arch_list: TORCH_CUDA_ARCH_LIST.
    """

    request: str = "auto"
    torch: str | None = None
    torch_cuda: str | None = None
    compiler: str | None = None
    pybind11: str | None = None
    cuda_home: str | None = None
    nvcc: str | None = None
    cuda_sources: bool = False
    arch_list: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether one target is built, the reason, and the command that would get it built (empty if it is)."""

    target: str
    build: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class BuildPlan:
    """One decision per target of `TARGETS`, and how the CUDA target is compiled."""

    decisions: tuple[Decision, ...]
    required: tuple[str, ...]
    archs: tuple[str, ...]

    def builds(self, target: str) -> bool:
        """Return whether `target` is to be built."""
        return any(decision.target == target and decision.build for decision in self.decisions)

    def lines(self) -> list[str]:
        """Return one line per decision, for the installation's log."""
        return [
            f"fastclr: {d.target}: {'build' if d.build else 'skip'}: {d.reason}"
            + (f" ({d.remedy})" if d.remedy else "")
            for d in self.decisions
        ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def parse_archs(text: str) -> tuple[str, ...]:
    """Turn TORCH_CUDA_ARCH_LIST (``"8.0;9.0+PTX"``) into nvcc targets (``("sm_80", "sm_90", "compute_90")``).

    Raises:
        BuildError: an entry is not a compute capability.
    """
    archs: list[str] = []
    for entry in re.split(r"[;,\s]+", text.strip()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST must be like '{DEFAULT_ARCHS}', got {entry!r} in {text!r}")
        number = match[1] + match[2] + match[3]
        archs += [f"sm_{number}"] + ([f"compute_{number}"] if match[4] else [])
    return tuple(dict.fromkeys(archs))


def _host(facts: BuildFacts) -> Decision:
    if facts.compiler is None:
        return Decision("host", False, "no C++ compiler found", f"install g++ or set CXX, then {REINSTALL}")
    if facts.pybind11 is None:
        return Decision("host", False, "pybind11 is not installed", f"pip install pybind11, then {REINSTALL}")
    return Decision("host", True, f"{facts.compiler}, pybind11 {facts.pybind11}")


def _cpu(facts: BuildFacts) -> Decision:
    if facts.torch is None:
        reason = "no torch in the build environment (pip's isolated builds never have one)"
        return Decision("cpu", False, reason, f"pip install torch, then {REINSTALL}")
    if _version(facts.torch) < MIN_TORCH:
        reason = f"torch {facts.torch} is older than {MIN_TORCH[0]}.{MIN_TORCH[1]}"
        return Decision("cpu", False, reason, f"pip install -U torch, then {REINSTALL}")
    if facts.compiler is None:
        return Decision("cpu", False, "no C++ compiler found", f"install g++ or set CXX, then {REINSTALL}")
    return Decision("cpu", True, f"{facts.compiler}, torch {facts.torch}")


def _cuda(facts: BuildFacts, cpu: Decision) -> Decision:
    if not cpu.build:
        return Decision("cuda", False, f"the cpu target is not built: {cpu.reason}", cpu.remedy)
    if facts.torch_cuda is None:
        reason = f"torch {facts.torch} is not a CUDA build"
        return Decision("cuda", False, reason, f"install a CUDA build of torch, then {REINSTALL}")
    if facts.cuda_home is None or facts.nvcc is None:
        return Decision("cuda", False, "nvcc not found", f"install the CUDA toolkit or set CUDA_HOME, then {REINSTALL}")
    if _version(facts.nvcc)[0] != _version(facts.torch_cuda)[0]:
        reason = f"nvcc {facts.nvcc} does not match the CUDA {facts.torch_cuda} of torch"
        return Decision("cuda", False, reason, f"set CUDA_HOME to a CUDA {facts.torch_cuda} toolkit, then {REINSTALL}")
    if not facts.cuda_sources:
        return Decision(
            "cuda", False, "this source tree has no CUDA sources", "install from a source tree with csrc/cuda"
        )
    return Decision("cuda", True, f"nvcc {facts.nvcc} in {facts.cuda_home}, torch {facts.torch}")


def plan_build(facts: BuildFacts) -> BuildPlan:
    """Decide what to build from what the machine has.

    Whether a GPU is present does not matter: build machines rarely have one.

    Returns:
        A decision for ``host`` (fastclr._host, no torch), ``cpu`` (fastclr/_C.so) and ``cuda`` (fastclr/_C_cuda.so).

    Raises:
        BuildError: `facts.request` is unknown, or asks for a target that cannot be built here.
    """
    if facts.request not in ("auto", "0", "cpu", "cuda"):
        raise BuildError(f"FASTCLR_BUILD must be auto, 0, cpu or cuda, got {facts.request!r}")
    if facts.request == "0":
        off = tuple(Decision(target, False, "FASTCLR_BUILD=0", f"unset it, then {REINSTALL}") for target in TARGETS)
        return BuildPlan(off, (), ())
    cpu = _cpu(facts)
    cuda = _cuda(facts, cpu)
    if facts.request == "cpu":
        cuda = Decision("cuda", False, "FASTCLR_BUILD=cpu", f"FASTCLR_BUILD=cuda {REINSTALL}")
    required = {"auto": (), "cpu": ("cpu",), "cuda": ("cpu", "cuda")}[facts.request]
    for decision in (cpu, cuda):
        if decision.target in required and not decision.build:
            raise BuildError(
                f"FASTCLR_BUILD={facts.request}: cannot build {decision.target}: {decision.reason} ({decision.remedy})"
            )
    archs = parse_archs(facts.arch_list or DEFAULT_ARCHS) if cuda.build else ()
    return BuildPlan((_host(facts), cpu, cuda), required, archs)


def command_output(*command: str) -> str:
    """Return the output of a command, or an empty string if it cannot run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def package_dir(name: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def find_cuda_home(environ: Mapping[str, str]) -> str | None:
    """Return the root of the CUDA toolkit, or None.

    /usr/local/cuda comes before PATH: an nvcc on the PATH may be a wrapper script without a toolkit around it.
    """
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    guesses = [environ.get("CUDA_HOME"), environ.get("CUDA_PATH"), "/usr/local/cuda"]
    guesses += [str(Path(on_path).resolve().parent.parent)] if on_path else []
    return next((home for home in guesses if home and Path(home, "bin", "nvcc").exists()), None)


def gather_facts(root: Path) -> BuildFacts:
    """Inspect this machine and the source tree in `root`; reads torch's version file instead of importing torch."""
    torch, home = package_dir("torch"), find_cuda_home(os.environ)
    version = (torch / "version.py").read_text() if torch else ""
    torch_version = re.search(r"^__version__ = '([^']+)'", version, re.M)
    torch_cuda = re.search(r"^cuda[^=]*= '([^']+)'", version, re.M)
    nvcc = re.search(r"release (\d+\.\d+)", command_output(f"{home}/bin/nvcc", "--version")) if home else None
    cxx = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]
    return BuildFacts(
        request=os.environ.get("FASTCLR_BUILD") or "auto",
        torch=torch_version[1] if torch_version else None,
        torch_cuda=torch_cuda[1] if torch_cuda else None,
        compiler=shutil.which(cxx),
        pybind11=importlib.metadata.version("pybind11") if package_dir("pybind11") else None,
        cuda_home=home,
        nvcc=nvcc[1] if nvcc else None,
        cuda_sources=any(root.glob("csrc/cuda/*.cu")),
        arch_list=os.environ.get("TORCH_CUDA_ARCH_LIST"),
    )
