"""What `fastclr info` says of native code that is missing or does not fit, and how to mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastclr.augment import SimCLRAugment, native
from fastclr.cli import main
from fastclr.commands import info
from fastclr.commands.info import report

RECORD = {
    "targets": {"cuda": {"built": True, "reason": "nvcc 13.0 in cuda, torch 2.14.1+cu130", "remedy": ""}},
    "nvcc": "13.0",
    "archs": ["sm_80", "sm_90", "sm_100", "compute_100"],
}
CPU = native.LibraryStatus("cpu", Path("_C.so"), True, "built with g++", "")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package that was installed from a registry, with the record of its build and no library."""
    folder = tmp_path / "site-packages" / "fastclr"
    folder.mkdir(parents=True)
    monkeypatch.setattr(native, "PACKAGE", folder)
    monkeypatch.setattr(native, "installed_from", lambda: ("0.1.0", None))
    write(folder, {})
    return folder


def write(folder: Path, targets: dict[str, Any], **changes: Any) -> None:
    (folder / "_build.json").write_text(json.dumps(RECORD | {"targets": RECORD["targets"] | targets} | changes))


def test_not_built(package: Path) -> None:
    """What comes first, and then a command that installs from where this package came: no source tree is here."""
    write(package, {"cpu": {"built": False, "reason": "FASTCLR_BUILD=0", "remedy": "unset FASTCLR_BUILD"}})
    found = native._load("cpu", "_C.so")
    assert not found.loaded and found.reason == "not built: FASTCLR_BUILD=0"
    assert found.remedy.startswith("unset FASTCLR_BUILD, then pip install ")
    assert found.remedy.endswith(" --no-binary fastclr fastclr==0.1.0")


def test_no_compiler(package: Path) -> None:
    """The record of a machine without one, which can install with FASTCLR_BUILD=0 alone."""
    lacking = {"built": False, "reason": "no C++ compiler found", "remedy": "install g++ or set CXX"}
    write(package, {"cpu": lacking, "cuda": lacking})
    cpu = native._load("cpu", "_C.so")
    assert cpu.remedy.startswith("install g++ or set CXX, then pip install ")
    cuda = native._load_cuda(cpu)
    assert not cuda.loaded and "no C++ compiler" in cuda.reason and cuda.remedy == cpu.remedy


def test_another_python(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of other versions are there, this one's is not."""
    for version in ("310", "312"):
        (package / f"_host.cpython-{version}-x86_64-linux-gnu.so").touch()
    monkeypatch.setitem(sys.modules, "fastclr._host", None)
    found = native._host()
    assert not found.loaded and found.remedy.startswith("pip install ")
    assert "built for cpython-310-x86_64-linux-gnu, cpython-312-x86_64-linux-gnu, cannot" in found.reason
    assert native.platform.python_version() in found.reason


def test_torch_for_another_cuda(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library loads, since its runtime is inside; the driver must know CUDA 13."""
    (package / "_C_cuda.so").touch()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(native, "lacking", lambda target: [])
    found = native._load_cuda(CPU)
    assert found.loaded and not found.remedy
    assert found.reason.endswith("for sm_80, sm_90, sm_100, newer than sm_100, driver 580 or newer")
    write(package, {}, nvcc="12.8", archs=["sm_90"])
    assert native._load_cuda(CPU).reason.endswith("for sm_90, driver 525 or newer")


@pytest.mark.parametrize(("hip", "reason", "remedy"), [("7.1", "build for ROCm", ""), (None, "not a CUDA", "CUDA")])
def test_torch_without_cuda(
    hip: str | None, reason: str, remedy: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody with an AMD GPU is told to install a torch for NVIDIA's."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", hip)
    found = native._load_cuda(CPU)
    assert not found.loaded and reason in found.reason
    assert remedy in found.remedy and bool(remedy) == bool(found.remedy)


@pytest.mark.parametrize("found", [False, True])
def test_info_on_rocm(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its triton has another name, and PyPI's would take its place."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.1")
    monkeypatch.setattr(native, "_CUDA", native._load_cuda(CPU))
    monkeypatch.setattr(info, "TRITON_FOUND", found)
    monkeypatch.setattr(info, "package_versions", lambda: {"torch": "2.14.1+rocm7.1"})
    text = report()
    assert "fastclr[triton]" not in text and "CPU build" not in text and "CUDA build" not in text
    assert "cuda    none: this torch is a build for ROCm" in text and "is a build for ROCm, whose tensors" in text
    said = "as torch's build for ROCm brings it" if found else "not found: torch's builds for ROCm bring it"
    assert f"triton                {said}" in text


def test_no_compiler_for_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6 compiles what launches a kernel, newer ones bring it; a wheel needs no compiler else."""
    driver = tmp_path / "backends" / "nvidia" / "driver.py"
    driver.parent.mkdir(parents=True)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(info, "find_spec", lambda name: spec)
    monkeypatch.setattr(info, "TRITON_FOUND", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    for text, path, said in (
        ("mod = compile_module_from_src(src)", "", "finds no C compiler: install gcc or set CC"),
        ("mod = compile_module_from_src(src)", str(tmp_path), "triton"),
        ("mod = native_launcher()", "", "triton"),
    ):
        driver.write_text(text)
        (tmp_path / "gcc").touch(mode=0o755)
        monkeypatch.setenv("PATH", path)
        assert info.implementations()[1].endswith(said), (text, path)


def test_old_torch(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "_C.so").touch()
    monkeypatch.setattr(torch, "__version__", "2.10.0+cu128")
    found = native._load("cpu", "_C.so")
    assert (found.loaded, found.remedy) == (False, "pip install 'torch>=2.11'")
    assert found.reason == "built for torch 2.11 and newer, this is torch 2.10.0+cu128"


def test_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom fastclr.cli import main; sys.exit(main(['info']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.endswith("install it with: pip install torch\n"), done.stderr


def test_info_prints_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(package, {"cpu": {"built": False, "reason": "FASTCLR_BUILD=0", "remedy": "unset FASTCLR_BUILD"}})
    monkeypatch.setattr(native, "_CPU", native._load("cpu", "_C.so"))
    text = report()
    assert "cpu     NO  not built: FASTCLR_BUILD=0" in text
    assert "fix it with: unset FASTCLR_BUILD, then pip install --force-reinstall" in text
    assert main(["info"]) == 0


def test_a_library_of_an_older_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one at hand has not the operators of the future, and those of today without an argument of the future."""
    if not native.kernels("cpu").loaded:
        pytest.fail(f"the library for the CPU is needed: {native.kernels('cpu').reason}")
    assert native._load("cpu", "_C.so").loaded
    schema = native.SCHEMAS["augment_params"]
    for name, changed in (
        ("augment_next", schema),
        ("augment_params", schema.replace("int seed", "int seed, int key")),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(native.SCHEMAS, name, changed)
            found = native._load("cpu", "_C.so")
            assert not found.loaded and found.reason.endswith(f"not or otherwise: {name}")
            assert found.remedy.startswith("pip install ")
            patch.setattr(native, "_CPU", found)
            assert f"cpu     NO  {found.reason}" in report()
            assert not SimCLRAugment.supports("cpu")
    monkeypatch.setattr(native, "CPU_ONLY", ("ntxent_cpu", "ntxent_next"))
    assert native.lacking("cpu") == ["ntxent_next"]
