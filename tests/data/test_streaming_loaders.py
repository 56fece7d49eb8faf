"""The loaders that decode while training: they give what the resident loader gives, in the same order."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stream_cases import contents, encode, photo, picture, write_odd_folder, write_photos
from torch import Tensor

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.images import RaggedImages
from fastclr.data import (
    Batch,
    DaliLoader,
    ImageDataset,
    ImageIndex,
    Loader,
    Order,
    ResidentLoader,
    load_splits,
    make_loader,
)

Make = Callable[..., Loader]

KINDS = ["dali", "torch"]


@pytest.fixture(params=[*KINDS, "torch in this process"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Make a loader of one kind; all are closed at the end."""
    loaders: list[Loader] = []
    kind, _, alone = request.param.partition(" ")
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")

    def build(index: ImageIndex, order: Order, **options: Any) -> Loader:
        loaders.append(make_loader(index, kind, order, **{"workers": 0 if alone else 2, **options}))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def listed(path: Path, **options: Any) -> ImageIndex:
    """Return the index of a source."""
    train = load_splits(path, holdout=0, loader="torch", **options).train
    assert isinstance(train, ImageIndex)
    return train


def decoded(path: Path, **options: Any) -> ImageDataset:
    """Return the decoded images of a source."""
    train = load_splits(path, holdout=0, loader="resident", **options).train
    assert isinstance(train, ImageDataset)
    return train


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 JPEGs of mixed sizes."""
    return write_photos(tmp_path_factory.mktemp("photos") / "root", 23)


@pytest.fixture(scope="module")
def pngs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 PNGs of mixed sizes."""
    return write_photos(tmp_path_factory.mktemp("pngs") / "root", 23, "PNG")


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_batches_are_those_of_the_resident_loader(kind: str, ragged: bool, make: Make, tmp_path: Path) -> None:
    """Ids, labels and pixels agree for two epochs; each image is what Pillow decodes from the file of its name."""
    root = write_photos(tmp_path / "root", 11, kind, ragged)
    index, resident = listed(root), ResidentLoader(decoded(root), Order(4, seed=6, drop_last=False))
    files = {int(i): root / name for i, name in zip(index.ids, index.names, strict=True)}
    loader = make(index, Order(4, seed=6, drop_last=False))
    assert len(loader) == len(resident) == 3
    for epoch in (0, 5):
        for expected, batch in zip(resident.epoch(epoch), loader.epoch(epoch), strict=True):
            assert batch.ids.tolist() == expected.ids.tolist() and batch.labels.tolist() == expected.labels.tolist()
            assert isinstance(batch.images, RaggedImages) is isinstance(expected.images, RaggedImages) is ragged
            for i, key in enumerate(batch.ids.tolist()):
                original = np.asarray(Image.open(files[key])).astype(int)
                # decoders of lossless formats agree; libjpeg-turbo in two builds may round differently
                assert np.abs(picture(batch.images, i).astype(int) - original).max() <= (2 if kind == "JPEG" else 0)


def test_views_are_bit_identical(make: Make, pngs: Path) -> None:
    """The same (seed, epoch, id) gives the same views through the resident loader and through this one."""
    augment = SimCLRAugment(AugmentConfig(16), views=2, seed=9)
    resident, loader = ResidentLoader(decoded(pngs), Order(5, seed=1)), make(listed(pngs), Order(7, seed=2))

    def views(source: Loader) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for batch in source.epoch(3):
            images = augment(batch.images, batch.ids, 3)
            found |= {key: images[:, i] for i, key in enumerate(batch.ids.tolist())}
        return found

    one, other = views(resident), views(loader)
    common = one.keys() & other.keys()
    assert len(common) >= 15
    for key in common:
        assert torch.equal(one[key], other[key])


