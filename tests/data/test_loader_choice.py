"""The choice of a loader: what fits stays in memory, the rest is streamed, and the reason has the numbers."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import pytest
import torch
from stream_cases import write_photos, write_tar

from fastclr.data import (
    ImageDataset,
    ImageIndex,
    Order,
    ResidentLoader,
    TorchLoader,
    load_splits,
    loader_choice,
    make_loader,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of 24 x 32 pixels: 23,040 bytes decoded."""
    return write_photos(tmp_path_factory.mktemp("photos") / "root", 10, "PNG", ragged=False)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with twice the memory that the images take."""
    monkeypatch.setattr("fastclr.data.decode_many.available_memory", lambda: 2 * 23_040)


def test_what_fits_is_resident(memory: None, photos: Path) -> None:
    """Half of the free memory may be used; the estimate takes the test images and the resizing into account."""
    splits = load_splits(photos, holdout=0.2)
    assert splits.loader == "resident" and isinstance(splits.train, ImageDataset)
    assert splits.reason == "the 10 images take about 2.3e-05 GB decoded, and 2.3e-05 GB of main memory may be used"
    assert load_splits(photos, memory_limit=23_039).loader != "resident"
    assert load_splits(photos, memory_limit=23_039, resize_shorter=23).loader == "resident"


@pytest.mark.parametrize(("installed", "expected"), [(True, "dali"), (False, "torch")])
def test_the_rest_is_streamed(
    installed: bool, expected: str, memory: None, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several processes on the machine each has its share; DALI is taken if it is installed."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(loader_choice, "has_dali", lambda: installed)
    monkeypatch.setattr("fastclr.data.decode_many.decode_image", None)  # nothing is decoded on the way
    splits = load_splits(photos)
    assert splits.loader == expected and isinstance(splits.train, ImageIndex) and isinstance(splits.test, ImageIndex)
    assert "1.15e-05 GB of main memory (shared by 2 processes) may be used; DALI is" in splits.reason


def test_cuda_memory_counts_too(memory: None, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images pass through main memory to the device, so both must have room."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 23_040, 10**12))
    assert load_splits(photos, device="cuda").loader == "resident"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 23_039, 10**12))
    splits = load_splits(photos, device="cuda:1")
    assert splits.loader != "resident" and "of cuda:1's memory may be used" in splits.reason
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    assert load_splits(photos, device="cuda", memory_limit=100).loader != "resident"


@pytest.mark.parametrize("kind", ["resident", "dali", "torch"])
def test_what_is_asked_for(kind: str, photos: Path) -> None:
    """An explicit choice is taken, and said to be one."""
    splits = load_splits(photos, loader=kind)  # type: ignore[arg-type]
    assert splits.loader == kind and splits.reason == "it was asked for"
    assert isinstance(splits.train, ImageDataset if kind == "resident" else ImageIndex)


def test_has_dali_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package nvidia without DALI, or none at all, is no error."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not loader_choice.has_dali()
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert not loader_choice.has_dali()


def test_what_cannot_be_streamed(photos: Path, tmp_path: Path) -> None:
    """Pixels have no files to decode, and a compressed archive no random access."""
    with pytest.raises(ValueError, match="loader dali decodes files, but shapes holds pixels"):
        load_splits("shapes", loader="dali")
    assert load_splits("shapes").reason == "the images are decoded already"
    tree = {str(path.relative_to(photos)): path.read_bytes() for path in photos.rglob("*.png")}
    packed = write_tar(tmp_path / "photos.tar.gz", tree)
    with pytest.raises(ValueError, match=r"photos\.tar\.gz is compressed: .* unpack it, or keep all images in memory"):
        load_splits(packed, loader="torch")
    with pytest.raises(ValueError, match="is compressed"):
        load_splits(packed, memory_limit=100)
    disguised = Path(packed.rename(tmp_path / "photos.tar"))
    assert tarfile.is_tarfile(disguised)
    with pytest.raises(ValueError, match="is compressed"):
        load_splits(disguised, loader="torch")
    with pytest.raises(ValueError, match="loader must be one of auto, resident, dali, torch, got 'numpy'"):
        load_splits(photos, loader="numpy")  # type: ignore[arg-type]


def test_test_images_of_another_source(photos: Path) -> None:
    """The test set is streamed like the training set."""
    splits = load_splits(photos, photos, loader="torch")
    assert isinstance(splits.test, ImageIndex) and len(splits.test) == 10 and splits.test.classes == ("cat", "dog")


def test_make_loader(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images are served from memory whatever the kind; an index is not."""
    dataset, index = (load_splits(photos, loader=kind).train for kind in ("resident", "torch"))  # type: ignore[arg-type]
    for kind in ("auto", "resident", "dali", "torch"):
        assert isinstance(make_loader(dataset, kind, Order(4)), ResidentLoader)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is not decoded: load it with load_splits\(\.\.\., loader='resident'\)"):
        make_loader(index, "resident", Order(4))
    with pytest.raises(ValueError, match="loader must be one of"):
        make_loader(dataset, "other", Order(4))  # type: ignore[arg-type]
    monkeypatch.setattr("fastclr.data.loader.has_dali", lambda: False)
    loader = make_loader(index, "auto", Order(4, 5, rank=1, world_size=2), workers=0)
    assert isinstance(loader, TorchLoader)
    assert (loader.order, len(loader)) == (Order(4, 5, rank=1, world_size=2), 1)
