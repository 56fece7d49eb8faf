"""Load the data sets of a source of images."""

from __future__ import annotations

import json
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from fastclr.data.cache import Request, cache_folder, cached, content_of
from fastclr.data.decode_many import DecodeOptions
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.data.image_source import ImageSource, LoadOptions
from fastclr.data.loader_choice import LoaderKind, check_kind, device_budget
from fastclr.data.open_source import check_place, open_source
from fastclr.sources.caption_table import is_caption_table
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.label_file import Labels, UnknownNames, read_labels
from fastclr.sources.links import hub_blobs
from fastclr.sources.published import locate
from fastclr.sources.reading import AS_RGB, ChannelAxis, Pages, RangeChoice, Reading


def load_splits(
    source: str | Path | Sized,
    test_source: str | Path | Sized | None = None,
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
    batch_size: int = 0,
    view_bytes: int = 0,
    follow_links: str | Path | None = None,
    captions: str | CaptionOptions | None = None,
    channels: int = 3,
    range: RangeChoice | None = None,
    channel_axis: ChannelAxis = "auto",
    pages: Pages = "first",
) -> Splits:
    """Decode or index a source of images, and divide it into images to train on and images to test on.

    ``source`` is the word ``shapes``, ``cifar10``, ``cifar100`` or ``stl10`` (write ``./shapes`` for a folder of that
    name), a folder of images, a tar archive (also .gz, .bz2, .xz) of such a folder, WebDataset shards (a folder of tar
    archives, a pattern as in ``train-{000..099}.tar``, or a tar archive with ``.cls`` files), the published files of
    CIFAR-10, CIFAR-100 (python version) or STL-10 (binary version), packed or unpacked, a ``.npz`` or ``.npy`` file of
    arrays (:func:`fastclr.data.array_file.read_arrays`), a CSV or TSV file that names images and their captions
    (:mod:`fastclr.sources.caption_table`), or what a program holds: a map-style dataset, arrays, or a
    dictionary of these by split (:func:`fastclr.data.given_images.open_given`).

    - A folder may hold images at any depth; its first-level folders are the classes. A flat folder, or one with a
      single subfolder, is unlabelled.
    - With a folder ``train`` at the top, the first of ``test``, ``val``, ``valid``, ``validation`` that has class
      folders is the test set; images in other folders are not used. Test images of unknown class are left out.
    - If labelled images come without a test set, a random part of every class is held out.
    - Files that cannot be decoded are left out and listed in ``skipped``. If nothing is decoded, these are files
      without a valid header, and truncated JPEGs.

    Args:
        source: what to load.
        test_source: take the test set from this source instead: its test split if it has one, else all its images.
        holdout: share of every class that is held out if there is no test set; 0 holds nothing out.
        seed: decides which images are held out.
        resize_shorter: reduce the shorter side of larger images to this many pixels.
        memory_limit: largest number of bytes for decoded pixels, work on images, and the batches and views of training;
            None is half of the free memory. What a network takes is no part of it. Images from the cache are not
            limited: they are mapped files, whose memory the system can reclaim.
        workers: number of threads that decode; None is one per available core.
        labels: CSV file with the columns ``name`` and ``label`` that gives the classes instead of the folders; see
            :mod:`fastclr.sources.label_file`.
        data_root: folder with the files of ``cifar10``, ``cifar100`` and ``stl10``.
        download: fetch these files if they are missing.
        cache: folder that keeps decoded images for later runs; ``"auto"`` is ``~/.cache/fastclr``, None or
            ``"off"`` keeps nothing. See :func:`fastclr.data.cache.cached`.
        loader: ``resident`` decodes everything into memory; ``dali`` and ``torch`` make an index, from which the loader
            of that name decodes in every epoch. ``auto`` is ``resident`` if the images fit, else ``dali`` if it is
            installed, else ``torch``.
        device: where the images will go; ``auto`` takes its free memory into account.
        batch_size: images of a training step in this process, if its batches will lie in main memory.
        view_bytes: bytes of main memory that the views of one image take.
        follow_links: symbolic links in folders are followed if they lead into this folder; nothing is cached then.
            Without it, more than a tenth of the images behind links is an error. Those of a snapshot in Hugging Face's
            cache, which lead to its ``blobs``, need none.
        captions: where the captions of the images are, a :class:`~fastclr.data.CaptionOptions` or its ``place``:
            ``auto``, ``txt``, ``json`` or a table. Images without one are left out. None: none are read. A table is for
            ``source``, and for a ``test_source`` that is no table itself.
        channels: of the images, 1 to 16. Pictures become RGB for 3, grey for 1; otherwise, and in arrays, DICOM and
            TIFF of many bands, they must have so many (one is as good as three).
        range: of images of more than 8 bits: the values ``(low, high)`` that become 0 and 255; ``auto``: percentiles
            0.1 and 99.9 of a sample of the training images; ``file``: of each file its smallest and largest. None: the
            full range of their type.
        channel_axis: where arrays have their channels: ``first`` in ``[C, H, W]``, ``last`` in ``[H, W, C]``; ``auto``
            where one of them fits.
        pages: ``first`` reads the first image of a file of several, ``channels`` all as the channels of one.

    Returns:
        The data sets, the loader for them, and the reason for that choice; ``test`` is None where the training images
        have neither labels nor captions, or nothing was held out.

    Raises:
        ValueError: there is no such source, it holds no or mostly unreadable images, it does not fit into memory, it is
            compressed where random access is needed, its test set has classes that the training set lacks, the labels
            name images it does not have, or an argument is out of range.
        OSError: a download failed, or the file of labels cannot be read.
        ModuleNotFoundError: Pillow, tqdm or, with a cache, safetensors is not installed.
    """
    if not 0.0 <= holdout < 1.0:
        raise ValueError(f"holdout must be at least 0 and below 1, got {holdout}")
    check_kind(loader)
    reading = Reading(channels, range, channel_axis, pages)
    options = DecodeOptions(resize_shorter, memory_limit, workers, batch_size, view_bytes, reading)
    where = CaptionOptions(captions) if isinstance(captions, str) else captions
    source, test_source = found_sources(source, test_source, data_root, download)
    sources = [place for place in (source, test_source) if isinstance(place, (str, Path))]
    place = source if isinstance(source, (str, Path)) else None
    mapping = None if labels is None else read_labels(labels, place)
    decisive = {"resize_shorter": resize_shorter, "labels": None if mapping is None else json.dumps(mapping)}
    if where is not None:
        table = content_of(Path(where.place)) if where.is_table else None
        decisive["captions"] = json.dumps([where.place, where.key, where.columns, table])
    if reading != AS_RGB:
        decisive["reading"] = repr(reading)

    def load() -> Splits:
        return load_source(
            source, test_source, LoadOptions(holdout, seed, mapping, options, loader, device, follow_links, where)
        )

    given = any(not isinstance(place, (str, Path)) for place in (source, test_source) if place is not None)
    if given and loader not in ("auto", "resident"):
        raise ValueError(f"loader {loader} decodes files, and images of a program are held as pixels: use auto")
    # the digest of a table does not cover the images that it names, nor that of a folder what its links lead to
    elsewhere = any(is_caption_table(str(place)) or hub_blobs(Path(place)) is not None for place in sources)
    keep = not (given or elsewhere or follow_links or source == "shapes") and loader in ("auto", "resident")
    splits = cached(Request(tuple(sources), decisive, holdout, seed), cache_folder(cache) if keep else None, load)
    check_step(splits, options)
    # images that were cached for main memory, or for another GPU, may be too many for this one
    return load() if loader == "auto" and not fits(splits, options, torch.device(device)) else splits


