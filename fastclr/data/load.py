"""Name a source of images, get its data sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch

from fastclr.data.cache import Request, cache_folder, cached
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.indexed_set import ImageIndex
from fastclr.data.label_subsets import stratified
from fastclr.data.loader_choice import ChosenKind, LoaderKind, check_kind, choose_loader, device_budget
from fastclr.data.make_sets import class_labels, class_names, decode_entries, index_entries, label_splits, renumbered
from fastclr.data.open_source import labelled, open_source
from fastclr.sources.entries import TEST_SPLITS, Entry, Source
from fastclr.sources.label_file import Labels, label_entries, read_labels
from fastclr.sources.published import locate


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
    loader: LoaderKind = "auto",
    device: torch.device | str = "cpu",
) -> Splits:
    """List or decode a source of images and divide it into images to learn from and images to test on.

    ``source`` is the word ``shapes``, ``cifar10``, ``cifar100`` or ``stl10`` (write ``./shapes`` for a folder of that
    name), a folder of images, a tar archive (also .gz, .bz2, .xz) of such a folder, WebDataset shards (a folder of tar
    archives, a pattern as in ``train-{000..099}.tar``, or a tar archive with ``.cls`` files), or the published files of
    CIFAR-10, CIFAR-100 (python version) or STL-10 (binary version), packed or unpacked.

    - A folder may hold images at any depth; its first level of folders are the classes. A flat folder, or one with a
      single folder, is unlabelled.
    - With a folder ``train`` at the top, the first of ``test``, ``val``, ``valid``, ``validation`` that has class
      folders is the test set; images in other folders are not used. Test images of unknown class are left out.
    - Labelled images without a test set: a random part of every class is held out.
    - Files that cannot be decoded are left out and listed in ``skipped``. Without decoding, these are the files whose
      header is none, and JPEGs that are cut short.

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
            :mod:`fastclr.sources.label_file`.
        data_root: folder of the files of ``cifar10``, ``cifar100`` and ``stl10``.
        download: fetch these files when they are not there.
        cache: folder that keeps decoded images for the next time; ``"auto"`` is ``~/.cache/fastclr``, None or
            ``"off"`` keeps nothing. See :func:`fastclr.data.cache.cached`.
        loader: ``resident`` decodes everything into memory, ``dali`` and ``torch`` make an index from which the loader
            of that name decodes in every epoch. ``auto`` is ``resident`` for what fits, else ``dali`` if it is
            installed, else ``torch``.
        device: where the images will go; ``auto`` asks how much memory it has left.

    Returns:
        the data sets, the loader for them, and why it is that one; ``test`` is None where the training images are
        unlabelled or nothing was held out.

    Raises:
        ValueError: there is no such source, it holds no readable image or mostly unreadable ones, does not fit into
            memory, cannot be read without decompressing all of it, has test classes that the training set lacks, the
            labels name other images, or an argument is out of range.
        OSError: a download failed, or the file of labels cannot be read.
        ModuleNotFoundError: Pillow, tqdm, or with a cache safetensors is not installed.
    """
    if not 0.0 <= holdout < 1.0:
        raise ValueError(f"holdout must be at least 0 and below 1, got {holdout}")
    check_kind(loader)
    options = DecodeOptions(resize_shorter, memory_limit, workers)
    source = locate(source, data_root, download)
    test_source = None if test_source is None else locate(test_source, data_root, download)
    mapping = None if labels is None else read_labels(labels)
    sources = (source,) if test_source is None else (source, test_source)
    decisive = {"resize_shorter": resize_shorter, "labels": None if mapping is None else json.dumps(mapping)}

    def load() -> Splits:
        return load_source(source, test_source, mapping, holdout, seed, options, loader, device)

    keep = source != "shapes" and loader in ("auto", "resident")
    splits = cached(Request(sources, decisive, holdout, seed), cache_folder(cache) if keep else None, load)
    # what was decoded for the main memory, or for another card, may be too much for this one
    return load() if loader == "auto" and not fits(splits, options, torch.device(device)) else splits


def fits(splits: Splits, options: DecodeOptions, device: torch.device) -> bool:
    """Tell whether decoded images fit into the memory of a CUDA `device`; others have no limit of their own."""
    sets = [images for images in (splits.train, splits.test) if isinstance(images, ImageDataset)]
    return device.type != "cuda" or sum(images.nbytes for images in sets) <= device_budget(options, device)[0]


def load_source(
    source: str | Path,
    test_source: str | Path | None,
    mapping: Labels | None,
    holdout: float,
    seed: int,
    options: DecodeOptions,
    loader: LoaderKind,
    device: torch.device | str,
) -> Splits:
    """Load a source as :func:`load_splits` does once its arguments are checked and no cache has the result."""
    opened = open_source(source)
    if isinstance(opened, Splits):
        if loader not in ("auto", "resident"):
            raise ValueError(f"loader {loader} decodes files, but {source} holds pixels: use auto or resident")
        check_not_resized(opened.train, options.resize_shorter)
        opened = opened if mapping is None else label_splits(opened, mapping)
        splits = opened if test_source is None else replace(opened, test=None)
    else:
        if mapping is not None:
            opened = replace(opened, groups=label_entries(opened.groups, mapping, opened.files.source), classes=None)
        train, test, held_out = opened.groups["train"], [], False
        if test_source is None and labelled(train):
            test = next((found for name in TEST_SPLITS if (found := labelled(opened.groups.get(name, [])))), [])
            if not test and holdout > 0:
                train, test = hold_out(train, holdout, seed)
                held_out = bool(test)
        kind, reason = choose_loader(loader, opened.files, len(train) + len(test), options, device)
        groups = [("train", train), ("test", test)] if test else [("train", train)]
        sets = make_sets(kind, opened, groups, opened.classes or class_names(train), options)
        splits = Splits(sets[0], sets[1] if test else None, held_out, kind, reason)
    if test_source is None or not splits.train.classes:
        return splits
    return replace(splits, test=load_test(test_source, splits.train.classes, splits.loader, options))


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
        chosen = opened.train if split == "train" or opened.test is None else opened.test
        return cast(ImageDataset, chosen)  # finished splits are
    groups = opened.groups
    name = "train" if split == "train" else next((name for name in TEST_SPLITS if name in groups), None)
    if name is None:
        raise ValueError(f"{source} has no test split: it needs a folder train and one of {', '.join(TEST_SPLITS)}")
    classes = opened.classes or class_names(groups["train"]) or class_names(groups[name])
    return decode_entries(opened.files, [(split, groups[name])], classes, options)[0]


def check_not_resized(dataset: ImageDataset | ImageIndex, resize_shorter: int | None) -> None:
    """Raise ValueError where `resize_shorter` asks for less than a data set of pixels has; it would have no effect."""
    shorter = min(dataset.images.shape[1:3]) if isinstance(dataset.images, torch.Tensor) else 0
    if resize_shorter is not None and resize_shorter < shorter:
        raise ValueError(
            f"resize_shorter is for image files, and {dataset.source} holds {shorter} px images as pixels: "
            f"leave resize_shorter={resize_shorter} out, the augmentation resizes anyway"
        )


def hold_out(entries: list[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Divide entries into those to keep and a random ``fraction`` of every class."""
    rows = set(stratified(class_labels(entries, class_names(entries)), fraction, seed).tolist())
    kept = [entry for row, entry in enumerate(entries) if row not in rows]
    return kept, [entry for row, entry in enumerate(entries) if row in rows]


def make_sets(
    kind: ChosenKind,
    source: Source,
    groups: list[tuple[str, list[Entry]]],
    classes: tuple[str, ...],
    options: DecodeOptions,
) -> list[ImageDataset] | list[ImageIndex]:
    """Decode or list the images of each group."""
    make = decode_entries if kind == "resident" else index_entries
    return make(source.files, groups, classes, options)


def load_test(
    source: str | Path, classes: tuple[str, ...], kind: ChosenKind, options: DecodeOptions
) -> ImageDataset | ImageIndex:
    """Load the test split of ``source``, or all its images, with the labels of ``classes``.

    Raises:
        ValueError: the images are unlabelled or of other classes, or the source cannot be read.
    """
    opened = open_source(source)
    if isinstance(opened, Splits):
        return renumbered(cast(ImageDataset, opened.test or opened.train), classes)
    names = (*TEST_SPLITS, "train")
    entries = next((found for name in names if (found := labelled(opened.groups.get(name, [])))), [])
    if not entries:
        raise ValueError(f"the test images in {source} are unlabelled: they need a folder for each class")
    return make_sets(kind, opened, [("test", entries)], classes, options)[0]