@pytest.mark.parametrize("shuffle", [True, False])
def test_resuming_gives_the_remaining_batches(shuffle: bool, make: Make, photos: Path) -> None:
    """A loader that starts at any step goes on as one that did not stop, ids and pixels."""
    index = listed(photos)
    first, second = (make(index, Order(5, seed=4, drop_last=False, shuffle=shuffle)) for _ in range(2))
    whole = [contents(batch) for batch in first.epoch(7)]
    assert len(whole) == 5
    for start in range(6):
        assert [contents(batch) for batch in second.epoch(7, start)] == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_every_id_once_over_all_ranks(world: int, make: Make, photos: Path) -> None:
    """The ranks share an epoch as documented: equal parts, all ids, padded by the first of the epoch."""
    index = listed(photos)
    loaders = [make(index, Order(4, seed=8, drop_last=False, rank=r, world_size=world)) for r in range(world)]
    shares = [[batch.ids.tolist() for batch in loader.epoch(2)] for loader in loaders]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    seen = [key for share in shares for step in share for key in step]
    assert set(seen) == set(range(23)) and len(seen) == 24 and seen.count(seen[-1]) == 2


def test_drop_last_and_evaluation_order(make: Make, photos: Path) -> None:
    """With drop_last the rest is left out; without shuffling and dropping, the data comes once and in order."""
    index = listed(photos)
    assert [len(batch) for batch in make(index, Order(5)).epoch(0)] == [5, 5, 5, 5]
    batches = list(make(index, Order(5, shuffle=False, drop_last=False)).epoch(1))
    assert [key for batch in batches for key in batch.ids.tolist()] == index.ids.tolist()
    assert [key for batch in batches for key in batch.labels.tolist()] == index.labels.tolist()


@pytest.mark.parametrize("shorter", [16, 27, 1000])
def test_resize_shorter(shorter: int, make: Make, photos: Path) -> None:
    """Larger images shrink to the sizes of the resident loader and nothing grows; pixels are Pillow's or nearly so."""
    index, dataset = listed(photos, resize_shorter=shorter), decoded(photos, resize_shorter=shorter)
    order = Order(23, shuffle=False)
    (expected,) = ResidentLoader(dataset, order).epoch(0)
    for loader in (make(index, order), make(listed(photos), order, resize_shorter=shorter)):
        (batch,) = loader.epoch(0)
        for i in range(23):
            one, other = picture(batch.images, i).astype(int), picture(expected.images, i).astype(int)
            assert one.shape == other.shape and min(one.shape[:2]) <= max(shorter, 20)
            if isinstance(loader, DaliLoader):  # which does not decode at a reduced scale, as Pillow does where it can
                full = Image.open(photos / index.names[i]).resize(one.shape[1::-1], Image.Resampling.BILINEAR)
                assert np.abs(one - np.asarray(full)).max() <= 3
            else:
                assert np.array_equal(one, other)
    with pytest.raises(ValueError, match="resize_shorter must be at least 1 or None, got 0"):
        make(index, Order(2), resize_shorter=0)


