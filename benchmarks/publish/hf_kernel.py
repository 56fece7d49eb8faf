"""The losses with their Triton kernels as a kernel repository of the Hugging Face Hub: Python alone, for every device.

    python benchmarks/publish/hf_kernel.py FOLDER        # make hf-kernel

Writes `build.toml`, `CARD.md` and the sources in `torch-ext/`, from which their builder makes a noarch kernel, and
`build/torch-universal/`, what `kernels.get_local_kernel` loads. The sources are those of this tree with relative
imports, since such a package is loaded under a made-up name, and operators in their own namespace, so that it and
fastclr can be loaded side by side. What needs the compiled libraries falls back to PyTorch.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "fastclr_losses"
REPOSITORY = "fastclr/losses"
# folder or file of the tree -> of the package
SOURCES = {"fastclr/losses": "losses", "kernels": "kernels", "fastclr/parallel.py": ".", "fastclr/device.py": "."}
LEFT_OUT = {"tune.py"}
NATIVE = '''"""Stands in for the compiled CPU library, which a package of Python alone has not."""

from __future__ import annotations


class Missing:
    """The state of a library that is not there."""

    loaded = False
    reason = "this package has no compiled library"


def kernels(device_type: str) -> Missing:
    """Say that there is none."""
    return Missing()
'''
INIT = '''"""Contrastive losses without the matrix of logits: Triton kernels on GPUs, blocks of PyTorch elsewhere."""

from __future__ import annotations

from .losses import {names}

__all__ = {all}
'''
TOML = """\
[general]
name = "fastclr-losses"
version = {version}
license = "Apache-2.0"
edition = 5
backends = ["cpu", "cuda", "rocm", "xpu"]

[general.hub]
repo-id = "{repository}"

[torch-noarch]
"""
CARD = """\
---
library_name: kernels
license: apache-2.0
tags: [kernel, contrastive-learning, self-supervised]
---

# fastclr-losses

NT-Xent, CLIP, SigLIP, SupCon and other contrastive losses in O(N D) memory, of fastclr {release}.

```python
import torch
from kernels import get_kernel

losses = get_kernel("{repository}")
loss = losses.NTXentLoss(temperature=0.1)(torch.randn(512, 128), torch.randn(512, 128))
```

All names: {names}. The Triton kernels were compiled for compute capability 8.0, 9.0 and 10.0, and checked in Triton's
interpreter.
"""


def rewritten(text: str, depth: int) -> str:
    """Return the source of a module for the package.

    Args:
        text: the source in this tree.
        depth: 0 for a module of the package itself, 1 for one of a subpackage.
    """
    above = "." * (depth + 1)
    text = text.replace("from fastclr.augment.native import", f"from {above}native import")
    text = re.sub(r"^(\s*)from fastclr\.([\w.]+) import", rf"\1from {above}\2 import", text, flags=re.M)
    text = re.sub(r"^(\s*)from fastclr import", rf"\1from {above}losses import", text, flags=re.M)
    # the package's name is known when it runs
    text = re.sub(r'"fastclr\.(kernels[\w.]*)"', lambda m: "f\"{__package__.rpartition('.')[0]}." + m[1] + '"', text)
    text = text.replace("fastclr::", f"{NAME}::").replace("torch.ops.fastclr.", f"torch.ops.{NAME}.")
    if left := re.search(r"^\s*(?:import|from) fastclr.*|import_module\(\W*fastclr.*", text, re.M):
        raise ValueError(f"this import cannot be made relative: {left[0].strip()}")
    return text


def public_names() -> list[str]:
    """Return what `fastclr.losses` exports."""
    found = re.search(r"^__all__ = \[(.*?)\]", (ROOT / "fastclr" / "losses" / "__init__.py").read_text(), re.M | re.S)
    if found is None:
        raise ValueError("fastclr/losses/__init__.py has no __all__")
    return sorted(re.findall(r'"(\w+)"', found[1]))


def write_package(folder: Path) -> None:
    """Write the Python package."""
    for source, target in SOURCES.items():
        path = ROOT / source
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        (folder / target).mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.name not in LEFT_OUT:
                text = rewritten(file.read_text(), 0 if target == "." else 1)
                (folder / target / file.name).write_text(text)
    (folder / "native.py").write_text(NATIVE)
    names = public_names()
    (folder / "__init__.py").write_text(INIT.format(names=", ".join(names), all=names))


def release() -> str:
    """Return fastclr's version."""
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    if found is None:
        raise ValueError("pyproject.toml states no version")
    return found[1]


def main(arguments: list[str]) -> int:
    """Write the repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--version", type=int, default=1, help="of the kernel, a whole number; each change needs another"
    )
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / "build.toml").exists():
            raise ValueError(f"{folder} holds files of something else: choose another folder")
        shutil.rmtree(folder, ignore_errors=True)
        for place in (folder / "torch-ext" / NAME, folder / "build" / "torch-universal" / NAME):
            write_package(place)
        (folder / "build.toml").write_text(TOML.format(version=options.version, repository=REPOSITORY))
        names = ", ".join(f"`{name}`" for name in public_names())
        (folder / "CARD.md").write_text(CARD.format(release=release(), repository=REPOSITORY, names=names))
    except (ValueError, OSError) as error:
        print(f"hf-kernel: error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
