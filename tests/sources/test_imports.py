"""Listing what lies at a path needs no torch, whose import takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastclr.sources

MODULES = sorted(path.stem for path in Path(fastclr.sources.__path__[0]).glob("[!_]*.py"))


def imported(code: str) -> set[str]:
    """The modules that are loaded after `code` has run in a new process."""
    command = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", command], capture_output=True, check=True, text=True).stdout.split()
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_module_loads_torch(module: str) -> None:
    """Each module loads neither torch nor a package of fastclr above it."""
    loaded = imported(f"import fastclr.sources.{module}")
    assert f"fastclr.sources.{module}" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in ("torch", "torchvision")}
    assert {".".join(name.split(".")[:2]) for name in loaded if name.startswith("fastclr.")} == {"fastclr.sources"}


def test_reading_does_not_load_torch(tmp_path: Path) -> None:
    """Listing a folder and reading headers, pixels and selected files load it no later either."""
    loaded = imported(
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from fastclr.sources.decode import decode_image, glance\n"
        "from fastclr.sources.entries import arrange\n"
        "from fastclr.sources.folder import index_folder\n"
        f"root = Path({str(tmp_path)!r})\n"
        "for name in ('a', 'b'):\n"
        "    (root / name).mkdir()\n"
        "    Image.new('RGB', (5, 4)).save(root / name / 'x.png')\n"
        "files = index_folder(root)\n"
        "paths = [entry.path for entry in arrange(files.names)['train']]\n"
        "storage = files.storage(paths).select(np.array([1, 0, 1]))\n"
        "assert len(storage) == 3 and glance(storage, 2).height == 4\n"
        "assert decode_image(storage.read(1)).shape == (4, 5, 3)"
    )
    assert not {name for name in loaded if name.partition(".")[0] in ("torch", "torchvision")}
