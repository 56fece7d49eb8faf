"""Resources of the CUDA kernels as nvcc compiled them: registers, spills, stack, shared memory. Needs no GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import fastclr
from fastclr._build_plan import DEFAULT_ARCHS, find_cuda_home, parse_archs

ROOT = Path(__file__).resolve().parents[2]
HOME = find_cuda_home({})
LIBRARY = Path(fastclr.__file__).with_name("_C_cuda.so")
TOOL = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
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
PROPERTIES = re.compile(r"Function _Z\w*?\d+(augment_\w+?_kernel)\w*:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@pytest.fixture(scope="module")
def report() -> dict[str, str]:
    """What `cuobjdump` says of every architecture in the library that was built."""
    command = [str(TOOL), "--dump-resource-usage", str(LIBRARY)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^arch = (\w+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.skipif(not LIBRARY.exists(), reason="the CUDA library is not built")
@pytest.mark.parametrize("arch", ARCHS)
def test_nvcc_resources(report: dict[str, str], arch: str) -> None:
    """No spills, no arrays in local memory, few registers, no static shared memory on top of what a launch requests."""
    found = {name: tuple(map(int, used)) for name, *used in PROPERTIES.findall(report[arch])}
    assert sorted(found) == sorted(LIMITS)
    reserved = 1024 if int(arch[3:]) >= 90 else 0  # by the system, of shared memory
    for name, (registers, *memory) in found.items():
        assert memory == [0, reserved, 0], f"{name} spills or has arrays in memory: stack, shared, local {memory}"
        assert registers <= LIMITS[name], name


@pytest.mark.skipif(HOME is None, reason="nvcc not found: set CUDA_HOME or install the toolkit in /usr/local/cuda")
def test_no_contraction(tmp_path: Path) -> None:
    """The build passes -fmad=false, so a product and a sum are rounded separately, as on the CPU."""
    setup = (ROOT / "setup.py").read_text()
    assert '"-fmad=false"' in setup
    source = tmp_path / "mad.cu"
    source.write_text("__global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }")
    for flag, fused in (("-fmad=false", False), ("-fmad=true", True)):
        command = [f"{HOME}/bin/nvcc", "-arch=sm_90", flag, "-ptx", str(source), "-o", str(tmp_path / "mad.ptx")]
        subprocess.run(command, check=True)
        assert ("fma.rn.f32" in (tmp_path / "mad.ptx").read_text()) == fused
