"""Triton kernels compiled where there is no GPU, in a cache that the launches of a machine with one find.

`pretend_gpu` lets the launchers of `fastclr.kernels` run to their end on CPU tensors: types, alignment, sizes and tiles
are those of the device, so that Triton computes the key that it will compute there; it compiles and launches nothing.
`pack` copies what a launch reads, the machine code and its description, and `place` puts it where Triton looks.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KEPT = (".cubin", ".json", ".so")
KERNEL_MODULES = (
    "lse_backward",
    "lse_forward",
    "ntxent_backward",
    "ntxent_forward",
    "ntxent_gluon",
    "ntxent_loss",
    "ntxent_normalize",
    "ntxent_project",
    "ntxent_stats",
    "ntxent_triangular",
    "softplus_forward",
    "tune",
)


class PretendedDriver:
    """What a launch asks Triton's driver before it compiles."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        """The architecture to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """The only device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """No stream: nothing is launched."""
        return 0


def pretend_gpu(arch: int = 90, multiprocessors: int = 132) -> None:
    """From now on this process compiles for `arch`, and calls of the kernels on CPU tensors compute nothing.

    For a process of its own: it cannot be undone. Results of the losses are whatever lies in memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    import fastclr.losses  # noqa: F401
    from fastclr.kernels import tile_table
    from fastclr.losses import nt_xent as nt_xent_function

    def traits(device: torch.device) -> tuple[int, int]:
        return arch, multiprocessors

    # device_traits is looked up in tile_table, or was imported from it
    for module in (tile_table, *(import_module(f"fastclr.kernels.{name}") for name in KERNEL_MODULES)):
        if hasattr(module, "device_traits"):
            module.device_traits = traits
    triton.runtime.driver.set_active(PretendedDriver(GPUTarget("cuda", arch, 32)))
    run = JITFunction.run
    JITFunction.run = lambda self, *args, grid, warmup, **options: run(self, *args, grid=grid, warmup=True, **options)
    # the checks that refuse CPU tensors: the kernels are imported, so they stay compiled ones
    os.environ["TRITON_INTERPRET"] = "1"
    sys.modules[nt_xent_function.__module__]._check_gluon = lambda z0, precision: "gluon"  # type: ignore[attr-defined]


class Counter:
    """How many kernels Triton compiled, and how many it found in its cache, since it was made."""

    def __init__(self) -> None:
        import triton

        self.compiled, self.found = [], []  # type: tuple[list[str], list[str]]
        triton.knobs.compilation.listener = self.listen

    def listen(self, *, src: Any, metadata: dict[str, Any], cache_hit: bool, **_: Any) -> None:
        """Take one kernel; Triton calls this."""
        (self.found if cache_hit else self.compiled).append(metadata["hash"])


def pack(cache: Path, folder: Path) -> int:
    """Copy the machine code and descriptions of a Triton cache; return the number of kernels.

    Triton's index of a kernel's files has absolute paths; here it has names, which `place` completes.
    """
    count = 0
    for entry in sorted(path for path in cache.iterdir() if path.is_dir()):
        files = [path for path in entry.iterdir() if path.suffix in KEPT and not path.name.startswith("__grp__")]
        if not files:
            continue
        (folder / entry.name).mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, folder / entry.name / path.name)
        for index in entry.glob("__grp__*.json"):
            names = {path.name: path.name for path in files if path.suffix != ".so"}
            (folder / entry.name / index.name).write_text(json.dumps({"child_paths": names}))
            count += 1
    return count


def place(folder: Path) -> None:
    """Complete the paths in a packed cache that lies in `folder`, which TRITON_CACHE_DIR then names."""
    for index in folder.resolve().glob("*/__grp__*.json"):
        names = json.loads(index.read_text())["child_paths"]
        index.write_text(json.dumps({"child_paths": {name: str(index.parent / name) for name in names}}))
