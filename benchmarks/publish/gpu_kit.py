"""An archive for a machine with a GPU, little time and no network: the package with its CUDA library, and its kernels.

    python benchmarks/publish/gpu_kit.py --site FOLDER [--peers FOLDER] --out build/gpu-kit.tar.xz

Run it with the Python, torch and Triton of that machine (`make gpu-kit`): Triton's keys contain the whole compiler. It
compiles what `gpu_day.py` launches for sm_90, compares the keys in fresh processes over the packed cache, where all
must be found, and packs. `gpu_day.py --kit` unpacks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import compiled_ahead
import gpu_cases
import gpu_tiles
import torch

MOST_MB = 48.0
LARGEST_ROWS = 65536  # more rows take the same kernels


def calls(names: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every call of kernels in `gpu_day.py`, on CPU tensors; with names only those that contain one of them."""
    from fastclr.bench import loss_cases, loss_peers

    cpu = torch.device("cpu")
    found: list[tuple[str, Callable[[], object]]] = []
    found += [(case.name, lambda c=case: c.outcome(cpu)) for case in gpu_cases.cases()]
    found += [(case.name, lambda c=case: c.compile(cpu)) for case in gpu_tiles.comparisons()]

    def headline(case: loss_cases.LossCase) -> None:
        make = loss_peers.fastclr if case.layout == "ntxent" else loss_peers.fastclr_clip
        with loss_cases.matmul_precision("high" if case.dtype == "tf32" else "highest"):
            loss_of, views = make(case), case.views()
            tau = torch.tensor(0.1, requires_grad=True) if case.learnable else 0.1
            loss_of(*views, tau).backward()

    for case in loss_cases.cases(torch.device("cuda")):
        if case.rows <= LARGEST_ROWS:
            on_cpu = replace(case, device="cpu")
            found.append((case.name, lambda c=on_cpu: headline(c)))
    yield from (pair for pair in found if not names or any(name in pair[0] for name in names))


def use_kernels_on_cpu() -> None:
    """Let `impl="auto"` choose the kernels for CPU tensors too, in this process, which pretends to have a GPU."""
    inputs = sys.modules["fastclr.losses.inputs"]
    select = inputs.select_impl  # type: ignore[attr-defined]

    def chosen(impl: str, z0: torch.Tensor) -> str:
        found: str = select("triton" if impl == "auto" else impl, z0)
        return found

    for name, module in list(sys.modules.items()):
        if name.startswith("fastclr.losses.") and getattr(module, "select_impl", None) is select:
            module.select_impl = chosen  # type: ignore[attr-defined]


def share(index: int, count: int, names: list[str]) -> dict[str, Any]:
    """Compile every `count`-th call, from `index` on, into the cache; return what was compiled, found and failed."""
    torch.set_num_threads(1)
    compiled_ahead.pretend_gpu()
    use_kernels_on_cpu()
    launchers = Launchers()
    counter, failed = compiled_ahead.Counter(), {}
    for name, call in list(calls(names))[index::count]:
        try:
            call()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    return {"compiled": counter.compiled, "found": counter.found, "failed": failed, "launchers": launchers.count}


class Launchers:
    """Builds the C modules that start a kernel, where Triton compiles one for each signature; this needs no driver."""

    def __init__(self) -> None:
        from triton.backends.nvidia import driver
        from triton.runtime.jit import JITFunction

        self.count = 0
        if not hasattr(driver, "make_launcher"):
            return
        self.folder = tempfile.TemporaryDirectory()
        os.environ["TRITON_LIBCUDA_PATH"] = self.folder.name
        self.stand_in(Path(self.folder.name), Path(driver.__file__))
        driver.CudaUtils()
        run, built = JITFunction.run, set()

        def then_launcher(self_: Any, *args: Any, **options: Any) -> Any:
            kernel = run(self_, *args, **options)
            if kernel.hash not in built:
                built.add(kernel.hash)
                driver.CudaLauncher(kernel.src, kernel.metadata)
                self.count += 1
            return kernel

        JITFunction.run = then_launcher

    @staticmethod
    def stand_in(folder: Path, driver: Path) -> None:
        """Make a library with the name and the symbols of CUDA's driver, to link with and to load."""
        import ctypes

        text = driver.read_text() + driver.with_suffix(".c").read_text()
        symbols = sorted(set(re.findall(r"\b(cu[A-Z]\w+)\s*\(", text)))
        (folder / "cuda.c").write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in symbols))
        library, source = str(folder / "libcuda.so.1"), str(folder / "cuda.c")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", source, "-o", library], check=True)
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)


