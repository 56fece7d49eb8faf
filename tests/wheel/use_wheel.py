"""Uses an installed wheel with its native code; run by a Python that does not see the source tree."""

from pathlib import Path

import torch

import fastclr
import fastclr.kernels
from fastclr import NTXentLoss
from fastclr.augment import native

here = Path(__file__).resolve().parents[2]
if Path(fastclr.__file__).is_relative_to(here):
    raise SystemExit(f"the source tree answers instead: {fastclr.__file__}")
host, cpu, cuda = native.status()
if not (host.loaded and cpu.loaded):
    raise SystemExit(f"the native code is missing: {host}, {cpu}")
z0, z1 = torch.randn(2, 8, 16, dtype=torch.float64).unbind()
loss = NTXentLoss(temperature=0.1)(z0, z1)
z = torch.nn.functional.normalize(torch.cat([z0, z1]))
s = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
expected = torch.nn.functional.cross_entropy(s, torch.arange(16).roll(8))
torch.testing.assert_close(loss, expected)
single = NTXentLoss(temperature=0.1)(z0.float().requires_grad_(), z1.float())
torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)
avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
if single.grad_fn.name() != ("NativeNTXentBackward" if avx else "NTXentFunctionBackward"):
    raise SystemExit(f"the loss was computed by {single.grad_fn.name()}")
views = fastclr.SimCLRAugment(32)(torch.zeros(4, 40, 40, 3, dtype=torch.uint8), torch.arange(4), 0)
if views.shape != (2, 4, 3, 32, 32):
    raise SystemExit(f"views of shape {tuple(views.shape)}")
print("used")