def test_odd_folder(make: Make, tmp_path: Path) -> None:
    """Good images of every kind come as Pillow decodes them; the rest is named; nothing hangs or ends the run."""
    good, refused, damaged = write_odd_folder(tmp_path / "root")
    dataset = decoded(tmp_path / "root")
    assert set(dataset.names) == good
    index = listed(tmp_path / "root")
    assert set(index.names) == good | damaged
    assert {name for name, _ in index.skipped} == refused | {"loop", "pipe.jpg"}
    expected = {key: picture(dataset.images, i) for i, key in enumerate(dataset.ids.tolist())}
    loader = make(index, Order(4, seed=1, drop_last=False))
    for epoch in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches = list(loader.epoch(epoch))
        # once for each file, in the first epoch
        assert sum("is left out" in str(warning.message) for warning in caught) == (len(damaged) if epoch == 0 else 0)
        assert [len(batch) for batch in batches] == [4] * (len(index) // 4) + [len(index) % 4] * (len(index) % 4 > 0)
        seen = [key for batch in batches for key in batch.ids.tolist()]
        assert set(seen) == set(expected)
        for batch in batches:
            for i, key in enumerate(batch.ids.tolist()):
                assert np.abs(picture(batch.images, i).astype(int) - expected[key]).max() <= 2
    assert set(loader.skipped) == damaged


def test_replacements_are_the_same_everywhere(tmp_path: Path) -> None:
    """Which image stands in for an unreadable one depends on the position only, not on loader or resumption."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")
    write_odd_folder(tmp_path / "root")
    index = listed(tmp_path / "root")
    bad = [row for row, name in enumerate(index.names) if name in ("short.png", "flipped.png", "frames.jpg")]
    found = []
    for kind in KINDS:
        loader = make_loader(index, kind, Order(5, seed=3), workers=2)  # type: ignore[arg-type]
        with pytest.warns(RuntimeWarning, match="is left out"):
            whole = [batch.ids.tolist() for batch in loader.epoch(1)]
        assert [batch.ids.tolist() for batch in loader.epoch(1, 2)] == whole[2:]
        found.append(whole)
        loader.close()
    assert found[0] == found[1]
    order = loader.plan.permuted(1).tolist()  # type: ignore[attr-defined]
    for place in (place for place, row in enumerate(order) if row in bad and place < 5 * len(whole)):
        following = [order[(place + 5 + k) % len(order)] for k in range(len(order))]
        expected = next(row for row in following if row not in bad)
        assert whole[place // 5][place % 5] == index.ids[expected]


def test_unreadable_disk_is_an_error(make: Make, tmp_path: Path) -> None:
    """When no image can be read any more, the run ends with one line instead of going on for ever."""
    root = write_photos(tmp_path / "root", 6)
    loader = make(listed(root), Order(3))
    for path in root.rglob("*.jpeg"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"6 images of .* in a row cannot be read; the last, '[^']*\.jpeg': FileNotFoundError"
    ) as caught:
        list(loader.epoch(0))
    assert "\n" not in str(caught.value)


def test_jpegs_that_change_after_they_were_listed(make: Make, photos: Path, tmp_path: Path) -> None:
    """A file that became a link, a pipe, shorter or garbage is replaced; no link is followed and no pipe waited for."""
    import os
    import shutil

    root = Path(shutil.copytree(photos, tmp_path / "root"))
    index = listed(root)
    changed = [root / index.names[row] for row in (1, 4, 9, 14)]
    whole = changed[3].read_bytes()
    changed[0].unlink()
    changed[0].symlink_to(photos / index.names[1])
    changed[1].unlink()
    os.mkfifo(changed[1])
    changed[2].write_bytes(changed[2].read_bytes()[:-50])
    changed[3].write_bytes(b"\0" * len(whole))
    loader = make(index, Order(4))
    with pytest.warns(RuntimeWarning, match="is left out"):
        seen = {key for batch in loader.epoch(0) for key in batch.ids.tolist()}
    assert set(loader.skipped) <= {index.names[row] for row in (1, 4, 9, 14)} and len(loader.skipped) >= 3
    assert not seen & {int(index.ids[row]) for row in (1, 4, 9, 14)}


def test_an_epoch_ends_when_another_begins_or_the_loader_is_closed(make: Make, photos: Path) -> None:
    """An abandoned epoch does no harm, and one that was overtaken says so instead of mixing batches."""
    loader = make(listed(photos), Order(4))
    for _ in range(3):
        next(loader.epoch(0))
    expected = [batch.ids.tolist() for batch in loader.epoch(1)]
    first = loader.epoch(0)
    next(first)
    assert [batch.ids.tolist() for batch in loader.epoch(1)] == expected
    with pytest.raises(RuntimeError, match="this epoch has ended"):
        list(first)
    second = loader.epoch(2)
    next(second)
    loader.close()
    with pytest.raises(RuntimeError, match="this epoch has ended"):
        list(second)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        loader.epoch(0)


def test_global_random_numbers_are_left_alone(make: Make, photos: Path) -> None:
    """A model's dropout draws the same numbers whatever the loader."""
    loader = make(listed(photos), Order(4))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(loader.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_are_checked(make: Make, photos: Path) -> None:
    """Numbers out of range are errors before a thread or process starts."""
    index = listed(photos)
    for options, message in (
        ({"workers": -1}, "workers must be at least"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
        ({"order": Order(24)}, "one step needs 24 images"),
    ):
        with pytest.raises(ValueError, match=message):
            make(index, **{"order": Order(4), **options})
    with pytest.raises(TypeError, match=r"order must be a fastclr\.data\.Order, got int"):
        make(index, 4)
    loader = make(index, Order(4))
    for epoch, start in ((-1, 0), (0, -1), (0, 6)):
        with pytest.raises(ValueError, match="must be"):
            loader.epoch(epoch, start)


def test_batches_stay_as_they_are(make: Make, photos: Path) -> None:
    """A batch that is kept is not overwritten by later ones, though its memory may be the decoder's."""
    loader = make(listed(photos), Order(4, seed=2))
    kept: list[tuple[Batch, list[tuple[int, int, bytes]]]] = []
    for epoch in range(3):
        kept += [(batch, contents(batch)) for batch in loader.epoch(epoch)]
    loader.close()
    assert all(contents(batch) == copy for batch, copy in kept)


def test_grey_and_sideways_jpegs(make: Make, tmp_path: Path) -> None:
    """EXIF orientation is applied and grey becomes RGB, with resizing and without."""
    source = Image.open(next(write_photos(tmp_path / "one", 1).rglob("*.jpeg")))
    root = tmp_path / "root"
    root.mkdir()
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        image = source.convert("L") if turn % 2 else source
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif)
        (root / f"{turn}.jpg").write_bytes(buffer.getvalue())
    for shorter in (None, 15):
        expected = decoded(root, resize_shorter=shorter)
        (batch,) = make(listed(root, resize_shorter=shorter), Order(8, shuffle=False)).epoch(0)
        for i in range(8):
            one, other = picture(batch.images, i).astype(int), picture(expected.images, i).astype(int)
            assert one.shape == other.shape and np.abs(one - other).mean() <= (0.5 if shorter is None else 5.0)


def test_a_batch_of_several_formats_makes_no_noise(
    make: Make, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """What Pillow decodes is read-only memory, of which PyTorch would warn."""
    root = write_photos(tmp_path / "root", 4)
    (root / "cat" / "a.png").write_bytes(encode(photo(9, 24, 32), "PNG"))
    train = load_splits(root, holdout=0, loader="torch").train
    torch.set_warn_always(True)  # else the first test with such a batch has the warning
    try:
        assert len(list(make(train, Order(5)).epoch(0))) == 1
    finally:
        torch.set_warn_always(False)
    assert [str(warning.message) for warning in recwarn if "not writable" in str(warning.message)] == []


def test_what_dali_refuses_is_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the check of the structure let through what DALI does not take, the batch still comes, with a report."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")
    write_odd_folder(tmp_path / "root")
    monkeypatch.setattr("fastclr.sources.decode.is_plain", lambda data: True)
    monkeypatch.setattr("fastclr.data.dali_loader.is_regular", lambda data, size: True)
    index = listed(tmp_path / "root")
    assert "table.jpg" in index.names
    with closing(make_loader(index, "dali", Order(4, drop_last=False), workers=2)) as loader:
        with pytest.warns(RuntimeWarning, match="is left out"):
            seen = {key for batch in loader.epoch(0) for key in batch.ids.tolist()}
        assert loader.skipped["table.jpg"] == "OSError: broken data stream when reading image file"
        assert int(index.ids[index.names.index("cmyk.jpg")]) in seen
