"""Deep and many-banded images through the three loaders, with the range that was used, its warnings and refusals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastclr.data import Order, load_splits, make_loader
from fastclr.data.loader_choice import has_dali
from fastclr.sources.reading import Reading

LOADERS = ["resident", "torch", pytest.param("dali", marks=pytest.mark.skipif(not has_dali(), reason="no DALI"))]
COUNT = 24


def scans(folder: Path, high: int = 4000) -> np.ndarray:
    """A folder of 16-bit grey PNGs of two classes; return their values."""
    values = np.random.default_rng(0).integers(200, high, (COUNT, 20, 22)).astype(np.uint16)
    for n, each in enumerate(values):
        path = folder / "ab"[n % 2] / f"{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return values


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.interp(values.astype(np.float64), [low, high], [0, 255]) + 0.5).astype(np.uint8)


def everything(splits: Any, **options: Any) -> dict[str, np.ndarray]:
    """All training images by name, through the loader."""
    loader = make_loader(splits.train, splits.loader, Order(5, shuffle=False, drop_last=False), workers=1, **options)
    names = dict(zip(splits.train.ids.tolist(), splits.train.names, strict=True))
    found = {}
    for batch in loader.epoch(0):
        for row, number in enumerate(batch.ids.tolist()):
            images = batch.images
            found[names[number]] = (images[row] if isinstance(images, torch.Tensor) else images.image(row)).numpy()
    loader.close()
    return found


@pytest.mark.parametrize("loader", LOADERS)
def test_a_range_in_all_loaders(tmp_path: Path, loader: Any) -> None:
    values = scans(tmp_path)
    splits = load_splits(tmp_path, loader=loader, range=(0, 4095), channels=1, holdout=0)
    found = everything(splits)
    assert len(found) == COUNT and splits.range == (0, 4095)
    for name, pixels in found.items():
        assert np.array_equal(pixels[..., 0], scaled(values[int(Path(name).stem)], 0, 4095))
    assert splits.scaling == "values from 0 to 4095 become 0 to 255 in images of more than 8 bits (--range)"


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("mixed", [False, True])
def test_bands_in_all_loaders(tmp_path: Path, loader: Any, mixed: bool) -> None:
    """Arrays of 13 bands, of one size and of several."""
    bands = {}
    for n in range(8):
        side = 10 + n * mixed
        bands[f"{n}.npy"] = np.random.default_rng(n).integers(0, 256, (side, 30, 13), dtype=np.uint8)
        np.save(tmp_path / f"{n}.npy", np.moveaxis(bands[f"{n}.npy"], -1, 0))
    splits = load_splits(tmp_path, loader=loader, channels=13)
    found = everything(splits)
    assert found.keys() == bands.keys() and all(np.array_equal(found[name], bands[name]) for name in bands)
    assert splits.train.nbytes == sum(each.size for each in bands.values())
    part = splits.train.select(torch.tensor([3, 1]))
    assert part.names == ("3.npy", "1.npy")


def test_auto_is_a_percentile_of_the_training_images(tmp_path: Path) -> None:
    """By NumPy on all pixels, of the split train only; deterministic, and used for the test images too."""
    values = scans(tmp_path / "train")
    bright = scans(tmp_path / "test", high=60000)
    splits = load_splits(tmp_path, range="auto", channels=1)
    low, high = (float(x) for x in np.percentile(values.astype(float), [0.1, 99.9]))
    assert splits.range == (low, high) and splits.test is not None
    assert "--range auto: percentiles 0.1 and 99.9 of 24 training images" in splits.scaling
    assert np.array_equal(everything(splits)["a/00.png"][..., 0], scaled(values[0], low, high))
    assert np.array_equal(splits.test.images[0, ..., 0].numpy(), scaled(bright[0], low, high))
    assert load_splits(tmp_path, range="auto", channels=1, loader="torch").range == splits.range
    apart = load_splits(tmp_path / "train", tmp_path / "test", range="auto", channels=1)
    assert apart.range == splits.range and torch.equal(apart.test.images, splits.test.images)
    held = load_splits(tmp_path / "train", range="auto", holdout=0.5)
    kept = [values[int(Path(name).stem)] for name in held.train.names]
    assert held.range == tuple(np.percentile(np.stack(kept).astype(float), [0.1, 99.9]))


def test_what_is_said_of_ranges(tmp_path: Path) -> None:
    little = r"22 of 22 sampled images .* a tenth of the range 0 .. 65535, such as 'a/00.png'.*--range auto"
    scans(tmp_path / "deep")
    with pytest.warns(
        RuntimeWarning,
        match=little,
    ):
        splits = load_splits(tmp_path / "deep")
    assert splits.scaling.startswith("values from 0 to 65535 become 0 to 255") and "the full range" in splits.scaling
    with pytest.warns(RuntimeWarning, match="--range file: .* brightness cannot be compared"):
        assert "(--range file)" in load_splits(tmp_path / "deep", range="file").scaling
    grey, one = tmp_path / "grey", tmp_path / "one"
    grey.mkdir()
    Image.new("L", (8, 8)).save(grey / "flat.png")
    with pytest.warns(RuntimeWarning, match="none of 1 sampled images .* more than 8 bits, so --range has no effect"):
        load_splits(grey, range=(0, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_splits(tmp_path / "deep", range=(0, 4095)).range == (0, 4095)
        assert load_splits("shapes").scaling == ""
    one.mkdir()
    np.save(one / "x.npy", np.full((4, 4), 9, np.uint16))
    with pytest.raises(ValueError, match=r"--range auto finds no range .* all 9; say --range LO HI"):
        load_splits(one, range="auto")


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_mixed_channels_are_refused_with_names(tmp_path: Path, loader: Any) -> None:
    for n in range(6):
        np.save(tmp_path / f"{n}.npy", np.zeros((20, 30, 4 if n != 3 else 5), np.uint8))
    with pytest.raises(ValueError, match=r"1 of 6 images .* other channels than the rest: '3.npy': .*5 channel"):
        load_splits(tmp_path, channels=4, loader=loader)
    with pytest.raises(ValueError, match=r"6 of 6 images .* cannot be read: '0.npy': .*--channels 4 reads it"):
        load_splits(tmp_path, loader=loader)


def test_the_cache_keeps_range_and_channels(tmp_path: Path) -> None:
    """A second start has the same images and says the same, and another range is another file."""
    store, source = tmp_path / "cache", tmp_path / "bands"
    source.mkdir()
    for n in range(4):
        np.save(source / f"{n}.npy", np.random.default_rng(n).integers(0, 900, (9 + n, 8, 5)).astype(np.uint16))
    first = load_splits(source, channels=5, range="auto", cache=store)
    again = load_splits(source, channels=5, range="auto", cache=store)
    assert (again.range, again.scaling) == (first.range, first.scaling) and again.range is not None
    assert torch.equal(again.train.images.data, first.train.images.data) and again.train.images.channels == 5
    other = load_splits(source, channels=5, range=(0, 100), cache=store)
    assert not torch.equal(other.train.images.data, first.train.images.data)
    assert len(list(store.glob("*.safetensors"))) == 2


def test_what_a_program_holds() -> None:
    """Arrays, tensors and datasets of other depths and numbers of channels."""
    values = np.random.default_rng(1).integers(0, 5000, (20, 9, 8, 6)).astype(np.uint16)
    low, high = (float(x) for x in np.percentile(values.astype(float), [0.1, 99.9]))
    for source in (values, torch.from_numpy(np.moveaxis(values, -1, 1).astype(np.int32)), list(values)):
        splits = load_splits(source, channels=6, range="auto")
        assert splits.range == (low, high)
        assert np.array_equal(splits.train.images.numpy(), scaled(values, low, high))
    grey = [Image.fromarray(each[..., 0]) for each in values]
    images = load_splits(grey, channels=1, range=(0, 5000)).train.images
    assert np.array_equal(images[..., 0].numpy(), scaled(values[..., 0], 0, 5000))
    with pytest.raises(ValueError, match=r"must have images of 4 channels, got shape .*--channels says how many"):
        load_splits(values.astype(np.uint8), channels=4)
    small = load_splits(values.astype(np.uint8), channels=6)
    assert np.array_equal(small.train.images.numpy(), values.astype(np.uint8))
    signed = np.random.default_rng(2).integers(-100, 100, (20, 9, 8, 3)).astype(np.int8)  # laid out as bytes are
    assert np.array_equal(load_splits(signed, range=(-100, 100)).train.images.numpy(), scaled(signed, -100, 100))


def test_options_are_checked() -> None:
    for value in ((5, 5), (0, float("nan")), "otsu", (1, 2, 3)):
        with pytest.raises(ValueError, match="range must be LO HI with LO below HI, auto, or file"):
            Reading(3, value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels must be 1 to 16, got 17"):
        Reading(17)
