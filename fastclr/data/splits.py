"""Name a source of images, get its data sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from fastclr.data import archive
from fastclr.data.cache import Request, cache_folder, cached
from fastclr.data.cifar import find_variant, read_cifar
from fastclr.data.dataset import ImageDataset, Splits
from fastclr.data.decode import SUFFIXES, is_image_name
from fastclr.data.files import Files
from fastclr.data.folder import index_folder
from fastclr.data.gather import DecodeOptions, decode_files, pack
from fastclr.data.labels import Labels, check_classes, label_entries, label_splits, read_labels, renumbered
from fastclr.data.layout import TEST_SPLITS, Entry, arrange
from fastclr.data.named import locate
from fastclr.data.order import stratified
from fastclr.data.shapes import make_shapes
from fastclr.data.stl import find_stl, read_stl


def load_splits(
    source: str | Path,
    test_source: str | Path | None = None,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    resize_shorter: int | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    labels: str | Path | None = None,
    data_root: str | Path = "data",
    download: bool = False,
    cache: str | Path | None = None,
) -> Splits:
    """Decode a source of images into memory and divide it into images to learn from and images to test on.

    ``source`` is the word ``shapes``, ``cifar10``, ``cifar100`` or ``stl10`` (write ``./shapes`` for a folder of that
    name), a folder of images, a tar archive (also .gz, .bz2, .xz) of such a folder, or the published files of CIFAR-10,
    CIFAR-100 (python version) or STL-10 (binary version), packed or unpacked.

    - A folder may hold images at any depth; its first level of folders are the classes. A flat folder, or one with a
      single folder, is unlabelled.
    - With a folder ``train`` at the top, the first of ``test``, ``val``, ``valid``, ``validation`` that has class
      folders is the test set; images in other folders are not used. Test images of unknown class are left out.
    - Labelled images without a test set: a random part of every class is held out.
    - Files that cannot be decoded are left out and listed in ``skipped``.

    Args:
        source: what to load.
        test_source: take the test set from here instead: its test split if it has one, else all its images.
        holdout: part of every class that is held out when there is no test set; 0 holds nothing out.
        seed: decides which images are held out.
        resize_shorter: bring the shorter side of larger images down to this many pixels.
        memory_limit: most bytes of decoded pixels; None is half of the free memory. What comes from the cache takes
            memory only while it is free, so it has no limit.
        workers: threads that decode; None is one per available core.
        labels: CSV file with the columns ``name`` and ``label`` that gives the classes instead of the folders; see
            :mod:`fastclr.data.labels`.
        data_root: folder of the files of ``cifar10``, ``cifar100`` and ``stl10``.
        download: fetch these files when they are not there.
        cache: folder that keeps decoded images for the next time; ``"auto"`` is ``~/.cache/fastclr``, None or
            ``"off"`` keeps nothing. See :func:`fastclr.data.cache.cached`.

    Returns:
        the data sets; ``test`` is None where the training images are unlabelled or nothing was held out.

    Raises:
        ValueError: there is no such source, it holds no readable image or mostly unreadable ones, does not fit into
            memory, has test classes that the training set lacks, the labels name other images, or an argument is out
            of range.
        OSError: a download failed, or the file of labels cannot be read.
        ModuleNotFoundError: Pillow, tqdm, or with a cache safetensors is not installed.
    """
    if not 0.0 <= holdout < 1.0:
        raise ValueError(f"holdout must be at least 0 and below 1, got {holdout}")
    options = DecodeOptions(resize_shorter, memory_limit, workers)
    source = locate(source, data_root, download)
    test_source = None if test_source is None else locate(test_source, data_root, download)
    mapping = None if labels is None else read_labels(labels)
    sources = (source,) if test_source is None else (source, test_source)
    decisive = {"resize_shorter": resize_shorter, "labels": None if mapping is None else json.dumps(mapping)}
    return cached(
        Request(sources, decisive, holdout, seed),
        None if source == "shapes" else cache_folder(cache),
        lambda: decode_source(source, test_source, mapping, holdout, seed, options),
    )


def decode_source(
    source: str | Path,
    test_source: str | Path | None,
    mapping: Labels | None,
    holdout: float,
    seed: int,
    options: DecodeOptions,
) -> Splits:
    """Decode a source as :func:`load_splits` does once its arguments are checked and no cache has the result."""
    opened = open_source(source)
    held_out = False
    if isinstance(opened, Splits):
        check_not_resized(opened.train, options.resize_shorter)
        opened = opened if mapping is None else label_splits(opened, mapping)
        splits = opened if test_source is None else Splits(opened.train, None)
    else:
        groups = find_images(opened)
        groups = groups if mapping is None else label_entries(groups, mapping, opened.source)
        train, test = groups["train"], []
        if test_source is None and labelled(train):
            test = next((found for name in TEST_SPLITS if (found := labelled(groups.get(name, [])))), [])
            if not test and holdout > 0:
                train, test = hold_out(train, holdout, seed)
                held_out = bool(test)
        splits = replace(decode_splits(opened, train, test, options), held_out=held_out)
    if test_source is None or not splits.train.classes:
        return splits
    return Splits(splits.train, load_test(test_source, splits.train.classes, options))


def load_dataset(
    source: str | Path,
    split: Literal["train", "test"] = "train",
    *,
    resize_shorter: int | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    data_root: str | Path = "data",
    download: bool = False,
) -> ImageDataset:
    """Decode one split of a source into memory, without holding anything out.

    ``train`` is everything when the source has no folder ``train``. Arguments are those of :func:`load_splits`.

    Raises:
        ValueError: as :func:`load_splits`, or the source has no test split, or ``split`` is another word.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    options = DecodeOptions(resize_shorter, memory_limit, workers)
    opened = open_source(locate(source, data_root, download))
    if isinstance(opened, Splits):
        check_not_resized(opened.train, resize_shorter)
        return opened.train if split == "train" or opened.test is None else opened.test
    groups = find_images(opened)
    name = "train" if split == "train" else next((name for name in TEST_SPLITS if name in groups), None)
    if name is None:
        raise ValueError(f"{source} has no test split: it needs a folder train and one of {', '.join(TEST_SPLITS)}")
    entries = groups[name]
    return decode_entries(opened, [(split, entries)], class_names(groups["train"]) or class_names(entries), options)[0]


