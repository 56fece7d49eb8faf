"""Builds the native parts that fastclr/_build_plan.py selects, by ninja from a graph that is written here."""

import dataclasses
import glob
import importlib.util
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("fastclr_build_plan", ROOT / "fastclr" / "_build_plan.py")
plans = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = plans  # dataclasses look up their module here
spec.loader.exec_module(plans)

LIBRARIES = {"fastclr._host": "host", "fastclr._C": "cpu", "fastclr._C_cuda": "cuda"}
SOURCES = {"host": ["csrc/host/*.cpp"], "cpu": ["csrc/ops.cpp", "csrc/cpu/*.cpp"], "cuda": ["csrc/cuda/*.cu"]}
# no contraction to fma: CPU, CUDA and NumPy must round alike; where no operation traps, GCC vectorises branches
CXX_FLAGS = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
# its sums are of one device only, and faster with fma; vectors of all widths are passed to functions that are inlined
OWN_FLAGS = {"csrc/cpu/contrast.cpp": ["-ffp-contract=fast", "-Wno-psabi"]}
NVCC_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-lineinfo", "-DUSE_CUDA", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020b000000000000")  # 2.11, the oldest torch that can load the libraries


def sources(target: str) -> list[str]:
    """Return the files that become the library of one target, relative to the source tree."""
    return sorted(file for pattern in SOURCES[target] for file in glob.glob(pattern, root_dir=ROOT))


