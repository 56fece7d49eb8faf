"""Features of all images of a source, read by any loader: in parts that survive a kill, then in one file."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Set, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastclr.augment import SimCLRAugment
from fastclr.data import Batch, ImageDataset, ImageIndex, Loader, LoaderKind, Order, make_loader
from fastclr.data.decode_many import DecodeOptions, check_readable
from fastclr.data.image_source import Split
from fastclr.data.loader_choice import check_kind
from fastclr.data.make_sets import class_labels
from fastclr.data.open_source import open_source
from fastclr.device import resolve_device
from fastclr.evaluate import frozen, state_hash
from fastclr.evaluate.features import collect
from fastclr.files import refuse_other
from fastclr.sources.entries import Entry
from fastclr.sources.label_file import read_labels
from fastclr.sources.printable import progress_bar
from fastclr.sources.published import locate
from fastclr.sources.reading import AS_RGB
from fastclr.training.run import Run
from fastclr.transfer.feature_file import check_suffix, read_settings, write_features
from fastclr.transfer.feature_parts import ADVICE, Parts

Kind = Literal["h", "z"]
BATCH_BYTES = 2**28  # of decoded pixels: batches of large photos are smaller


@dataclass(frozen=True)
class Embedded:
    """What `embed` wrote: number of images, features of each, (name, reason) of the left out, images done before."""

    images: int
    dim: int
    skipped: tuple[tuple[str, str], ...]
    resumed: int


def load_module(run: Run, kind: Kind) -> nn.Module:
    """Return the encoder (h), or the encoder with its head (z), with the weights of the last checkpoint.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: the kind is unknown.
    """
    if kind not in ("h", "z"):
        raise ValueError(f"features must be h (of the encoder) or z (of the projection head), got {kind!r}")
    if kind == "h":
        return run.load_encoder()
    return run.load_model()


def embed(
    run: Run,
    source: str | Path | Sized,
    out: Path,
    *,
    features: Kind = "h",
    split: Split = "all",
    half: bool = False,
    batch_size: int = 256,
    device: str = "auto",
    loader: LoaderKind = "auto",
    workers: int | None = None,
    memory_limit: int | None = None,
    data_root: str | Path = "data",
    follow_links: str | Path | None = None,
    labels: str | Path | None = None,
) -> Embedded | None:
    """Write the features of all images of a source, in float32 arithmetic; a killed call goes on where it was.

    Finished parts of `feature_parts.PART` features lie in the folder ``OUT.parts``, which goes when `out` is there.

    Args:
        run: whose encoder, preprocessing and `resize_shorter` are used.
        source: as for `fastclr.data.load_splits`.
        out: a file that ends in ``.npz`` or ``.parquet``; see `fastclr.transfer.feature_file`.
        features: ``h`` of the encoder or ``z`` of the projection head.
        split: which images.
        half: store float16.
        batch_size: images per forward pass; fewer where they are large.
        device: ``auto`` or a torch device.
        loader: ``dali`` and ``torch`` decode a few batches ahead; ``resident`` decodes as many images at a time as
            memory holds; ``auto`` chooses as for `fastclr.data.load_splits`.
        workers: threads (resident, dali) or processes (torch) that decode; None is one per core.
        memory_limit: bytes that decoded images may take; None is half of the free memory.
        data_root: folder with the files of ``cifar10``, ``cifar100`` and ``stl10``.
        follow_links: symbolic links are followed that lead into this folder.
        labels: CSV file that gives the classes in place of the folders; see `fastclr.sources.label_file`.

    Returns:
        what was written; None if `out` was there with the same settings.

    Raises:
        ValueError: an argument does not fit; `out` or its parts were made with other settings; or more than half of
            the images, or 64 in a row, cannot be read.
        FloatingPointError: a feature is NaN or infinite.
        FileNotFoundError: the run has no checkpoint.
    """
    check_suffix(out)
    check_kind(loader)
    if split not in get_args(Split):
        raise ValueError(f"split must be all, train or test, got {split!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out is in a folder that does not exist: {out.absolute().parent}")
    where = resolve_device(device)
    module = load_module(run, features).to(where)
    place = locate(source, data_root)
    shorter, reading = None if isinstance(place, (str, Path)) else run.config.resize_shorter, run.config.reading
    opened = open_source(place, DecodeOptions(shorter, memory_limit, workers or None, reading=reading), follow_links)
    if labels is not None:
        opened = opened.relabelled(read_labels(labels, place if isinstance(place, (str, Path)) else None))
    entries, classes = opened.listed(split)
    settings = describe(run, module, entries, classes, opened.content_digest(split), features, half)
    parts = Parts(out.with_name(f"{out.name}.parts"), settings, len(entries))
    if out.exists():
        refuse_other(read_settings(out), settings, out, ADVICE)
        parts.remove()
        return None
    # threads decode what is resident, and there is at least one
    options = DecodeOptions(run.config.resize_shorter, memory_limit, workers or None, reading=reading)
    sets = opened.load_listed(split, loader, options, where)
    sets = itertools.chain([next(sets)], sets)  # images that cannot be loaded at all leave no parts behind
    resumed = parts.open()
    reasons: dict[str, str] = {}
    bar = progress_bar(total=len(entries), initial=resumed, desc="embedding", unit=" images", leave=False)
    with frozen(module), bar:
        for images, kind in sets:
            order = Order(fitting(batch_size, images), shuffle=False, drop_last=False)
            crops = where if SimCLRAugment.supports(where) else "cpu"
            with closing(make_loader(images, kind, order, device=crops, workers=workers)) as streamed:
                for batch, counts, failed in missing(images, streamed, parts.done):
                    vectors = collect(module, [batch], run.config.augment, autocast=False).features.cpu()[counts]
                    stored = vectors.to(torch.float16 if half else torch.float32)
                    if not bool(stored.isfinite().all()):
                        raise FloatingPointError(f"the features must be finite in {stored.dtype}, but some are not")
                    rows = batch.ids.cpu()[counts].tolist()
                    parts.add(rows, stored, failed)
                    bar.update(len(rows) + len(failed))
            reasons = {**dict(images.skipped), **reasons}
    parts.flush()
    # what is not in any set could not be read when that was made
    parts.add([], torch.empty(0), {e.id: reasons[e.name] for e in entries if e.id not in parts.done})
    parts.flush()
    try:
        check_readable(str(source), {entries[row].name: reason for row, reason in parts.failed.items()}, len(entries))
    except ValueError:
        parts.remove()  # so that the files are read anew when they have been mended
        raise
    table = parts.assemble(entries, classes)
    write_features(out, table)
    parts.remove()
    return Embedded(len(table), table.features.shape[1], table.skipped, resumed)


def describe(
    run: Run, module: nn.Module, entries: list[Entry], classes: tuple[str, ...], digest: str, features: str, half: bool
) -> dict[str, Any]:
    """Return all that decides what the features are, as JSON has it."""
    augment = run.config.augment
    listed = ascii([tuple(entry.name for entry in entries), class_labels(entries, classes).tolist(), classes])
    settings = {
        "encoder": run.config.encoder,
        "weights": state_hash(module),
        "features": features,
        "dtype": "float16" if half else "float32",
        "size": augment.size,
        "mean": augment.mean,
        "std": augment.std,
        "style": augment.style,
        "resize_shorter": run.config.resize_shorter,
        **({} if run.config.reading == AS_RGB else {"reading": repr(run.config.reading)}),
        "images": hashlib.blake2b(listed.encode(), digest_size=16).hexdigest(),
        "contents": digest,
    }
    stored: dict[str, Any] = json.loads(json.dumps(settings))
    return stored


def fitting(batch_size: int, images: ImageDataset | ImageIndex) -> int:
    """Return the size of batches that take about `BATCH_BYTES` decoded, at most `batch_size`."""
    return min(batch_size, -(-BATCH_BYTES * len(images) // images.nbytes))


def missing(
    images: ImageDataset | ImageIndex, loader: Loader, done: Set[int]
) -> Iterator[tuple[Batch, Tensor, dict[int, str]]]:
    """Yield the batches with images that are not done, which of their images count, and why others cannot be read.

    The image that stands in for an unreadable one does not count: it has a place of its own.
    """
    batches: Iterator[Batch] = iter(())
    size, following = loader.order.batch_size, -1
    for step, planned in enumerate(images.ids.split(size)):
        new = torch.tensor([row not in done for row in planned.tolist()])
        if not bool(new.any()):
            continue
        if step != following:
            batches = loader.epoch(0, step)
        following = step + 1
        batch = next(batches)
        read = batch.ids.cpu() == planned
        names = images.names[step * size : (step + 1) * size]
        failed = {int(planned[i]): loader.skipped[names[i]] for i in (new & ~read).nonzero().flatten().tolist()}
        yield batch, new & read, failed
