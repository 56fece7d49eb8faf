"""The whole path of impl="triton", operators and kernels, in Triton's interpreter, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = """
import itertools, torch
from loss_cases import make_views, relative_error
from fastclr import nt_xent
from fastclr.losses import contrast_op
from fastclr.losses.contrast_reference import nt_xent as reference
from fastclr.losses.contrast_reference import nt_xent_stats

z0, z1 = (z.requires_grad_() for z in make_views("far", 19, 12))
tau = torch.tensor(0.2, requires_grad=True)
for temperature, normalize, reduction, deterministic in itertools.product(
    (tau, 0.2, -0.3, 0.004), (True, False), ("mean", "none"), (False, True)
):
    leaves = [z0, z1] + ([tau] if temperature is tau else [])
    options = {"normalize": normalize, "reduction": reduction}
    # without normalisation the similarities would be those of a temperature a hundred times smaller
    scale = 1 if normalize else 20
    inputs, exact_inputs = [[z / scale for z in (a, b)] for a, b in ((z0, z1), (z0.double(), z1.double()))]
    loss = nt_xent(*inputs, temperature, impl="triton", deterministic=deterministic, **options)
    exact_tau = temperature.double() if temperature is tau else temperature
    exact = reference(*exact_inputs, exact_tau, **options)
    weight = torch.linspace(1, 2, loss.numel()).view_as(loss)
    grads = torch.autograd.grad(loss, leaves, weight)
    truths = torch.autograd.grad(exact, leaves, weight.double())
    assert relative_error(loss.detach(), exact.detach()) < 1e-5, options
    for grad, truth in zip(grads, truths):
        assert relative_error(grad, truth) < 3e-4, (temperature, options)

loss, stats = nt_xent(z0, z1, 0.2, impl="triton", return_stats=True)
correct, entropy = nt_xent_stats(z0, z1, 0.2)
torch.testing.assert_close(stats.accuracy, correct)
torch.testing.assert_close(stats.entropy, entropy, rtol=1e-4, atol=1e-5)

for dtype, precision in ((torch.float32, "ieee"), (torch.float16, "ieee"), (torch.float32, "bf16")):
    a, b = (z.detach().to(dtype) for z in (z0, z1))
    tau = torch.tensor(0.2)
    prologue = (a, b, True, precision, "triton")
    z, inv_norm, positive = contrast_op.ntxent_prologue(*prologue)
    forward = (z, z, positive, tau, 0, "fixed", precision, True, True, "triton")
    loss, lse, *_ = contrast_op.ntxent_fwd(*forward)
    rest = (None, torch.ones(()), tau, 0, True, "fixed", precision, "triton")
    backward = (a, b, z, z, inv_norm, positive, loss, lse, *rest)
    for operator, arguments in (
        (contrast_op.ntxent_prologue, prologue), (contrast_op.ntxent_fwd, forward), (contrast_op.ntxent_bwd, backward)
    ):
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_whole_path_in_the_interpreter() -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
