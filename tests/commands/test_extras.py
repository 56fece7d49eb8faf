"""A plain installation computes losses and augmentation, and every command names the extra that it needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastclr.cli import COMMANDS
from fastclr.environment import PACKAGES
from fastclr.sources.packages import MODULES, remedy

ROOT = Path(__file__).resolve().parents[2]

PREPARE = """
import contextlib, io, json, sys
import plain_install
plain_install.see_{sight}()
{script}
"""
COMPUTE = """
import torch
from fastclr import AugmentConfig, NTXentLoss, SimCLRAugment, losses
from fastclr.augment import native
z0, z1 = torch.randn(2, 8, 16, requires_grad=True).unbind()
NTXentLoss(temperature=0.1)(z0, z1).backward()
images, ids = torch.arange(4 * 40 * 50 * 3).remainder(251).to(torch.uint8).view(4, 40, 50, 3), torch.arange(4)
for style in ("torchvision", "simclr_tf"):
    config = AugmentConfig(32, style=style, solarize_p=0.5)
    views = [SimCLRAugment(config, impl=impl)(images, ids, 0) for impl in ("auto", "reference")]
    torch.testing.assert_close(*views, rtol=0, atol=1e-4)
assert not {"torchvision", "triton", "tyro"} & set(sys.modules)
print("computed")
"""
COMMAND = """
from fastclr.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        answers.append([main(arguments), out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""
# after `pip install 'fastclr[train]'`: what is typed, in a folder with a picture, and the extra that it lacks
LACKING = {
    "data table.parquet": "export",
    "pretrain --data pictures --loader dali --batch-size 64 --out run": "dali",
    "pretrain --data shapes --tensorboard --out run": "logging",
    "pretrain --data shapes --method clip --captions auto --out run": "text",
    "data https://127.0.0.1:9/a.tar": "remote",
    "data scans": "scientific",
}


def run(sight: str, script: str, folder: Path, *arguments: str) -> str:
    """What a process prints that sees no other packages."""
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}\n{PREPARE.format(sight=sight, script=script)}"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plain_installation_computes_losses_and_augmentation(tmp_path: Path) -> None:
    assert run("plain", COMPUTE, tmp_path).strip() == "computed"


def test_every_command_of_a_plain_installation_names_its_extra(tmp_path: Path) -> None:
    answers: list[Any] = json.loads(run("plain", COMMAND, tmp_path, json.dumps([[name] for name in COMMANDS])))
    for name, (status, out, err) in zip(COMMANDS, answers, strict=True):
        if name == "info":
            assert status == 0 and "tyro                  not installed: pip install 'fastclr[train]'" in out
        else:
            assert status == 2 and re.fullmatch(r"fastclr: error: .*pip install 'fastclr\[train\]'\n", err), (name, err)


def test_commands_name_the_extra_of_what_they_were_asked_for(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "pictures").symlink_to(pictures)
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    answers = json.loads(run("train", COMMAND, tmp_path, json.dumps([line.split() for line in LACKING])))
    said = {line: err.splitlines()[-1] for line, (status, _, err) in zip(LACKING, answers, strict=True) if status == 2}
    assert {line: f"pip install 'fastclr[{extra}]'" in said[line] for line, extra in LACKING.items()} == dict.fromkeys(
        LACKING, True
    ), said


def test_the_names_of_the_extras_are_those_of_the_project() -> None:
    """By module, by package, and in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    declared = {
        line.partition(" = ")[0]: re.findall(r'"([\w.-]+)', line) for line in text.splitlines() if " = [" in line
    }
    assert set(declared) == {*MODULES, "all", "dev"}
    imported = {
        "scikit-learn": "sklearn",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "open_clip_torch": "open_clip",
        "nvidia-dali-cuda130": "nvidia",
    }
    for extra, modules in MODULES.items():
        packages = [imported.get(name, name.replace("-", "_")) for name in declared[extra] if name != "fastclr"]
        assert set(packages) == set(modules) - {"aiohttp"}, extra
        assert remedy(f"{modules[0]}.part") == f"pip install 'fastclr[{extra}]'"
    for package, extra in PACKAGES.items():
        assert extra == "fastclr" or package in declared[extra[len("fastclr[") : -1]]
    assert remedy("my_nets") is None
