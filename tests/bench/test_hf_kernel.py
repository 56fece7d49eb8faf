"""The generated kernel package computes the losses under any name, without fastclr and beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import hf_kernel
import pytest

ROOT = Path(__file__).resolve().parents[2]

# as `kernels` loads a package: from its folder, under a name that it makes up
FROM_FILE = """
import importlib.util
spec = importlib.util.spec_from_file_location({name!r}, {path!r})
losses = importlib.util.module_from_spec(spec)
sys.modules[{name!r}] = losses
spec.loader.exec_module(losses)
"""
# what `kernels` does itself, with a network that is not there
FROM_KERNELS = """
import socket
socket.socket.connect = None
from pathlib import Path
from kernels import get_local_kernel, get_loaded_kernels
losses = get_local_kernel(Path({path!r}), backend={backend!r})
(loaded,) = get_loaded_kernels()
assert (loaded.metadata.version, loaded.metadata.name.python_name) == (1, "fastclr_losses")
"""
COMPUTE = """
import json
import torch
from torch.nn import functional

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
ALONE = "import sys\nsys.modules['fastclr'] = None\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    assert hf_kernel.main([str(folder)]) == 0
    return folder


def from_file(folder: Path, backend: str = "cpu", name: str = "made_up_name", below: str = "") -> str:
    path = folder / "build" / f"torch-{backend}" / below / "__init__.py"
    return FROM_FILE.format(path=str(path), name=name)


def computed(code: str, dtype: str = "torch.float32", impl: str = "", **variables: str) -> list[str]:
    """Load a package with `code`, compare its losses with formulas; return the modules of fastclr that are loaded."""
    only = f"impl={impl!r}" if impl else ""
    text = code + COMPUTE.format(dtype=dtype, options=f", {only}" if only else "", only=only)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment,
        cwd=Path(hf_kernel.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_without_fastclr(folder: Path) -> None:
    assert computed(ALONE + from_file(folder), dtype="torch.float64") == []


def test_its_triton_kernels(folder: Path) -> None:
    pytest.importorskip("triton")
    assert computed(ALONE + from_file(folder, "cuda"), impl="triton", TRITON_INTERPRET="1") == []


def test_beside_fastclr_and_another_build(folder: Path) -> None:
    """Each has a namespace of its own for its operators; the last is found where older versions of `kernels` look."""
    first = "import sys\nimport fastclr.losses\n" + from_file(folder, "cuda", "other_name")
    last = from_file(folder, below=hf_kernel.NAME)
    assert "fastclr.losses.nt_xent" in computed(first + last, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("backend", ["cpu", None])
def test_their_package_loads_it(folder: Path, backend: str | None) -> None:
    """On a CPU, and by what torch is built for."""
    try:  # the folder of that name in this tree is no answer
        metadata.version("kernels")
    except metadata.PackageNotFoundError:
        pytest.skip("the package `kernels` is not installed")
    code = ALONE + FROM_KERNELS.format(path=str(folder), backend=backend)
    assert computed(code, HF_HUB_OFFLINE="1", PYTHONPATH="") == []


def test_layout(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As their builder documents it: the builds are the sources with a namespace, and hashes of all files."""
    config = (folder / "build.toml").read_text()
    assert 'name = "fastclr-losses"' in config and "[torch-noarch]" in config and "version = 1" in config
    source, names = folder / "torch-ext" / hf_kernel.NAME, set()
    files = sorted(path.relative_to(source) for path in source.rglob("*.py"))
    assert "tune.py" not in {path.name for path in files}
    for backend in re.findall(r'"(\w+)"', re.findall("backends = .*", config)[0]):
        build = folder / "build" / f"torch-{backend}"
        described = json.loads((build / "metadata.json").read_text())
        assert {path: (build / path).read_text() for path in files} == {p: (source / p).read_text() for p in files}
        hashes = {
            path.relative_to(build).as_posix(): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
            for path in build.rglob("*")
            if path.is_file() and path.name != "metadata.json"
        }
        assert described["digest"] == {"algorithm": "sha256", "files": hashes}
        assert described["backend"] == {"type": backend}
        assert f'"{described["id"]}::' in (build / "_ops.py").read_text()
        names.add(described["id"])
    assert len(names) == 4 and all(name.isidentifier() for name in names)
    card = (folder / "CARD.md").read_text()
    assert "`NTXentLoss`" in card and card.startswith("---\nlibrary_name: kernels")
    assert hf_kernel.main([str(tmp_path / "second"), "--version", "2"]) == 0
    assert "version = 2" in (tmp_path / "second" / "build.toml").read_text()
    (tmp_path / "mine").write_text("")
    assert hf_kernel.main([str(tmp_path)]) == 2
    assert "holds files of something else" in capsys.readouterr().err and (tmp_path / "mine").exists()


def test_what_stays_is_an_error() -> None:
    for text in ("import fastclr.losses\n", 'name = "fastclr::" + "x"\n'):
        with pytest.raises(ValueError, match="cannot be made relative: " + re.escape(text.strip())):
            hf_kernel.rewritten(text, 1)
    assert hf_kernel.rewritten("    from fastclr.losses.x import y\n", 1) == "    from ..losses.x import y\n"
    assert hf_kernel.rewritten("from fastclr.device import y\n", 0) == "from .device import y\n"
    text = hf_kernel.rewritten('import torch\nimpl(f"fastclr::{x}")\ny = torch.ops.fastclr.y.default\n', 1)
    assert text.splitlines()[1:] == [
        "from .._ops import add_op_namespace_prefix, ops",
        'impl(add_op_namespace_prefix(f"{x}"))',
        "y = ops.y.default",
    ]
