"""Uses an installed wheel with its native code; run by a Python that does not see the source tree."""

import re
import sys
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
if not (host.loaded and cpu.loaded) or (cuda.path.exists() and torch.version.cuda and not cuda.loaded):
    raise SystemExit(f"the native code is missing: {host}, {cpu}, {cuda}")
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
images, ids = torch.arange(4 * 40 * 50 * 3).remainder(251).to(torch.uint8).view(4, 40, 50, 3), torch.arange(4)
config = fastclr.AugmentConfig(32)
views = [fastclr.SimCLRAugment(config, impl=impl)(images, ids, 0) for impl in ("native", "reference")]
torch.testing.assert_close(*views, rtol=0, atol=1e-4)
# what README shows for a loop of one's own, which needs torch alone
names = {"z0": torch.randn(8, 16, requires_grad=True), "z1": torch.randn(8, 16)}
snippets = re.findall(r"^```python\n(.*?)^```$", (here / "README.md").read_text(), re.M | re.S)
for snippet in [text for text in snippets if "fastclr.pretrain" not in text]:
    exec(snippet, names)
if names["z0"].grad is None:
    raise SystemExit("README's snippets computed no loss")
print("used", *sys.argv[1:])