def found_sources(
    source: str | Path | Sized, test_source: str | Path | Sized | None, data_root: str | Path, download: bool
) -> tuple[str | Path | Sized, str | Path | Sized | None]:
    """Return where the sources of `load_splits` lie, before anything is read.

    Raises:
        ValueError: there is nothing that may hold images.
        OSError: a download failed.
    """
    source = locate(source, data_root, download)
    check_place(source)
    if test_source is not None:
        test_source = locate(test_source, data_root, download)
        check_place(test_source)
    return source, test_source


def check_step(splits: Splits, options: DecodeOptions) -> None:
    """Raise a ValueError if a training step takes too much memory even beside images that lie in a mapped file."""
    if not isinstance(splits.train, ImageDataset) or not len(splits.train):
        return
    step, limit = options.step_bytes(splits.train.nbytes / len(splits.train)), options.budget()
    if step > limit:
        raise ValueError(
            f"the batches and views of a training step take about {step / 1e9:.3g} GB, and {limit / 1e9:.3g} GB may be "
            "used: choose a smaller batch_size, or more memory (--memory)"
        )


def fits(splits: Splits, options: DecodeOptions, device: torch.device) -> bool:
    """Return whether decoded images fit into the memory of a CUDA `device`; others have no limit of their own."""
    sets = [images for images in (splits.train, splits.test) if isinstance(images, ImageDataset)]
    return device.type != "cuda" or sum(images.nbytes for images in sets) <= device_budget(options, device)[0]