def flags(target: str, facts: "plans.BuildFacts", archs: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return what the sources of one target are compiled with, and what their objects are linked with.

    torch loads the libraries, which contain no Python symbols. cudart is linked statically, so that the CUDA library
    asks for none: beside a torch for another CUDA there is none of its version.
    """
    if target == "host":
        return [f"-I{plans.package_dir('pybind11')}/include"], []
    compiled = [f"-I{facts.torch_home}/include", f"-D{'='.join(TORCH_TARGET)}"]
    linked = [f"-L{facts.torch_home}/lib", "-ltorch_cpu"]
    if target == "cuda":
        compiled += [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in archs]
        linked += [
            "-ltorch_cuda",
            *(f"-L{facts.cuda_home}/{lib}" for lib in ("lib64", "lib")),
            "-lcudart_static",
            "-Wl,--exclude-libs,ALL",
        ]
        linked += ["-ldl", "-lrt", "-lpthread"]
    return compiled, linked


def graph(
    libraries: dict[str, tuple[str, list[str]]],
    facts: "plans.BuildFacts",
    archs: tuple[str, ...],
    compiler: list[str],
    linker: list[str],
    folder: str,
) -> str:
    """Return the text of build.ninja: an object for each source, a library for each of `libraries`.

    Args:
        libraries: the target and further flags of the compiler, by the file of the library.
        facts: the machine, as `plans.gather_facts` finds it.
        archs: what nvcc compiles for.
        compiler: the command of the C++ compiler, a list.
        linker: the command that links shared objects with C++, a list.
        folder: where objects go.
    """

    def words(*arguments: str) -> str:
        return shlex.join(arguments).replace("$", "$$")

    def path(name: str | Path) -> str:
        return re.sub(r"([$ :])", r"$\1", str(name))

    # the compilers write which headers a source includes, torch's among them
    made = " -c $in -o $out\n depfile = $out.d\n deps = gcc"
    lines = [f"builddir = {path(folder)}"]
    lines += [f"rule cxx\n command = {words(*compiler, *CXX_FLAGS)} $flags -MMD -MF $out.d{made}"]
    lines += [f"rule nvcc\n command = {words(f'{facts.cuda_home}/bin/nvcc', *NVCC_FLAGS)} $flags -MD -MF $out.d{made}"]
    lines += [f"rule link\n command = {words(*linker)} $in -o $out $flags"]
    for file, (target, further) in libraries.items():
        compiled, linked = flags(target, facts, archs)
        objects = []
        for source in sources(target):
            objects.append(path(Path(folder, Path(file).name, source).with_suffix(".o")))
            rule = "nvcc" if source.endswith(".cu") else "cxx"
            lines += [f"build {objects[-1]}: {rule} {path(source)}"]
            lines += [f" flags = {words(*compiled, *further, *OWN_FLAGS.get(source, []))}"]
        lines += [f"build {path(file)}: link {' '.join(objects)}\n flags = {words(*linked)}"]
    return "\n".join(lines) + "\n"


def write_build_json(folder: Path) -> None:
    """Record what was built, how, and why the rest was not, for `fastclr info`."""
    record = {
        "targets": {d.target: {"built": d.build, "reason": d.reason, "remedy": d.remedy} for d in PLAN.decisions},
        "torch": FACTS.torch,
        "torch_cuda": FACTS.torch_cuda,
        "python": platform.python_version(),
        "compiler": plans.command_output(FACTS.compiler or "", "--version").partition("\n")[0] or None,
        "nvcc": FACTS.nvcc,
        "archs": PLAN.archs,
        "cxx_flags": CXX_FLAGS,
        "nvcc_flags": NVCC_FLAGS,
        "git": plans.command_output("git", "-C", str(ROOT), "rev-parse", "HEAD") or None,
        "dirty": bool(plans.command_output("git", "-C", str(ROOT), "status", "--porcelain")),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "_build.json").write_text(json.dumps(record, indent=1) + "\n")


class BuildPy(build_py):
    """Writes the record of installations that build nothing; BuildExt does otherwise."""

    def run(self) -> None:
        super().run()
        if FACTS.request == "0":
            write_build_json(ROOT / "fastclr" if self.editable_mode else Path(self.build_lib, "fastclr"))


class BuildExt(build_ext):
    """Writes build.ninja and calls ninja, which compiles what has changed since it was called last."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # not in the temporary folder that setuptools chooses
            self.build_temp = str(ROOT / "build" / "editable")

    def get_ext_filename(self, fullname: str) -> str:
        name = super().get_ext_filename(fullname)
        # only the pybind11 module depends on the Python version
        return name if fullname.endswith("_host") else name.partition(".")[0] + ".so"

    def build_extensions(self) -> None:
        libraries = {}
        for ext in self.extensions:
            target = LIBRARIES[ext.name]
            headers = [f"-I{sysconfig.get_path('include')}"] if target == "host" else []
            libraries[self.get_ext_fullpath(ext.name)] = target, headers
        for python in PYTHONS if PLAN.builds("host") else ():
            code = "import sysconfig as s; print(s.get_path('include'), s.get_config_var('EXT_SUFFIX'), sep='\\n')"
            include, suffix = subprocess.check_output([python, "-c", code], text=True).splitlines()
            libraries[str(Path(self.build_lib, "fastclr", f"_host{suffix}"))] = "host", [f"-I{include}"]
        commands = self.compiler.compiler_so_cxx, self.compiler.linker_so_cxx
        ninja = Path(self.build_temp, "build.ninja")
        ninja.parent.mkdir(parents=True, exist_ok=True)
        ninja.write_text(graph(libraries, FACTS, PLAN.archs, *commands, self.build_temp))
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        quiet = [] if self.verbose else ["--quiet"]
        if subprocess.run([FACTS.ninja, "-f", ninja, *jobs, *quiet], cwd=ROOT).returncode:
            smaller = "FASTCLR_BUILD=cpu leaves CUDA out, " if PLAN.builds("cuda") else ""
            sys.exit(f"fastclr: the native code does not compile, see above; {smaller}{plans.WITHOUT}")

    def run(self) -> None:
        super().run()
        write_build_json(ROOT / "fastclr" if self.inplace else Path(self.build_lib, "fastclr"))


class BdistWheel(bdist_wheel):
    """Names the wheel that holds a pybind11 module for each of FASTCLR_PYTHONS after no one of them."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return ("py310", "none", tag[2]) if PYTHONS and not self.root_is_pure else tag


FACTS = plans.gather_facts(ROOT)
PYTHONS = os.environ.get("FASTCLR_PYTHONS", "").split()
BUILDS = not {"build", "build_ext", "bdist_wheel", "dist_info", "editable_wheel"}.isdisjoint(sys.argv)
try:
    PLAN = plans.plan_build(FACTS)
except plans.BuildError as refusal:
    if BUILDS:  # dist_info is what pip asks for first, before it fetches torch
        sys.exit(f"fastclr: {refusal}")
    PLAN = plans.plan_build(dataclasses.replace(FACTS, request="0"))  # an sdist needs nothing
if __name__ == "__main__":
    if BUILDS:
        print(*PLAN.lines(), sep="\n", file=sys.stderr)
    setup(
        ext_modules=[Extension(name, sources(target)) for name, target in LIBRARIES.items() if PLAN.builds(target)],
        cmdclass={"bdist_wheel": BdistWheel, "build_py": BuildPy, "build_ext": BuildExt},
    )
