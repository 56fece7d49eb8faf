"""What ninja builds again after a change: small sources in a copy of the layout, compiled as setup.py says."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastclr._build_plan import find_cuda_home, find_ninja

ROOT = Path(__file__).resolve().parents[1]
NINJA, HOME = find_ninja(), find_cuda_home({})
pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source tree"),
    pytest.mark.skipif(NINJA is None or shutil.which("c++") is None, reason="no ninja or no C++ compiler"),
]
SOURCES = {
    "csrc/ops.cpp": '#include "math/one.h"\nint ops() { return one(); }\n',
    "csrc/math/one.h": "inline int one() { return 1; }\n",
    "csrc/cpu/a b.cpp": '#include "../math/one.h"\nint a() { return one(); }\n',
    "csrc/cpu/contrast.cpp": "#include <torch/all.h>\nfloat contrast(float a, float b) { return a * b + TORCH; }\n",
    "csrc/cuda/ops.cu": "__global__ void k(float* x) { *x = 2; }\nvoid run(float* x) { k<<<1, 1>>>(x); }\n",
    "torch/include/torch/all.h": "#define TORCH 1\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with a blank in its name, and a torch without content to link with."""
    root = tmp_path / "source tree"
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "fastclr").mkdir()
    shutil.copy(ROOT / "setup.py", root)
    shutil.copy(ROOT / "fastclr" / "_build_plan.py", root / "fastclr")
    (root / "torch" / "lib").mkdir()
    for name in ("torch_cpu", "torch_cuda"):
        library = root / "torch" / "lib" / f"lib{name}.so"
        subprocess.run(["c++", "-shared", "-x", "c++", "/dev/null", "-o", str(library)], check=True)
    return root


def load(tree: Path) -> ModuleType:
    """The setup.py of a tree, as a module."""
    spec = importlib.util.spec_from_file_location("setup_of_tree", tree / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ninja(tree: Path, *options: str, target: str = "cpu", archs: tuple[str, ...] = (), **changes: Any) -> list[str]:
    """Write the graph of one target and return what ninja does, or with -n would do: one line per step."""
    setup = load(tree)
    for name, value in changes.items():
        setattr(setup, name, value)
    facts = dataclasses.replace(setup.FACTS, torch_home=str(tree / "torch"), cuda_home=HOME)
    commands = ["c++", "-fPIC", '-DQUOTED="$ "'], ["c++", "-shared"]
    text = setup.graph({f"out/_{target}.so": (target, [])}, facts, archs, *commands, "temp folder")
    (tree / "build.ninja").write_text(text)
    done = subprocess.run([str(NINJA), "-v", *options], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("[")]


def compiled(steps: list[str]) -> list[str]:
    """The sources that are compiled in these steps; the last step links."""
    *steps, link = steps
    assert "-shared" in link
    return sorted(re.search(r"-c '?(.*?)'? -o ", step)[1] for step in steps)  # type: ignore[index]


def test_an_edit_of_one_file_compiles_one_object(tree: Path) -> None:
    assert compiled(ninja(tree)) == ["csrc/cpu/a b.cpp", "csrc/cpu/contrast.cpp", "csrc/ops.cpp"]
    assert ninja(tree, "-n") == []
    for edited, expected in {
        "csrc/cpu/a b.cpp": ["csrc/cpu/a b.cpp"],
        "csrc/math/one.h": ["csrc/cpu/a b.cpp", "csrc/ops.cpp"],  # found by the compiler, listed nowhere
        "torch/include/torch/all.h": ["csrc/cpu/contrast.cpp"],
    }.items():
        (tree / edited).write_text(SOURCES[edited] + "// edited\n")
        assert compiled(ninja(tree, "-n")) == expected, edited
        assert compiled(ninja(tree)) == expected and ninja(tree, "-n") == []
    (tree / "csrc/cpu/new.cpp").write_text("int fresh() { return 2; }\n")
    assert compiled(ninja(tree, "-n")) == ["csrc/cpu/new.cpp"]


def test_other_flags_compile_what_has_them(tree: Path) -> None:
    ninja(tree)
    own = {"csrc/cpu/contrast.cpp": ["-ffp-contract=fast"]}
    assert compiled(ninja(tree, "-n", OWN_FLAGS=own)) == ["csrc/cpu/contrast.cpp"]
    assert len(compiled(ninja(tree, "-n", CXX_FLAGS=["-std=c++20", "-O1"]))) == 3


@pytest.mark.skipif(HOME is None, reason="nvcc not found")
def test_the_library_for_cuda_needs_no_runtime_of_torch(tree: Path) -> None:
    """It launches a kernel, and asks for no libcudart: beside a torch for another CUDA there is none of its version."""
    assert compiled(ninja(tree, target="cuda", archs=("sm_90", "compute_90"))) == ["csrc/cuda/ops.cu"]
    assert ninja(tree, "-n", target="cuda", archs=("sm_90", "compute_90")) == []
    assert compiled(ninja(tree, "-n", target="cuda", archs=("sm_80",))) == ["csrc/cuda/ops.cu"]
    library = str(tree / "out" / "_cuda.so")
    read = subprocess.run(["readelf", "-d", "--dyn-syms", "-W", library], capture_output=True, text=True, check=True)
    assert "libc.so.6" in read.stdout and "cuda" not in read.stdout.replace("_cuda.so", "").replace("torch_cuda", "")
