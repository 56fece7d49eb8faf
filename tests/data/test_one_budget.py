"""One budget of bytes for pixels, decoding, batches and views: the same images in every loader, no surprise later."""

from __future__ import annotations

import io
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image
from stream_cases import encode, photo, write_photos, write_tar
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.data import ImageIndex, Loader, Order, Splits, load_splits, make_loader
from fastclr.data.decode_many import LEAST_IN_FLIGHT
from fastclr.data.loader_choice import has_dali
from fastclr.data.unreadable import TooMuchAheadError
from fastclr.evaluate import evaluation_batches, labelled_features
from fastclr.parallel import World
from fastclr.report.data_survey import survey
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig

KINDS = ["resident", "torch", *(["dali"] if has_dali() else [])]
CPU = torch.device("cpu")


def large(height: int, width: int, kind: str) -> bytes:
    """An image of one colour, which is small as a file."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (9, 8, 7)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images, and some that take more than 64 MiB: known from their first bytes, or from the whole file."""
    root = write_photos(tmp_path_factory.mktemp("mixed") / "root", 12)
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    jpeg = large(2500, 2500, "JPEG")
    (root / "cat" / "big.jpg").write_bytes(jpeg)
    (root / "cat" / "no end.jpg").write_bytes(jpeg[:-2])
    (root / "cat" / "late.jpg").write_bytes(jpeg[:2] + comment + jpeg[2:])
    (root / "dog" / "big.png").write_bytes(large(2500, 2500, "PNG"))
    (root / "dog" / "big.tif").write_bytes(large(2500, 2500, "TIFF"))
    (root / "dog" / "short.jpg").write_bytes(encode(photo(0, 50, 60), "JPEG")[:-2])
    return root


def found(path: Path, kind: str, resize: int | None = None) -> tuple[set[str], dict[str, str]]:
    """Return the images that a loader gave within the smallest budget there is, and those that it refused."""
    train = load_splits(path, holdout=0, loader=kind, memory_limit=LEAST_IN_FLIGHT, resize_shorter=resize).train  # type: ignore[arg-type]
    names = dict(zip(train.ids.tolist(), train.names, strict=True))
    with closing(make_loader(train, kind, Order(8, drop_last=False), workers=1)) as loader:  # type: ignore[arg-type]
        good = {names[i] for batch in loader.epoch(0) for i in batch.ids.tolist()}
        return good, dict(train.skipped) | dict(loader.skipped)


@pytest.mark.parametrize("packed", [False, True])
def test_images_that_are_too_large_are_refused_alike(packed: bool, mixed: Path, tmp_path: Path) -> None:
    """Loaders, `data` and an archive of the folder give the same names and the same reasons."""
    path = mixed
    if packed:
        tree = {str(file.relative_to(mixed)): file.read_bytes() for file in sorted(mixed.rglob("*.*"))}
        path = write_tar(tmp_path / "mixed.tar", tree)
    good, refused = found(path, "resident")
    assert len(good) == 12 and "truncated" in refused["dog/short.jpg"]
    big = {name for name, reason in refused.items() if reason.startswith("MemoryError: takes about ")}
    assert big == {"cat/big.jpg", "cat/no end.jpg", "cat/late.jpg", "dog/big.png", "dog/big.tif"}
    assert all("67 MB may be used" in refused[name] for name in big)
    for kind in KINDS[1:]:
        assert found(path, kind) == (good, refused)
    assert dict(survey(path, memory_limit=LEAST_IN_FLIGHT)[0].unreadable) == refused


def test_a_jpeg_that_is_reduced_takes_less(mixed: Path) -> None:
    """libjpeg decodes it at an eighth, and the pixels of a PNG are not kept: both are read, by every loader."""
    expected = found(mixed, "resident", 100)
    assert {name for name in expected[0] if "big" in name or "late" in name} == {
        "cat/big.jpg",
        "cat/late.jpg",
        "dog/big.png",
    }
    for kind in KINDS[1:]:
        assert found(mixed, kind, 100) == expected


def test_the_views_of_a_step_are_part_of_the_budget(tmp_path: Path) -> None:
    """Images are resident only if two batches and their views have room beside them."""
    root = write_photos(tmp_path / "root", 10, "PNG", ragged=False)  # 23,040 bytes decoded
    options = {"batch_size": 4, "view_bytes": 1000}
    needed = 23_040 + 4 * (2 * 2304 + 1000)
    splits = load_splits(root, memory_limit=needed, **options)  # type: ignore[arg-type]
    assert splits.loader == "resident" and "batches and views 2.24e-05 GB" in splits.reason
    assert load_splits(root, memory_limit=needed - 1, **options).loader != "resident"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"decoded and 2\.24e-05 GB for the batches and views of a training step, but"):
        load_splits(root, memory_limit=needed - 1, loader="resident", **options)  # type: ignore[arg-type]


def test_a_step_must_fit_beside_cached_images_too(tmp_path: Path) -> None:
    """Cached pixels lie in a mapped file, but batches and views do not: the second run is refused as the first was."""
    root = write_photos(tmp_path / "photos", 12)
    for memory, batch in ((None, 0), (10**9, 8)):
        load_splits(root, cache=tmp_path / "cache", batch_size=batch, view_bytes=10**6, memory_limit=memory)
    with pytest.raises(ValueError, match=r"step take about 0\.008\d* GB, and 0\.007 GB may be used: .*batch"):
        load_splits(root, cache=tmp_path / "cache", batch_size=8, view_bytes=10**6, memory_limit=7 * 10**6)


