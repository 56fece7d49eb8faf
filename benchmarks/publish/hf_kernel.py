"""The losses with their Triton kernels as a kernel repository of the Hugging Face Hub: Python alone, for every device.

    python benchmarks/publish/hf_kernel.py FOLDER        # make hf-kernel

Writes `build.toml`, `flake.nix`, `CARD.md` and the sources in `torch-ext/`, from which their builder makes a noarch
kernel, and what it would make of them: a package for each backend in `build/torch-BACKEND/`, which
`kernels.get_local_kernel` loads. The sources are those of this tree with relative imports, since such a package is
loaded under a made-up name, and operators in a namespace of the build, so that several versions and fastclr can be
loaded side by side. What needs the compiled libraries falls back to PyTorch.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "fastclr_losses"
REPOSITORY = "fastclr/losses"
BACKENDS = ("cpu", "cuda", "rocm", "xpu")
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
# written by the builder beside the sources
OPS = '''"""The namespace of this build's operators."""

from __future__ import annotations

import torch

ops = torch.ops.{id}


def add_op_namespace_prefix(name: str) -> str:
    """Return the full name of an operator."""
    return f"{id}::{{name}}"
'''
OLDER = '''"""For versions of `kernels` that look for the package in a folder of its name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if "{id}" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("{id}", Path(__file__).parents[1] / "__init__.py")
    sys.modules["{id}"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["{id}"])
__all__ = sys.modules["{id}"].__all__
globals().update({{name: getattr(sys.modules["{id}"], name) for name in __all__}})
'''
TOML = """\
[general]
name = "{name}"
version = {version}
license = "Apache-2.0"
edition = 5
backends = {backends}

[general.hub]
repo-id = "{repository}"

[torch-noarch]
"""
FLAKE = """\
{
  description = "fastclr-losses";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs = { self, kernel-builder }: kernel-builder.lib.genKernelFlakeOutputs { inherit self; path = ./.; };
}
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

losses = get_kernel("{repository}", version={version}, trust_remote_code=True)
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
    text, named = re.subn(r'(f?)"fastclr::([^"]+)"', r'add_op_namespace_prefix(\1"\2")', text)
    text, called = re.subn(r"torch\.ops\.fastclr\.", "ops.", text)
    if named or called:
        imported = f"from {above}_ops import add_op_namespace_prefix, ops\n"
        text = re.sub(r"^import torch\n", f"import torch\n{imported}", text, count=1, flags=re.M)
    if left := re.search(r"^\s*(?:import|from) fastclr.*|import_module\(\W*fastclr.*|.*\bfastclr::.*", text, re.M):
        raise ValueError(f"this cannot be made relative: {left[0].strip()}")
    return text


def public_names() -> list[str]:
    """Return what `fastclr.losses` exports."""
    found = re.search(r"^__all__ = \[(.*?)\]", (ROOT / "fastclr" / "losses" / "__init__.py").read_text(), re.M | re.S)
    if found is None:
        raise ValueError("fastclr/losses/__init__.py has no __all__")
    return sorted(re.findall(r'"(\w+)"', found[1]))


def package() -> dict[str, str]:
    """Return the texts of the Python package by their paths in it."""
    names = public_names()
    texts = {"native.py": NATIVE, "__init__.py": INIT.format(names=", ".join(names), all=names)}
    for source, target in SOURCES.items():
        path = ROOT / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if file.name not in LEFT_OUT:
                place = Path(target, file.name).as_posix()
                texts[place] = rewritten(file.read_text(), 0 if target == "." else 1)
    return texts


def variant(texts: dict[str, str], backend: str, version: int) -> dict[str, str]:
    """Return the files of a build: the package, its operators' namespace, and the description that `kernels` reads.

    The name under which it is loaded, which is that namespace, contains a hash of the sources.
    """
    sources = json.dumps(texts, sort_keys=True).encode()
    identity = f"_{NAME}_{backend}_{hashlib.sha256(sources).hexdigest()[:12]}"
    files = texts | {"_ops.py": OPS.format(id=identity), f"{NAME}/__init__.py": OLDER.format(id=identity)}
    digest = {
        path: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for path, text in sorted(files.items())
    }
    metadata = {
        "name": NAME.replace("_", "-"),
        "id": identity,
        "version": version,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digest},
    }
    return files | {"metadata.json": json.dumps(metadata, indent=1) + "\n"}


def write(folder: Path, files: dict[str, str]) -> None:
    """Write texts by their paths in a folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())


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
        texts, names = package(), ", ".join(f"`{name}`" for name in public_names())
        shutil.rmtree(folder, ignore_errors=True)
        about = {"name": NAME.replace("_", "-"), "version": options.version, "repository": REPOSITORY}
        described = {
            "build.toml": TOML.format(backends=json.dumps(BACKENDS), **about),
            "flake.nix": FLAKE,
            "CARD.md": CARD.format(release=release(), names=names, **about),
        }
        write(folder, described)
        write(folder / "torch-ext" / NAME, texts)
        for backend in BACKENDS:
            write(folder / "build" / f"torch-{backend}", variant(texts, backend, options.version))
    except (ValueError, OSError) as error:
        print(f"hf-kernel: error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
