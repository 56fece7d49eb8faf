"""Decides what an installation builds, and why; separate from setup.py so that tests and `fastclr info` can use it.

setup.py loads this file by path, before fastclr or torch can be imported, so it uses the standard library only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TARGETS = ("host", "cpu", "cuda")
MIN_TORCH = (2, 11)
DEFAULT_ARCHS = "8.0;9.0;10.0+PTX"
# the names that torch's own builds know in TORCH_CUDA_ARCH_LIST, of the architectures that fastclr supports
NAMED_ARCHS = {
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}
WITHOUT = "FASTCLR_BUILD=0 installs without native code, which is slower"


class BuildError(RuntimeError):
    """An invalid request, or one that this machine cannot fulfil."""


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What the machine has; None or False means absent.

    Args:
        request: FASTCLR_BUILD: ``auto`` (the CPU's library, and CUDA's where nvcc is), ``0`` (nothing), ``cpu`` or
            ``cuda`` (both libraries).
        torch: version of the torch to build for, such as ``"2.14.1+cu130"``.
        torch_cuda: the CUDA version of that torch, such as ``"13.0"``; None for a CPU build.
        torch_home: the folder of that torch.
        compiler: path of the C++ compiler.
        ninja: path of ninja.
        pybind11: version of pybind11.
        cuda_home: root of the CUDA toolkit.
        nvcc: version of its nvcc, such as ``"13.0"``.
        cuda_sources: whether csrc/cuda holds sources.
        arch_list: TORCH_CUDA_ARCH_LIST.
    """

    request: str = "auto"
    torch: str | None = None
    torch_cuda: str | None = None
    torch_home: str | None = None
    compiler: str | None = None
    ninja: str | None = None
    pybind11: str | None = None
    cuda_home: str | None = None
    nvcc: str | None = None
    cuda_sources: bool = False
    arch_list: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether one target is built, the reason, and what to do before it is installed again (empty if it is built)."""

    target: str
    build: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class BuildPlan:
    """One decision per target of `TARGETS`, and how the CUDA target is compiled."""

    decisions: tuple[Decision, ...]
    archs: tuple[str, ...]

    def builds(self, target: str) -> bool:
        """Return whether `target` is to be built."""
        return any(decision.target == target and decision.build for decision in self.decisions)

    def lines(self) -> list[str]:
        """Return one line per decision, for the installation's log."""
        return [
            f"fastclr: {d.target}: {'build' if d.build else 'skip'}: {d.reason}"
            + (f" ({d.remedy}, then install again)" if d.remedy else "")
            for d in self.decisions
        ]


def version_of(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def parse_archs(text: str) -> tuple[str, ...]:
    """Turn TORCH_CUDA_ARCH_LIST (``"8.0;9.0+PTX"``, ``"Hopper"``) into nvcc targets (``("sm_90", "compute_90")``).

    Raises:
        BuildError: an entry is neither a compute capability nor of `NAMED_ARCHS`.
    """
    archs: list[str] = []
    entries = re.split(r"[;,\s]+", text.strip())
    for entry in ";".join(NAMED_ARCHS.get(entry, entry) for entry in entries).split(";"):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            names = ", ".join(NAMED_ARCHS)
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST must be like '{DEFAULT_ARCHS}' or of {names}, got {entry!r} in {text!r}"
            )
        number = match[1] + match[2] + match[3]
        archs += [f"sm_{number}"] + ([f"compute_{number}"] if match[4] else [])
    return tuple(dict.fromkeys(archs))


def _lacking(facts: BuildFacts) -> tuple[str, str] | None:
    """Return what every target needs and this machine has not, with the remedy."""
    if facts.compiler is None:
        return "no C++ compiler found", "install g++ or set CXX"
    if facts.ninja is None:
        return "ninja is not installed", "pip install ninja"
    return None