def open_source(source: str | Path) -> Files | Splits:
    """Return the finished splits of ``shapes``, CIFAR and STL-10, or the list of files of a folder or archive.

    Raises:
        ValueError: there is no such file or folder, or it is of another kind.
    """
    if source == "shapes":
        return make_shapes()
    path = Path(source).expanduser()
    if path.is_dir():
        files = index_folder(path)
    elif path.is_file() and path.name.lower().endswith(archive.SUFFIXES):
        files = archive.index_tar(path)
    else:
        state = "is neither" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {state}: give a folder of images, an archive ({', '.join(archive.SUFFIXES)}), "
            "or the name of a data set: shapes, cifar10, cifar100 or stl10"
        )
    if variant := find_variant(files.names):
        return read_cifar(files, *variant)
    prefix = find_stl(files.names)
    return files if prefix is None else read_stl(files, prefix)


def check_not_resized(dataset: ImageDataset, resize_shorter: int | None) -> None:
    """Raise ValueError where `resize_shorter` asks for less than a data set of pixels has; it would have no effect."""
    shorter = min(dataset.images.shape[1:3]) if isinstance(dataset.images, torch.Tensor) else 0
    if resize_shorter is not None and resize_shorter < shorter:
        raise ValueError(
            f"resize_shorter is for image files, and {dataset.source} holds {shorter} px images as pixels: "
            f"leave resize_shorter={resize_shorter} out, the augmentation resizes anyway"
        )


