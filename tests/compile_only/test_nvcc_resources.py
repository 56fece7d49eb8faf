"""Resources of the CUDA kernels as nvcc compiles them: registers, spills, stack, shared memory. Needs no GPU."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastclr._build_plan import DEFAULT_ARCHS, find_cuda_home, parse_archs

ROOT = Path(__file__).resolve().parents[2]
HOME = find_cuda_home({})
pytestmark = [
    pytest.mark.skipif(HOME is None, reason="nvcc not found: set CUDA_HOME or install the toolkit in /usr/local/cuda"),
    pytest.mark.skipif(not (ROOT / "csrc" / "cuda").is_dir(), reason="no source tree"),
]
ARCHS = [arch for arch in parse_archs(DEFAULT_ARCHS) if arch.startswith("sm_")]
# registers per thread, from a multiprocessor's 65536: two blocks of 512 threads, three or four of 256
LIMITS = {
    "augment_params_kernel": 80,
    "augment_small_kernel": 64,
    "augment_resize_kernel": 80,
    "augment_colour_kernel": 64,
    "augment_blur_kernel": 64,
    "augment_plane_resize_kernel": 80,
    "augment_plane_colour_kernel": 64,
    "augment_plane_blur_kernel": 64,
}
PROPERTIES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """ptxas output for all architectures, compiled with the flags of setup.py."""
    torch = importlib.util.find_spec("torch")
    include = Path(str(torch and torch.origin)).parent / "include"
    setup = (ROOT / "setup.py").read_text()
    flags = re.findall(r'"([^"]+)"', re.search(r"NVCC_FLAGS = \[(.*?)\]", setup, re.S)[1])
    target = re.search(r'TORCH_TARGET = \("(\w+)", "(\w+)"\)', setup)
    command = [f"{HOME}/bin/nvcc", *flags, f"-I{include}", f"-D{target[1]}={target[2]}", "-Xptxas", "-v"]
    command += [f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in ARCHS]
    out = tmp_path_factory.mktemp("nvcc") / "ops.o"
    source = str(ROOT / "csrc" / "cuda" / "ops.cu")
    result = subprocess.run([*command, "-c", source, "-o", str(out)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    sys.stdout.write(result.stderr)
    return result.stderr


@pytest.mark.parametrize("arch", ARCHS)
def test_nvcc_resources(report: str, arch: str) -> None:
    """No spills, no arrays in local memory, few registers, no static shared memory on top of what a launch requests."""
    found = {}
    for match in PROPERTIES.finditer(report):
        if match["arch"] == arch:
            found[re.sub(r"^_Z\w*?\d+(augment_\w+?_kernel).*", r"\1", match["name"])] = match
    assert sorted(found) == sorted(LIMITS)
    for name, match in found.items():
        assert int(match["stores"]) == int(match["loads"]) == 0, f"{name} spills: {match[0]}"
        assert int(match["stack"]) == 0, f"{name} keeps arrays in local memory: {match[0]}"
        assert int(match["registers"]) <= LIMITS[name], match[0]
        assert "smem" not in match["rest"], f"{name} has static shared memory: {match['rest']}"


def test_no_contraction(report: str, tmp_path: Path) -> None:
    """The build passes -fmad=false, so a product and a sum are rounded separately, as on the CPU."""
    setup = (ROOT / "setup.py").read_text()
    assert '"-fmad=false"' in setup
    source = tmp_path / "mad.cu"
    source.write_text("__global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }")
    for flag, fused in (("-fmad=false", False), ("-fmad=true", True)):
        command = [f"{HOME}/bin/nvcc", "-arch=sm_90", flag, "-ptx", str(source), "-o", str(tmp_path / "mad.ptx")]
        subprocess.run(command, check=True)
        assert ("fma.rn.f32" in (tmp_path / "mad.ptx").read_text()) == fused
