"""`embed` through each loader: the same bits, those of an independent computation, and no image counted twice."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import stored_run
from PIL import Image
from torch.nn import functional as F

import fastclr.transfer.embed
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.open_source import open_source
from fastclr.training.run import Run
from fastclr.transfer.embed import embed
from fastclr.transfer.feature_file import FeatureFile, read_features

LOADERS = ("resident", "torch", "dali")
CUT = ("c/04.png", "c/09.png")  # their headers are whole: a loader finds out while it decodes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return stored_run(tmp_path / "run", "resnet18", 40, width=0.125)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 lossless images of many sizes in two classes."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / "cd"[number % 2] / f"{number // 2:02d}.{('png', 'bmp', 'tiff')[number % 3]}"
        path = path.with_suffix(".png") if number < 20 else path
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(30, 90, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def embedded(run: Run, source: Path, out: Path, loader: str, **more: int) -> FeatureFile:
    embed(run, source, out, batch_size=16, device="cpu", loader=loader, **more)  # type: ignore[arg-type]
    return read_features(out)


def check_equal(tables: list[FeatureFile]) -> None:
    first = tables[0]
    for other in tables[1:]:
        np.testing.assert_array_equal(first.features, other.features)
        for name in ("ids", "names", "labels"):
            assert getattr(first, name).tolist() == getattr(other, name).tolist()
        settings = [{**table.settings, "contents": "where they lie"} for table in (first, other)]
        assert (first.classes, settings[0], first.skipped) == (other.classes, settings[1], other.skipped)


def by_hand(run: Run, path: Path) -> torch.Tensor:
    """Features as the protocol states them: centre square of 87.5% of the shorter side, resized with antialiasing."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].double()
    height, width = pixels.shape[-2:]
    side = round(0.875 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    view = F.interpolate(square, size=(40, 40), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))
    with torch.no_grad():
        features: torch.Tensor = run.load_encoder().double().eval()((view / 255 - mean) / std)[0]
    return features


def test_all_loaders_write_the_same_bits_which_are_the_protocols(run: Run, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photos, ".")
    tables = [embedded(run, photos, tmp_path / f"{loader}.npz", loader, workers=2) for loader in LOADERS]
    tables += [embedded(run, tmp_path / "photos.tar", tmp_path / f"{loader}.parquet", loader) for loader in LOADERS]
    check_equal(tables)
    table = tables[0]
    paths = sorted(str(path.relative_to(photos)) for path in photos.glob("?/*"))
    assert table.names.tolist() == paths and table.ids.tolist() == list(range(60)) and table.classes == ("c", "d")
    assert table.labels.tolist() == ["cd".index(path[0]) for path in paths]
    for row in (0, 7, 31, 59):
        np.testing.assert_allclose(table.features[row], by_hand(run, photos / paths[row]).numpy(), rtol=1e-3, atol=1e-3)


def test_the_image_that_stands_in_for_an_unreadable_one_counts_once(run: Run, photos: Path, tmp_path: Path) -> None:
    for name in CUT:
        path = photos / name
        path.write_bytes(path.read_bytes()[:-400])
    (photos / "d" / "00.png").write_bytes(b"no picture")  # found before any loader runs
    tables = []
    for loader in LOADERS:
        done = embed(run, photos, tmp_path / f"{loader}.npz", batch_size=16, device="cpu", loader=loader)
        assert done is not None and done.images == 57
        tables.append(read_features(tmp_path / f"{loader}.npz"))
    check_equal(tables)
    assert sorted(name for name, _ in tables[0].skipped) == [*CUT, "d/00.png"]
    assert len(set(tables[0].ids.tolist())) == 57
    for name in (*CUT, "d/00.png"):
        (photos / name).unlink()
    alone = embedded(run, photos, tmp_path / "alone.npz", "torch")
    np.testing.assert_allclose(alone.features, tables[0].features, atol=1e-5)
    assert alone.names.tolist() == tables[0].names.tolist()


def test_what_memory_cannot_hold_at_once_is_decoded_in_several_passes(run: Run, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:  # no random access
        archive.add(photos, ".")
    options, cpu = DecodeOptions(memory_limit=400_000), torch.device("cpu")
    sets = [
        images for images, _ in open_source(tmp_path / "photos.tar.gz").load_listed("all", "resident", options, cpu)
    ]
    assert len(sets) > 2 and all(images.nbytes <= 400_000 for images in sets)
    assert torch.cat([images.ids for images in sets]).tolist() == list(range(60))
    whole = embedded(run, photos, tmp_path / "whole.npz", "resident")
    parts = embedded(run, tmp_path / "photos.tar.gz", tmp_path / "parts.npz", "resident", memory_limit=400_000)
    check_equal([whole, parts])


def test_batches_of_large_images_are_smaller(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    collect = fastclr.transfer.embed.collect

    def counting(module, batches, augment, autocast):  # type: ignore[no-untyped-def]
        seen.extend(len(batch) for batch in batches)
        return collect(module, batches, augment, autocast)

    monkeypatch.setattr(fastclr.transfer.embed, "collect", counting)
    monkeypatch.setattr(fastclr.transfer.embed, "BATCH_BYTES", 60_000)
    embedded(run, photos, tmp_path / "f.npz", "torch", workers=0)
    assert sum(seen) == 60 and max(seen) < 10