def in_shares(cache: Path, jobs: int, names: list[str]) -> dict[str, Any]:
    """Run `share` in processes over one cache; return the sums."""
    command = [sys.executable, "-W", "ignore", __file__, "--names", *names]
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    running = [
        subprocess.Popen([*command, "--share", f"{i}/{jobs}"], stdout=subprocess.PIPE, text=True, env=environment)
        for i in range(jobs)
    ]
    total: dict[str, Any] = {"compiled": set(), "found": set(), "failed": {}}
    outputs = [process.communicate()[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process that compiles kernels ended with {process.returncode}")
        found = json.loads(output.splitlines()[-1])
        total["compiled"] |= set(found["compiled"])
        total["found"] |= set(found["found"])
        total["failed"] |= found["failed"]
    return total


def compile_kernels(folder: Path, work: Path, jobs: int, names: list[str]) -> dict[str, Any]:
    """Compile into `work`, pack into `folder`, and see that fresh processes find every kernel in it.

    Raises:
        RuntimeError: a kernel is compiled again.
    """
    first = in_shares(work, jobs, names)
    compiled_ahead.pack(work, folder)
    again = work.with_name("placed")
    shutil.copytree(folder, again)
    compiled_ahead.place(again)
    second = in_shares(again, jobs, names)
    kernels = first["compiled"] | first["found"]
    if second["compiled"] or second["found"] != kernels:
        missed = len(second["compiled"] | kernels - second["found"])
        raise RuntimeError(f"{missed} of {len(kernels)} kernels are not found in the packed cache")
    return {"kernels": len(kernels), "found_again": len(second["found"]), "failed": first["failed"]}


def described() -> dict[str, Any]:
    """The versions that the cache is for, and the commit."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    versions = {name: metadata.version(name) for name in ("torch", "triton")}
    commit = os.environ.get("FASTCLR_COMMIT") or done.stdout.strip() or None
    return {"format": 1, "commit": commit, "python": platform.python_version(), "target": "cuda:90", **versions}


def write_archive(parts: Path, path: Path) -> float:
    """Pack a folder; return the size in MB.

    Raises:
        RuntimeError: it is larger than what such a machine is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as file:
        for part in sorted(parts.iterdir()):
            file.add(part, part.name, filter=lambda info: None if "__pycache__" in info.name else info)
    size = path.stat().st_size / 1e6
    if size > MOST_MB:
        sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) / 1e6 for p in parts.iterdir()}
        large = ", ".join(f"{name} {mb:.1f} MB" for name, mb in sorted(sizes.items(), key=lambda item: -item[1]))
        raise RuntimeError(f"{path} has {size:.1f} MB, at most {MOST_MB:.0f} are wanted; unpacked: {large}")
    return size


def main(arguments: list[str]) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="folder with the built package")
    parser.add_argument("--peers", type=Path, help="folder with the libraries to compare with")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-kit.tar.xz"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--names", nargs="*", default=[], help="compile only calls whose name contains one of these")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.share:
        index, count = map(int, options.share.split("/"))
        print(json.dumps(share(index, count, options.names)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder, "parts")
        try:
            found = described() | compile_kernels(parts / "triton", Path(folder, "cache"), options.jobs, options.names)
            for name, path in (("site", options.site), ("peers", options.peers)):
                if path is not None:
                    shutil.copytree(path, parts / name, ignore=shutil.ignore_patterns("__pycache__", ".built"))
            (parts / "kit.json").write_text(json.dumps(found, indent=1) + "\n")
            size = write_archive(parts, options.out)
        except (RuntimeError, OSError) as error:
            print(f"gpu-kit: error: {error}", file=sys.stderr)
            return 2
    for name, note in found["failed"].items():
        print(f"gpu-kit: not compiled: {name}: {note}", file=sys.stderr)
    print(f"{options.out}: {size:.1f} MB, {found['kernels']} kernels, each found again by fresh processes")
    return int(bool(found["failed"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
