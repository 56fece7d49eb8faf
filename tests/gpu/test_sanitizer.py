"""Every kernel under NVIDIA's compute-sanitizer: no out-of-bounds access, no race in shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu import sanitize_cases

SHARES = 8
TOOL = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
sanitizer = pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not installed")
LIMIT_S = 240
REFUSED = "Device not supported"  # as under some virtual machines
SUBSTRINGS = {"loss": ("ntxent", "lse_", "softplus"), "augment": ("fastclr",)}
FOUND = 9  # exit status if the tool found something


def sanitized(tool: str, part: str, *options: str) -> str:
    """Run the cases of a part under a tool and return its output."""
    cases = Path(__file__).with_name("sanitize_cases.py")
    # in a memory pool, an access beyond the end of a tensor would hit the next one unnoticed
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [str(TOOL), "--tool", tool, "--error-exitcode", str(FOUND), *options]
    command += [sys.executable, str(cases), part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    said = done.stdout[-3000:] + done.stderr[-3000:]
    if REFUSED in said:
        pytest.skip(f"compute-sanitizer says: {REFUSED}")
    assert done.returncode == 0, said
    cases_run = re.search(r"^(\d+) cases of", done.stdout, re.M)
    assert cases_run and int(cases_run[1]) > 20, said
    return done.stdout + done.stderr


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("part", ["loss", "augment"])
def test_cases_without_the_tool(part: str, share: int) -> None:
    """The cases pass, and compile their kernels before a tool slows everything down."""
    cases = sanitize_cases.loss_cases("cuda") if part == "loss" else sanitize_cases.augment_cases("cuda")
    for _, call in list(cases)[share::SHARES]:
        call()


@sanitizer
@pytest.mark.slow
@pytest.mark.parametrize("part", ["loss", "augment"])
def test_no_access_out_of_bounds(part: str) -> None:
    assert "ERROR SUMMARY: 0 errors" in sanitized("memcheck", part, "--report-api-errors", "no")


@sanitizer
@pytest.mark.slow
@pytest.mark.parametrize("part", ["loss", "augment"])
def test_no_race_in_shared_memory(part: str) -> None:
    # skips torch's own kernels if this version of the tool can
    known = subprocess.run([str(TOOL), "--help"], capture_output=True, text=True, check=False).stdout
    filters = [("--kernel-name", f"kernel_substring={ours}") for ours in SUBSTRINGS[part]]
    for ours in filters if "--kernel-name" in known else [()]:
        assert "RACECHECK SUMMARY: 0 hazards" in sanitized("racecheck", part, *ours)


@sanitizer
@pytest.mark.slow
def test_the_tool_finds_a_planted_error(tmp_path: Path) -> None:
    """Guards the tests above: they would be worthless on a machine whose sanitizer detects nothing."""
    script = tmp_path / "planted.py"
    script.write_text(
        "import torch, triton, triton.language as tl\n"
        "@triton.jit\n"
        "def beyond(x):\n"
        "    tl.store(x + tl.arange(0, 1024), tl.zeros([1024], tl.float32))\n"
        "x = torch.empty(256, device='cuda')\n"
        "beyond[(1,)](x)\n"
        "torch.cuda.synchronize()\n"
    )
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [str(TOOL), "--tool", "memcheck", "--error-exitcode", str(FOUND), sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert "Invalid __global__ write" in done.stdout + done.stderr
