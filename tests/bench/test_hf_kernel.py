"""The generated kernel package computes the losses under any name, without fastclr and beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hf_kernel
import pytest

ROOT = Path(__file__).resolve().parents[2]

# as `kernels` loads a package: from its folder, under a name that it makes up
LOAD = """
import importlib.util, json, sys
import torch
from torch.nn import functional

{first}
spec = importlib.util.spec_from_file_location("made_up_name", {path!r})
losses = importlib.util.module_from_spec(spec)
sys.modules["made_up_name"] = losses
spec.loader.exec_module(losses)

torch.manual_seed(0)
a, b = (torch.randn(9, 12, dtype={dtype}, requires_grad=True) for _ in range(2))

def plain(a, b):
    z = functional.normalize(torch.cat([a, b]), dim=1)
    s = (z @ z.T / 0.2).masked_fill(torch.eye(18, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(s, torch.arange(18).roll(9))

def siglip(a, b):
    s = 10 * functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T - 10
    return -functional.logsigmoid(s * (2 * torch.eye(9) - 1)).sum() / 9

def clip(a, b):
    s = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T / 0.2
    return (functional.cross_entropy(s, torch.arange(9)) + functional.cross_entropy(s.T, torch.arange(9))) / 2

for loss_of, truth in (
    (losses.NTXentLoss(0.2{options}), plain),
    (losses.CLIPLoss(0.2{options}), clip),
    (losses.SigLIPLoss({only}), siglip),
):
    found, expected = loss_of(a, b), truth(a.double(), b.double())
    assert abs(found.item() - expected.item()) < 1e-5, (type(loss_of).__name__, found.item(), expected.item())
    for mine, true in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(mine.double(), true.double(), rtol=1e-4, atol=1e-6)
print(json.dumps([name for name in sys.modules if name.partition(".")[0] == "fastclr" and sys.modules[name]]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    assert hf_kernel.main([str(folder)]) == 0
    return folder / "build" / "torch-universal" / hf_kernel.NAME / "__init__.py"


def loaded(package: Path, first: str, dtype: str = "torch.float32", impl: str = "", **variables: str) -> list[str]:
    only = f"impl={impl!r}" if impl else ""
    text = LOAD.format(first=first, path=str(package), dtype=dtype, options=f", {only}" if only else "", only=only)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_without_fastclr(package: Path) -> None:
    assert loaded(package, "sys.modules['fastclr'] = None", dtype="torch.float64") == []


def test_its_triton_kernels(package: Path) -> None:
    pytest.importorskip("triton")
    assert loaded(package, "sys.modules['fastclr'] = None", impl="triton", TRITON_INTERPRET="1") == []


def test_beside_fastclr(package: Path) -> None:
    assert "fastclr.losses.nt_xent" in loaded(package, "import fastclr.losses", PYTHONPATH=str(ROOT))


def test_layout(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As their builder documents it; both copies are one."""
    folder = package.parents[3]
    config = (folder / "build.toml").read_text()
    assert 'name = "fastclr-losses"' in config and "[torch-noarch]" in config and "version = 1" in config
    source = folder / "torch-ext" / hf_kernel.NAME
    files = sorted(path.relative_to(source) for path in source.rglob("*.py"))
    assert files == sorted(path.relative_to(package.parent) for path in package.parent.rglob("*.py"))
    assert "tune.py" not in {path.name for path in files}
    card = (folder / "CARD.md").read_text()
    assert "`NTXentLoss`" in card and card.startswith("---\nlibrary_name: kernels")
    assert hf_kernel.main([str(folder), "--version", "2"]) == 0
    assert "version = 2" in (folder / "build.toml").read_text()
    (tmp_path / "mine").write_text("")
    assert hf_kernel.main([str(tmp_path)]) == 2
    assert "holds files of something else" in capsys.readouterr().err and (tmp_path / "mine").exists()


def test_an_import_that_stays_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"cannot be made relative: import fastclr\.losses"):
        hf_kernel.rewritten("import fastclr.losses\n", 1)
    assert hf_kernel.rewritten("    from fastclr.losses.x import y\n", 1) == "    from ..losses.x import y\n"
    assert hf_kernel.rewritten("from fastclr.device import y\n", 0) == "from .device import y\n"
