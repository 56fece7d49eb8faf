"""Kernels compiled ahead are those that a launch on a GPU looks for; the archive holds what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import compiled_ahead
import gpu_cases
import gpu_day
import gpu_kit
import pytest
import torch

from fastclr.kernels.tile_table import for_rows, split_columns, table_tiles

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
FEW = ["NT-Xent rows, N 131, D 128, bf16"]

# Triton's own way to name a launch before it happens: stand-ins of tensors, and a driver that tells the target
WARMUP = """
import json, torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor
from fastclr.kernels.ntxent_forward import ntxent_fwd_kernel
from fastclr.kernels.tile_table import for_rows, table_tiles

class Driver:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

found = []
triton.knobs.compilation.listener = lambda *, cache_hit, **_: found.append(cache_hit)
triton.runtime.driver.set_active(Driver())
tile = for_rows(table_tiles(90, "half", 128).forward, 262)
half, single = MockTensor(torch.bfloat16), MockTensor(torch.float32)
splits = {split}
for width in (128, 120):
    ntxent_fwd_kernel.warmup(
        half, half, single, single, single, single, single, single, 131, 262, 0, {tiles},
        D=width, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_D=tile.block_d, PRECISION="ieee", IS_ONLINE=False,
        GUARDED=False, SPLIT=splits, num_warps=tile.num_warps, num_stages=tile.num_stages, grid=(1,),
    )
print(json.dumps(found))
"""


def script(text: str, **variables: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "publish")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    (folder / "site" / "fastclr" / "__pycache__").mkdir(parents=True)
    (folder / "site" / "fastclr" / "__init__.py").write_text("")
    (folder / "site" / "fastclr" / "__pycache__" / "x.pyc").write_text("")
    arguments = ["--site", str(folder / "site"), "--out", str(folder / "kit.tar.xz"), "--jobs", "1", "--names", *FEW]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert gpu_kit.main(arguments) == 0
    return folder / "kit.tar.xz"


def test_the_archive_holds_machine_code_and_descriptions_alone(archive: Path) -> None:
    with tarfile.open(archive) as file:
        names = file.getnames()
        kit = json.load(file.extractfile("kit.json"))  # type: ignore[arg-type]
    assert {Path(name).suffix for name in names if name.startswith("triton/") and "." in name} <= {
        ".cubin",
        ".json",
        ".so",
    }
    assert "site/fastclr/__init__.py" in names and not any("__pycache__" in name for name in names)
    kernels = sum(name.endswith(".cubin") for name in names)
    assert kit["kernels"] == kit["found_again"] == kernels >= 4
    assert (kit["failed"], kit["target"]) == ({}, "cuda:90")


def test_a_launch_by_tritons_own_rules_finds_the_kernel(archive: Path, tmp_path: Path) -> None:
    """In a fresh process and another folder; with other features it does not."""
    gpu_day.unpack(archive, tmp_path / "kit")
    tile = for_rows(table_tiles(90, "half", 128).forward, 262)
    rows = 2 * -(-131 // tile.block_m)
    splits, per_split = split_columns(torch.device("cuda"), tile, rows, 262, None, sms=132)
    cache = str(tmp_path / "kit" / "triton")
    text = WARMUP.replace("{split}", str(splits > 1)).replace("{tiles}", str(per_split))
    assert json.loads(script(text, TRITON_CACHE_DIR=cache)) == [True, False]


def test_kit_is_unpacked_once(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    first = gpu_day.unpack(archive, folder)
    (folder / "mark").write_text("")
    assert gpu_day.unpack(archive, folder) == first and (folder / "mark").exists()
    other = tmp_path / "other.tar.xz"
    with tarfile.open(other, "w:xz") as file:
        file.add(folder / "kit.json", "kit.json")
    gpu_day.unpack(other, folder)
    assert not (folder / "mark").exists()
    environment = gpu_day.with_kit({"PYTHONPATH": "mine"}, folder, first)
    site, _, mine, peers = environment["PYTHONPATH"].split(os.pathsep)
    assert (site, mine, peers) == (str(folder / "site"), "mine", str(folder / "peers"))
    assert environment["TRITON_CACHE_DIR"] == str(folder / "triton")


def test_too_large_an_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts" / "peers").mkdir(parents=True)
    (tmp_path / "parts" / "peers" / "x").write_bytes(os.urandom(30_000))
    monkeypatch.setattr(gpu_kit, "MOST_MB", 0.02)
    with pytest.raises(RuntimeError, match=r"at most 0 are wanted; unpacked: peers 0\.0 MB"):
        gpu_kit.write_archive(tmp_path / "parts", tmp_path / "kit.tar.xz")


def test_packing_leaves_out_sources_and_names_files_relatively(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "KEY"
    entry.mkdir(parents=True)
    for name in ("f.cubin", "f.json", "f.ptx", "f.source"):
        (entry / name).write_text(name)
    (entry / "__grp__f.json").write_text(
        json.dumps({"child_paths": {n: f"/elsewhere/{n}" for n in ("f.cubin", "f.ptx")}})
    )
    (tmp_path / "cache" / "EMPTY").mkdir()
    assert compiled_ahead.pack(tmp_path / "cache", tmp_path / "packed") == 1
    compiled_ahead.place(tmp_path / "packed")
    packed = tmp_path / "packed" / "KEY"
    assert sorted(path.name for path in packed.iterdir()) == ["__grp__f.json", "f.cubin", "f.json"]
    paths = json.loads((packed / "__grp__f.json").read_text())["child_paths"]
    assert paths == {name: str(packed / name) for name in ("f.cubin", "f.json")}


def test_cases_name_each_loss_and_precision_once() -> None:
    names = [case.name for case in gpu_cases.cases()]
    assert len(names) == len(set(names))
    said = " ".join(names)
    for word in ("gluon", "tf32x3", "fp16", "CLIP", "SupCon", "DCL", "InfoNCE", "SigLIP", "triplet", "BLIP"):
        assert word in said