def _host(facts: BuildFacts) -> Decision:
    lacking = _lacking(facts)
    if lacking is not None:
        return Decision("host", False, *lacking)
    if facts.pybind11 is None:
        return Decision("host", False, "pybind11 is not installed", "pip install pybind11")
    return Decision("host", True, f"{facts.compiler}, pybind11 {facts.pybind11}")


def _cpu(facts: BuildFacts) -> Decision:
    if facts.torch is None:
        reason = (
            "no torch is installed (where the build has an environment of its own, as with uv and `python -m build`: "
        )
        return Decision("cpu", False, f"{reason}none in that; tell them not to isolate it)", "pip install torch")
    if version_of(facts.torch) < MIN_TORCH:
        reason = f"torch {facts.torch} is older than {MIN_TORCH[0]}.{MIN_TORCH[1]}"
        return Decision("cpu", False, reason, "pip install -U torch")
    lacking = _lacking(facts)
    if lacking is not None:
        return Decision("cpu", False, *lacking)
    return Decision("cpu", True, f"{facts.compiler}, torch {facts.torch}")


def _cuda(facts: BuildFacts, cpu: Decision) -> Decision:
    if not cpu.build:
        return Decision("cuda", False, f"the cpu target is not built: {cpu.reason}", cpu.remedy)
    if facts.torch_cuda is None:
        return Decision("cuda", False, f"torch {facts.torch} is not a CUDA build", "install a CUDA build of torch")
    if facts.cuda_home is None or facts.nvcc is None:
        return Decision("cuda", False, "nvcc not found", "install the CUDA toolkit or set CUDA_HOME")
    if version_of(facts.nvcc)[0] != version_of(facts.torch_cuda)[0]:
        reason = f"nvcc {facts.nvcc} does not match the CUDA {facts.torch_cuda} of torch"
        return Decision("cuda", False, reason, f"set CUDA_HOME to a CUDA {facts.torch_cuda} toolkit")
    if not facts.cuda_sources:
        return Decision("cuda", False, "this source tree has no CUDA sources", "take a source tree with csrc/cuda")
    return Decision("cuda", True, f"nvcc {facts.nvcc} in {facts.cuda_home}, torch {facts.torch}")


def plan_build(facts: BuildFacts) -> BuildPlan:
    """Decide what to build from what the machine has.

    Whether a GPU is present does not matter: build machines rarely have one.

    Returns:
        A decision for ``host`` (fastclr._host, no torch), ``cpu`` (fastclr/_C.so) and ``cuda`` (fastclr/_C_cuda.so).

    Raises:
        BuildError: `facts.request` is unknown, or a target that it asks for cannot be built here. What nobody asks for
            is left out: CUDA on a machine without its compiler, the pybind11 module without pybind11.
    """
    if facts.request not in ("auto", "0", "cpu", "cuda"):
        raise BuildError(f"FASTCLR_BUILD must be auto, 0, cpu or cuda, got {facts.request!r}")
    if facts.request == "0":
        off = tuple(Decision(target, False, "FASTCLR_BUILD=0", "unset FASTCLR_BUILD") for target in TARGETS)
        return BuildPlan(off, ())
    cpu = _cpu(facts)
    cuda = _cuda(facts, cpu)
    if facts.request == "cpu":
        cuda = Decision("cuda", False, "FASTCLR_BUILD=cpu", "set FASTCLR_BUILD=cuda")
    for decision in (cpu, cuda) if facts.request == "cuda" else (cpu,):
        if not decision.build:
            raise BuildError(
                f"cannot build {decision.target}: {decision.reason}; {decision.remedy}, then install again; {WITHOUT}"
            )
    archs = parse_archs(facts.arch_list or DEFAULT_ARCHS) if cuda.build else ()
    return BuildPlan((_host(facts), cpu, cuda), archs)


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


def torch_dir() -> Path | None:
    """Return the folder of torch, also where pip's isolation hides it from this build, or None.

    pip builds with the Python of the environment that it installs into, and hides the packages there by variables. The
    libraries keep to torch's stable ABI: the headers of any torch from 2.11 on give what loads in every other.
    """
    found = package_dir("torch")
    if found is not None:
        return found
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"
    command = [sys.executable, "-c", code]
    origin = subprocess.run(command, env=environ, cwd=sys.prefix, capture_output=True, text=True).stdout.strip()
    return Path(origin).parent if origin else None