def test_pretraining_asks_for_its_views(tmp_path: Path) -> None:
    """Two views in float32 of each image of a batch; what only evaluates asks for nothing."""
    root = write_photos(tmp_path / "root", 10, "PNG", ragged=False)
    config = PretrainConfig(data=str(root), augment=AugmentConfig.cifar(16), cache="off", holdout=0.0)

    def loaded(memory: float, batch_size: int) -> Splits:
        import dataclasses

        return load_data(dataclasses.replace(config, memory=memory / 1e9), batch_size)

    needed = 23_040 + 4 * (2 * 2304 + 2 * 3 * 16 * 16 * 4)
    assert loaded(needed + 1, 4).loader == "resident" and loaded(needed - 1, 4).loader != "resident"
    assert loaded(23_041, 0).loader == "resident"
    index = loaded(needed - 1, 4).train
    assert isinstance(index, ImageIndex) and index.view_bytes == 2 * 3 * 16 * 16 * 4


@pytest.mark.parametrize("kind", KINDS[1:])
def test_streaming_counts_views_and_the_largest_images(kind: str, tmp_path: Path) -> None:
    """Batches that wait, the views of one, and the largest images that the workers may decode at a time."""
    from dataclasses import replace

    root = write_photos(tmp_path / "root", 10, "PNG", ragged=False)
    index = load_splits(root, holdout=0, loader=kind).train  # type: ignore[arg-type]
    assert isinstance(index, ImageIndex)
    batches = 2 * 1 + 1 if kind == "torch" else 2 + 1 + 2 * 2
    needed = 4 * (2304 * batches + 500) + 9 * 768

    def loader(limit: int, order: Order) -> Loader:
        return make_loader(replace(index, memory_limit=limit, view_bytes=500), kind, order, workers=1)  # type: ignore[arg-type]

    loader(needed, Order(4)).close()
    with pytest.raises(TooMuchAheadError, match=r"and the views of a step take about .* smaller prefetch, batch_size"):
        loader(needed - 1, Order(4))
    with closing(loader(needed * 5 // 2, Order(1000, drop_last=False))) as whole:  # ten images, not a thousand
        assert len(whole) == 1


def test_an_evaluation_takes_smaller_batches_where_memory_is_short(tmp_path: Path) -> None:
    """It sees every image once, as it would with more memory."""
    from dataclasses import replace

    root = write_photos(tmp_path / "root", 40, "PNG", ragged=False)
    index = load_splits(root, holdout=0, loader="torch").train
    assert isinstance(index, ImageIndex)
    small = replace(index, memory_limit=2304 * 3 * 12)
    batches = list(evaluation_batches(small, CPU, loader="torch", workers=1))
    assert [len(batch) for batch in batches] == [8] * 5
    assert torch.cat([batch.ids for batch in batches]).tolist() == index.ids.tolist()
    with pytest.raises(TooMuchAheadError):
        list(evaluation_batches(replace(index, memory_limit=2304), CPU, loader="torch", workers=1))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_evaluation_counts_no_stand_in(kind: str, tmp_path: Path) -> None:
    """Images whose damage shows when they are decoded are left out, and no other one is there twice."""
    root = write_photos(tmp_path / "root", 12, "PNG", ragged=False)
    shutil.copytree(root, tmp_path / "root" / "train")
    for name in ("cat", "dog"):
        (root / name).rename(tmp_path / "root" / f"x{name}")
    (root / "test").mkdir()
    for name in ("cat", "dog"):
        (root / f"x{name}").rename(root / "test" / name)
    for name in ("train/cat/002.png", "train/dog/011.png", "test/cat/000.png"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[:300] + b"\xff" * 40 + data[340:])
    data = load_splits(root, loader=kind)  # type: ignore[arg-type]
    assert len(data.train) == len(data.test or []) == 12  # the damage has not shown
    with pytest.warns(RuntimeWarning, match="is left out"):
        ids = torch.cat([b.ids for b in evaluation_batches(data.train, CPU, 4, kind, 1)]).tolist()  # type: ignore[arg-type]
    names = dict(zip(data.train.ids.tolist(), data.train.names, strict=True))
    assert len(ids) == len(set(ids)) == 10 and not {"cat/002.png", "dog/011.png"} & {names[i] for i in ids}
    encoder = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    with pytest.warns(RuntimeWarning, match="is left out"):
        features = labelled_features(encoder, data, AugmentConfig.cifar(16), World(0, 1, CPU, None), workers=1)
    assert features.train.shape == (10, 48) and features.test.shape == (11, 48)
    assert features.train_labels.tolist().count(0) == 5 and features.test_labels.tolist().count(0) == 5
    assert len(features.train.unique(dim=0)) == 10


def test_data_names_the_budget_that_was_given(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --memory nothing is said of half of the free memory."""
    assert main(["data", str(mixed), "--memory", "0.00001"]) == 0
    text = capsys.readouterr().out
    assert "does NOT fit into the 1e-05 GB of --memory" in text and "half of the free main" not in text
    assert main(["data", str(mixed)]) == 0
    assert "fits into half of the free main memory (" in capsys.readouterr().out
