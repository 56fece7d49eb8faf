"""The contact sheet shows the views that training would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.contact_sheet import contact_sheet
from fastclr.cli import main
from fastclr.data import make_shapes


def files(folder: Path) -> list[Path]:
    """Two image files of different sizes."""
    random = np.random.default_rng(0)
    paths = []
    for name, shape in (("a.png", (40, 50, 3)), ("b.png", (30, 30, 3))):
        paths.append(folder / name)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


def test_augment_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row i: image i as in evaluation, then views 0, 1, ... of id i with the options' seed and epoch."""
    paths, out = files(tmp_path), tmp_path / "sheet.png"
    options = ["--out", str(out), "--views", "3", "--size", "32", "--seed", "4", "--epoch", "5", "--blur-p", "1.0"]
    assert main(["augment-grid", *map(str, paths), *options, "--show-params"]) == 0
    printed = capsys.readouterr().out
    assert "AugmentParams(views=3, images=2" in printed
    assert str(out) in printed
    sheet = torch.from_numpy(np.array(Image.open(out)))
    assert sheet.shape == (2 * 36 - 4, 4 * 36 - 4, 3)
    augment = SimCLRAugment(AugmentConfig(32, blur_p=1.0), views=3, seed=4, dtype=torch.uint8)
    for i, path in enumerate(paths):
        image = torch.from_numpy(np.array(Image.open(path)))[None]
        for v, view in enumerate(augment(image, torch.tensor([i]), 5)):
            tile = sheet[i * 36 : i * 36 + 32, (v + 1) * 36 : (v + 1) * 36 + 32]
            assert torch.equal(tile, view[0].permute(1, 2, 0))
    assert (sheet[32:36] == 255).all()


def test_first_tile_is_the_whole_image() -> None:
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    sheet, _ = contact_sheet([image], AugmentConfig(32, mean=(0.5,) * 3, std=(0.5,) * 3), views=1)
    assert torch.equal(sheet[:, :32], image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.png"], "missing.png"),
        (["--out", "grid.jpg"], "--out must end with .png, got grid.jpg"),
        (["--out", "nowhere/grid.png"], "--out is in a folder that does not exist"),
        (["--style", "pil"], "style must be 'torchvision' or 'simclr_tf'"),
        (["--views", "0"], "views must be 1 to 65536, got 0"),
    ],
)
def test_augment_grid_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    """One line and status 2, before anything is written."""
    monkeypatch.chdir(tmp_path)
    paths = [path.name for path in files(tmp_path)]
    assert main(["augment-grid", *paths, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("style", ["torchvision", "simclr_tf"])
def test_sheets_of_the_documentation(style: str) -> None:
    """The images in docs/ match the code within 1/255, since compilers may order a sum differently."""
    path = Path(__file__).resolve().parents[2] / "docs" / f"augment-{style}.png"
    if not path.exists():
        pytest.skip("the documentation is not in this tree")
    images = list(make_shapes(train=40, test=40, size=160).train.images[:2])
    sheet, _ = contact_sheet(images, AugmentConfig(96, style=style), views=8)
    shown = np.array(Image.open(path)).astype(int)
    assert shown.shape == sheet.shape
    assert np.abs(shown - sheet.numpy()).max() <= 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augment-grid", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--crop-scale" in text and "--style" in text and "(default: 8)" in text
