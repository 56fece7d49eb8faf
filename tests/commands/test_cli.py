from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from failing_commands import fails

from fastclr.cli import main

TINY = ["--width", "0.125", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--device", "cpu"]


def test_pretrain_then_knn_then_probe(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", "--preset", "demo", "--data", str(pictures), "--out", str(run), *TINY]) == 0
    assert str(run) in capsys.readouterr().out
    assert main(["knn", str(run), "--k", "5", "--device", "cpu"]) == 0
    assert main(["probe", str(run), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["knn"]["k"] == 5
    for name in ("knn", "probe-lbfgs"):
        assert f"{100 * results[name]['accuracy']:.2f}%" in out
    assert main(["pretrain", "--resume", str(run)]) == 0


@pytest.mark.parametrize("command", ["pretrain", "knn", "probe", "demo", "profile", "embed", "search", "report"])
def test_help_lists_every_option_with_its_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--device" in text and "(default:" in text
    if command in ("pretrain", "profile"):
        assert "--crop-scale" in text and "--checkpoint-every" in text


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--preset", "cifar10", "--help"]) == 0
    assert "(default: 512)" in capsys.readouterr().out


def test_no_command_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "pretrain" in capsys.readouterr().out
    assert "unknown command 'pretrian'" in fails(["pretrian"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain"], "--data PATH"),
        (["pretrain", "--preset", "cifar11"], "demo, cifar10, cifar10-short"),
        (["pretrain", "--data", "no/such/place"], "no/such/place"),
        (["pretrain", "--data", "shapes", "--temperature", "0"], "temperature must be"),
        (["pretrain", "--data", "shapes", "--device", "cuda:7"], "cuda:7"),
        (["pretrain", "--data", "shapes", "--device", "abacus"], "abacus"),
        (["pretrain", "--data", "shapes", "--batch-size", "100000"], "100000"),
        (["pretrain", "--resume", "no/such/run"], "no/such/run"),
        (["pretrain", "--resume", "a", "--preset", "demo"], "no/such|drop --preset"),
        (["knn", "no/such/run"], "no/such/run is not the folder of a run"),
        (["info", "--verbose"], "takes no options"),
        (["export", "no/such/run"], "no/such/run is not the folder of a run"),
        (["embed", "no/such/run", "shapes"], "no/such/run is not the folder of a run"),
        (["search", "no/such.npz", "3"], "no file of features at no/such.npz"),
        (["search", "features.txt", "3"], "ends in .npz or .parquet"),
        (["report", "no/such/run"], "no/such/run is not the folder of a run"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = fails(arguments, capsys)
    assert any(part in text for part in message.split("|")), text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []  # nothing was made


@pytest.mark.parametrize(
    "where",
    [["--data", "cifar10"], ["--data", "no/such/place"], ["--data", "shapes", "--test-data", "no/such/place"], []],
)
def test_images_that_are_not_there_are_not_said_to_be_read(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "reading" not in fails(["pretrain", *where], capsys)


def test_info_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__ in text and "native code" in text and "blockwise" in text


FRESH = """
import sys
import fastclr
fastclr.NTXentLoss, fastclr.nt_xent, fastclr.SimCLRAugment, fastclr.AugmentConfig
import torch
heavy = {"triton", "torchvision", "timm", "sklearn", "matplotlib", "nvidia.dali", "tyro", "PIL"} & set(sys.modules)
assert not heavy, heavy
assert not torch.cuda.is_initialized()
import fastclr.training.loop
assert not {"matplotlib", "jinja2"} & set(sys.modules)
"""


def test_import_is_light() -> None:
    subprocess.run([sys.executable, "-c", FRESH], check=True)


@pytest.mark.parametrize("package", ["tyro", "matplotlib"])  # the report is written last, but missed at once
def test_missing_packages_are_named_with_the_extra(package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from fastclr.cli import main; sys.exit(main(['pretrain']))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and package in result.stderr and "pip install 'fastclr[train]'" in result.stderr


def test_unlabelled_images_train_but_are_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    (tmp_path / "flat").mkdir()
    for index in range(8):
        Image.new("RGB", (40 + index, 40), (30 * index, 0, 0)).save(tmp_path / "flat" / f"{index}.png")
    run = tmp_path / "run"
    assert main(["pretrain", "--data", str(tmp_path / "flat"), "--out", str(run), *TINY[:6], "--batch-size", "4"]) == 0
    assert "label" in fails(["knn", str(run)], capsys)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_what_needs_no_torch_imports_none(arguments: list[str]) -> None:
    script = f"import sys; from fastclr.cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_listed_and_load_at_first_use() -> None:
    import fastclr

    assert {"NTXentLoss", "SimCLRAugment", "cached_step", "nt_xent"} <= set(dir(fastclr))
    for name in fastclr.__all__:
        assert getattr(fastclr, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'NTXenLoss'"):
        _ = fastclr.NTXenLoss
