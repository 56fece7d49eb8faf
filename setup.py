"""Builds the native parts that fastclr/_build_plan.py selects for this machine."""

import glob
import importlib.util
import json
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("fastclr_build_plan", ROOT / "fastclr" / "_build_plan.py")
plans = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = plans  # dataclasses look up their module here
spec.loader.exec_module(plans)

# no contraction to fma: CPU, CUDA and NumPy must round alike; where no operation traps, GCC vectorises branches
CXX_FLAGS = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
# its sums are of one device only, and faster with fma; vectors of all widths are passed to functions that are inlined
OWN_FLAGS = {Path("csrc/cpu/contrast.cpp"): ["-ffp-contract=fast", "-Wno-psabi"]}
NVCC_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-lineinfo", "-DUSE_CUDA", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020b000000000000")  # 2.11, the oldest torch that can load the libraries


def extension(target):
    """Return the Extension of one target; torch loads the libraries, which contain no Python symbols."""
    if target == "host":
        name, sources = "fastclr._host", glob.glob("csrc/host/*.cpp")
        options = {"include_dirs": [str(plans.package_dir("pybind11") / "include")]}
    else:
        name, sources = "fastclr._C", ["csrc/ops.cpp", *glob.glob("csrc/cpu/*.cpp")]
        libraries, folders = ["torch", "torch_cpu", "c10"], [str(plans.package_dir("torch") / "lib")]
        if target == "cuda":
            name, sources = "fastclr._C_cuda", glob.glob("csrc/cuda/*.cu")
            libraries, folders = [*libraries, "torch_cuda", "cudart"], [*folders, f"{FACTS.cuda_home}/lib64"]
        options = {"libraries": libraries, "library_dirs": folders, "define_macros": [TORCH_TARGET]}
        options["include_dirs"] = [str(plans.package_dir("torch") / "include")]
    headers = glob.glob("csrc/**/*.h*", recursive=True)
    optional = target not in PLAN.required
    return Extension(name, sorted(sources), depends=headers, language="c++", optional=optional, **options)


def write_build_json(folder):
    """Record what was built, how, and why the rest was not, for `fastclr info`."""
    targets = {d.target: {"built": d.build, "reason": d.reason, "remedy": d.remedy} for d in PLAN.decisions}
    for target, reason in FAILED.items():
        targets[target] = {"built": False, "reason": reason, "remedy": f"{plans.REINSTALL} -v"}
    record = {
        "targets": targets,
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
    """Writes the record of installations that build nothing; otherwise BuildExt does, which knows what failed."""

    def run(self):
        super().run()
        if not self.distribution.has_ext_modules():
            write_build_json(ROOT / "fastclr" if self.editable_mode else Path(self.build_lib, "fastclr"))


class BuildExt(build_ext):
    """Compiles C++ in parallel and CUDA with nvcc; a failure is fatal only if the target was explicitly requested."""

    def get_ext_filename(self, fullname):
        name = super().get_ext_filename(fullname)
        # only the pybind11 module depends on the Python version
        return name if fullname.endswith("_host") else name.partition(".")[0] + ".so"

    def compile_source(self, ext, source):
        if not source.endswith(".cu"):
            options = {"macros": ext.define_macros, "include_dirs": ext.include_dirs, "depends": ext.depends}
            flags = CXX_FLAGS + OWN_FLAGS.get(Path(source), [])
            return self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=flags, **options)[0]
        target = Path(self.build_temp, source).with_suffix(".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in PLAN.archs]
        flags += [f"-I{folder}" for folder in ext.include_dirs] + [f"-D{k}={v}" for k, v in ext.define_macros]
        self.spawn([f"{FACTS.cuda_home}/bin/nvcc", *NVCC_FLAGS, *flags, "-c", source, "-o", str(target)])
        return str(target)

    def build_extension(self, ext):
        target = {"_host": "host", "_C": "cpu", "_C_cuda": "cuda"}[ext.name.rpartition(".")[2]]
        print(f"fastclr: compiling {target}: {len(ext.sources)} files", file=sys.stderr)
        libraries = {"libraries": ext.libraries, "library_dirs": ext.library_dirs, "target_lang": "c++"}
        try:
            with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
                objects = list(pool.map(lambda source: self.compile_source(ext, source), ext.sources))
            self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), **libraries)
        except (BaseError, CCompilerError, OSError) as error:
            if target in PLAN.required:
                raise
            FAILED[target] = "the compiler or linker failed; its message is in the installation log"
            print(f"fastclr: {target}: skipped after a failure: {error}", file=sys.stderr)

    def run(self):
        super().run()
        write_build_json(ROOT / "fastclr" if self.inplace else Path(self.build_lib, "fastclr"))


FACTS = plans.gather_facts(ROOT)
PLAN = plans.plan_build(FACTS)
FAILED = {}
print("\n".join(PLAN.lines()), file=sys.stderr)
setup(
    ext_modules=[extension(target) for target in plans.TARGETS if PLAN.builds(target)],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt},
)