def find_images(files: Files) -> dict[str, list[Entry]]:
    """Group the image files by split.

    Raises:
        ValueError: there is no image file.
    """
    images = [name for name in files.names if is_image_name(name)]
    if not images:
        raise ValueError(
            f"no images in {files.source}: it has {len(files.names)} other files and {len(files.skipped)} entries that "
            f"are not read (links, pipes); images end in {', '.join(SUFFIXES)}"
        )
    return arrange(images)


def labelled(entries: list[Entry]) -> list[Entry]:
    """Return the entries whose class is known."""
    return [entry for entry in entries if entry.kind is not None]


def class_names(entries: list[Entry]) -> tuple[str, ...]:
    """Return the sorted names of the classes."""
    return tuple(sorted({entry.kind for entry in entries if entry.kind is not None}))


def class_labels(entries: list[Entry], classes: tuple[str, ...]) -> torch.Tensor:
    """Return the index into ``classes`` of every entry, int64 ``[N]``; -1 where the class is unknown."""
    index = {name: i for i, name in enumerate(classes)}
    return torch.tensor([-1 if e.kind is None else index[e.kind] for e in entries], dtype=torch.int64)


def hold_out(entries: list[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Divide entries into those to keep and a random ``fraction`` of every class."""
    rows = set(stratified(class_labels(entries, class_names(entries)), fraction, seed).tolist())
    kept = [entry for row, entry in enumerate(entries) if row not in rows]
    return kept, [entry for row, entry in enumerate(entries) if row in rows]


def decode_splits(files: Files, train: list[Entry], test: list[Entry], options: DecodeOptions) -> Splits:
    """Decode training and test images in one pass over the source."""
    groups = [("train", train), ("test", test)] if test else [("train", train)]
    sets = decode_entries(files, groups, class_names(train), options)
    return Splits(sets[0], sets[1] if test else None)


def load_test(source: str | Path, classes: tuple[str, ...], options: DecodeOptions) -> ImageDataset:
    """Decode the test split of ``source``, or all its images, with the labels of ``classes``.

    Raises:
        ValueError: the images are unlabelled or of other classes, or the source cannot be read.
    """
    opened = open_source(source)
    if isinstance(opened, Splits):
        return renumbered(opened.test or opened.train, classes)
    groups = find_images(opened)
    entries = next((found for name in (*TEST_SPLITS, "train") if (found := labelled(groups.get(name, [])))), [])
    if not entries:
        raise ValueError(f"the test images in {source} are unlabelled: they need a folder for each class")
    return decode_entries(opened, [("test", entries)], classes, options)[0]


def decode_entries(
    files: Files, groups: list[tuple[str, list[Entry]]], classes: tuple[str, ...], options: DecodeOptions
) -> list[ImageDataset]:
    """Decode several named groups of entries in one pass and return a data set for each.

    Raises:
        ValueError: a group has classes outside ``classes`` or no readable image, or decoding fails as a whole.
    """
    for _, entries in groups:
        check_classes(class_names(entries), classes, files.source)
    decoded, failed = decode_files(files, [entry.path for _, entries in groups for entry in entries], options)
    sets = []
    refused = files.skipped
    for name, entries in groups:
        good = [entry for entry in entries if entry.path in decoded]
        if not good:
            raise ValueError(f"none of the {len(entries)} {name} images in {files.source} can be read")
        bad = tuple((entry.name, failed[entry.path]) for entry in entries if entry.path in failed)
        sets.append(
            ImageDataset(
                images=pack([decoded.pop(entry.path) for entry in good]),
                ids=torch.tensor([entry.id for entry in good], dtype=torch.int64),
                labels=class_labels(good, classes),
                classes=classes,
                names=tuple(entry.name for entry in good),
                source=f"{files.source} ({name})",
                skipped=bad + refused,
            )
        )
        refused = ()
    return sets