def find_ninja() -> str | None:
    """Return ninja's path: that of the package, which is not on the PATH of an environment that is not activated."""
    beside = Path(sys.executable).parent
    return shutil.which("ninja", path=os.pathsep.join([str(beside), os.environ.get("PATH", os.defpath)]))


def find_cuda_home(environ: Mapping[str, str]) -> str | None:
    """Return the root of the CUDA toolkit, or None.

    /usr/local/cuda comes before PATH: an nvcc on the PATH may be a wrapper script without a toolkit around it.
    """
    on_path = shutil.which("nvcc", path=environ.get("PATH"))
    guesses = [environ.get("CUDA_HOME"), environ.get("CUDA_PATH"), "/usr/local/cuda"]
    guesses += [str(Path(on_path).resolve().parent.parent)] if on_path else []
    # what `pip install nvidia-cuda-nvcc` and its like leave
    guesses += [str(path) for path in sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu1?"))]
    return next((home for home in guesses if home and Path(home, "bin", "nvcc").exists()), None)


def gather_facts(root: Path) -> BuildFacts:
    """Inspect this machine and the source tree in `root`; reads torch's version file instead of importing torch."""
    torch, home = torch_dir(), find_cuda_home(os.environ)
    version = (torch / "version.py").read_text() if torch else ""
    torch_version = re.search(r"^__version__ = '([^']+)'", version, re.M)
    torch_cuda = re.search(r"^cuda[^=]*= '([^']+)'", version, re.M)
    nvcc = re.search(r"release (\d+\.\d+)", command_output(f"{home}/bin/nvcc", "--version")) if home else None
    cxx = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]
    return BuildFacts(
        request=os.environ.get("FASTCLR_BUILD") or "auto",
        torch=torch_version[1] if torch_version else None,
        torch_cuda=torch_cuda[1] if torch_cuda else None,
        torch_home=str(torch) if torch else None,
        compiler=shutil.which(cxx),
        ninja=find_ninja(),
        pybind11=importlib.metadata.version("pybind11") if package_dir("pybind11") else None,
        cuda_home=home,
        nvcc=nvcc[1] if nvcc else None,
        cuda_sources=any(root.glob("csrc/cuda/*.cu")),
        arch_list=os.environ.get("TORCH_CUDA_ARCH_LIST"),
    )


def installed_from() -> tuple[str | None, dict[str, Any] | None]:
    """Return the version of the installed fastclr, and what pip recorded about where it comes from (PEP 610).

    Each is None if there is none: nothing is installed, or it comes from a registry.
    """
    try:
        found = importlib.metadata.distribution("fastclr")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    text = found.read_text("direct_url.json")
    return found.version, json.loads(text) if text else None


def reinstall_command(package: Path, version: str | None, recorded: Mapping[str, Any] | None) -> str:
    """Return the command that builds and installs fastclr once more, from where this one was installed.

    Args:
        package: the folder of the package that runs.
        version: its version, the newest if None.
        recorded: where it comes from, as in `installed_from`.
    """
    pip = "pip install --force-reinstall --no-deps --no-cache-dir"
    if (package.parent / "setup.py").exists():  # a checkout, which was installed with -e or never
        return f"{pip} -e {shlex.quote(str(package.parent))}"
    if recorded is None:
        return f"{pip} --no-binary fastclr fastclr" + (f"=={version}" if version else "")
    url = str(recorded.get("url", ""))
    if "vcs_info" in recorded:
        url = f"{recorded['vcs_info']['vcs']}+{url}@{recorded['vcs_info']['commit_id']}"
    elif url.startswith("file:"):
        url = unquote(urlsplit(url).path)
    return f"{pip} {shlex.quote(url)}"