def load_source(source: str | Path | Sized, test_source: str | Path | Sized | None, options: LoadOptions) -> Splits:
    """Load a source as :func:`load_splits` does once its arguments are checked and no cache has the result."""
    captions = options.captions
    opened = open_source(source, options.decode, options.follow_links, captions)
    if test_source is None:
        return opened.load_splits(options, with_test=True)
    if captions is not None and captions.is_table and is_caption_table(str(test_source)):
        captions = CaptionOptions(columns=captions.columns)
    tests = open_source(test_source, options.decode, options.follow_links, captions)
    there = dict[str, str | None]()
    if options.labels is not None:
        here, there = (known_labels(each, options.labels) for each in (opened, tests))
        if unknown := set(options.labels) - set(here) - set(there):
            raise UnknownNames(unknown, f"{source} or {test_source}")
        options, tests = replace(options, labels=here), tests.relabelled(there) if there else tests
    splits = opened.load_splits(options, with_test=False)
    if not splits.train.classes and captions is None:
        return splits
    decode = options.decode
    if decode.reading.range == "auto":  # the range of the training images is that of the test images
        decode = replace(decode, reading=decode.reading.within(splits.range))
        tests = open_source(test_source, decode, options.follow_links, captions)
        tests = tests.relabelled(there) if there else tests
    return replace(splits, test=tests.load_test(splits.train.classes, splits.loader, decode))


def known_labels(source: ImageSource, labels: Labels) -> dict[str, str | None]:
    """Return the labels of those images that a source has."""
    try:
        source.relabelled(labels)
    except UnknownNames as error:
        return {name: label for name, label in labels.items() if name not in set(error.names)}
    return dict(labels)


def load_dataset(
    source: str | Path | Sized,
    split: Literal["train", "test"] = "train",
    *,
    resize_shorter: int | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    data_root: str | Path = "data",
    download: bool = False,
    captions: str | CaptionOptions | None = None,
    reading: Reading = AS_RGB,
) -> ImageDataset:
    """Decode one split of a source into memory, without holding anything out.

    Without a folder ``train``, the split ``train`` is everything. Arguments are those of :func:`load_splits`.

    Raises:
        ValueError: as for :func:`load_splits`, or the source has no test split, or ``split`` is another word.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    options = DecodeOptions(resize_shorter, memory_limit, workers, reading=reading)
    where = CaptionOptions(captions) if isinstance(captions, str) else captions
    return open_source(locate(source, data_root, download), options, captions=where).load_dataset(split, options)
