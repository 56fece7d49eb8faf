"""Features of a frozen encoder, computed batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.augment.images import RaggedImages
from fastclr.data import Batch, ImageDataset, ImageIndex, LoaderKind, Order, Splits, make_loader
from fastclr.data.unreadable import TooMuchAheadError
from fastclr.device import has_float64
from fastclr.evaluate.frozen_encoder import frozen
from fastclr.parallel import World
from fastclr.sources.printable import progress_bar

BATCH_SIZE = 512


@dataclass(frozen=True)
class Extracted:
    """Features float32 ``[N, F]``, labels int64 ``[N]`` (-1 where unknown) and ids int64 ``[N]``, row by row."""

    features: Tensor
    labels: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Features:
    """Features ``[N, F]`` and labels ``[N]`` of the labelled training images, and of the labelled test images.

    Raises:
        ValueError: shapes do not match, a part is empty, or a label is negative.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def __post_init__(self) -> None:
        """Check shapes and labels."""
        for name, rows, labels in (
            ("train", self.train, self.train_labels),
            ("test", self.test, self.test_labels),
        ):
            check_labelled(name, rows, labels)
        if self.train.shape[1] != self.test.shape[1]:
            raise ValueError(
                f"train and test must have the same number of features, got {self.train.shape[1]}, {self.test.shape[1]}"
            )


def check_labelled(name: str, features: Tensor, labels: Tensor) -> None:
    """Raise a ValueError unless `features` is ``[N, F]`` with N > 0 and `labels` holds N classes, each at least 0."""
    if features.dim() != 2 or len(features) == 0:
        raise ValueError(f"{name} must be features [N, F] of at least one image, got {tuple(features.shape)}")
    if labels.shape != (len(features),) or labels.dtype != torch.int64:
        raise ValueError(f"{name}: labels must be int64 [{len(features)}], got {labels.dtype} {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise ValueError(f"{name}: labels must be known (>= 0); remove the unlabelled images")


def in_batches(
    images: Tensor | RaggedImages, ids: Tensor, labels: Tensor, batch_size: int = BATCH_SIZE
) -> Iterator[Batch]:
    """Yield in-memory images in order, without copying the pixels; the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        if isinstance(images, RaggedImages):
            chunk: Tensor | RaggedImages = images.select(torch.arange(start, stop, device=images.device))
        else:
            chunk = images[start:stop]
        yield Batch(chunk, ids[start:stop], labels[start:stop])


def evaluation_batches(
    dataset: ImageDataset | ImageIndex,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    loader: LoaderKind = "auto",
    workers: int | None = None,
) -> Iterator[Batch]:
    """Yield every image of `dataset` once, in order; those of an index that prove unreadable are left out.

    Args:
        dataset: decoded images, or an index whose images are decoded on the fly.
        device: the encoder's; batches are moved there if it can crop them, except decoded images of mixed sizes.
        batch_size: images per batch; the last one may be smaller, and so may all where the memory does not suffice.
        loader: decodes the images of an index; `auto` is DALI if installed.
        workers: its threads or processes.
    """
    crops = device if SimCLRAugment.supports(device) else torch.device("cpu")
    if isinstance(dataset, ImageIndex):
        yield from streamed_batches(dataset, crops, batch_size, loader, workers)
        return
    # images of mixed sizes share one buffer, all of which would be moved with every batch
    move = isinstance(dataset.images, Tensor)
    for batch in in_batches(dataset.images, dataset.ids, dataset.labels, batch_size):
        yield batch.to(crops) if move else batch


def streamed_batches(
    index: ImageIndex, device: torch.device, batch_size: int, kind: LoaderKind, workers: int | None
) -> Iterator[Batch]:
    """Yield every readable image of an index once, in order, in batches that fit into memory."""
    while True:
        order = Order(batch_size, shuffle=False, drop_last=False)
        try:
            loader = make_loader(index, kind, order, device=device, workers=workers)
            break
        except TooMuchAheadError:
            if batch_size == 1:
                raise
            batch_size //= 2
    seen = 0
    try:
        for batch in loader.epoch(0):
            planned = index.ids[seen : seen + len(batch)]
            seen += len(batch)
            if loader.skipped:  # images that could not be read have a stand-in, which has its turn elsewhere
                rows = (batch.ids.cpu() == planned).nonzero().flatten()
                batch = batch.select(rows.to(batch.ids.device))
            if len(batch):
                yield batch
    finally:
        loader.close()


def extract_features(
    encoder: nn.Module,
    images: Tensor | RaggedImages | Iterable[Batch],
    augment: AugmentConfig,
    *,
    batch_size: int = BATCH_SIZE,
    autocast: bool = False,
) -> Extracted:
    """Return the features of a frozen encoder with labels and ids, in image order.

    The encoder sees the fixed view of `evaluation_params`. Features stay on the encoder's device, or go to the CPU if
    they would fill more than a third of a CUDA device's free memory, or the device has no float64.

    Args:
        encoder: module from float images ``[n, 3, S, S]`` to ``[n, F]``.
        images: batches, for example from a loader that does not shuffle; or uint8 ``[N, H, W, 3]`` or `RaggedImages`
            on any device, which get ids 0 .. N - 1 and labels -1.
        augment: provides the size, mean and std that the encoder was trained with.
        batch_size: images per forward pass if `images` are not yet batched.
        autocast: compute in bfloat16.

    Raises:
        ValueError: there are no images, or the encoder does not return ``[n, F]``.
        FloatingPointError: a feature is NaN or infinite.
        RuntimeError: the encoder changed, see `frozen`.
    """
    if isinstance(images, (Tensor, RaggedImages)):
        ids = torch.arange(len(images), device=images.device)
        images = in_batches(images, ids, torch.full_like(ids, -1), batch_size)
    with frozen(encoder):
        return collect(encoder, images, augment, autocast)


def collect(encoder: nn.Module, batches: Iterable[Batch], augment: AugmentConfig, autocast: bool) -> Extracted:
    """Extract features as `extract_features` does, for an encoder that is already frozen."""
    transform = SimCLRAugment(augment, views=1)
    rows: list[Tensor] = []
    labels, ids, finite, held = [], [], [], 0
    keep = True
    for batch in batches:
        device = encoder_device(encoder, batch)
        view = transform.apply(batch.images, evaluation_params(image_sizes(batch.images), augment.size))[0]
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            features: Tensor = encoder(view.to(device))
        if features.dim() != 2:
            raise ValueError(f"the encoder must return features [N, F], got shape {tuple(features.shape)}")
        keep = keep and has_float64(device.type)  # what is computed of them needs it
        rows.append(features.float() if keep else features.float().cpu())
        finite.append(features.isfinite().all())
        labels.append(batch.labels.to(rows[-1].device))
        ids.append(batch.ids.to(rows[-1].device))
        held += rows[-1].nbytes
        if keep and not has_room(device, 2 * held):
            keep = False
            rows, labels, ids = ([tensor.cpu() for tensor in part] for part in (rows, labels, ids))
    if not rows:
        raise ValueError("there are no images to extract features from")
    if not bool(torch.stack(finite).all()):
        raise FloatingPointError("the encoder's features must be finite, but some are NaN or infinite")
    return Extracted(torch.cat(rows), torch.cat(labels), torch.cat(ids))


def encoder_device(encoder: nn.Module, batch: Batch) -> torch.device:
    """Return the device of a module's parameters or buffers; if it has none, that of the images."""
    owned = itertools.chain(encoder.parameters(), encoder.buffers())
    return next((tensor.device for tensor in owned), batch.images.device)


def has_room(device: torch.device, count: int) -> bool:
    """Tell whether `count` more bytes fit into the free memory of a CUDA `device`; always true for the CPU."""
    return device.type != "cuda" or count <= torch.cuda.mem_get_info(device)[0]


def labelled_features(
    encoder: nn.Module,
    data: Splits,
    augment: AugmentConfig,
    world: World,
    *,
    autocast: bool = False,
    workers: int | None = None,
) -> Features:
    """Return the features of all labelled images of `data` under a frozen `encoder`.

    Args:
        encoder: module from images to features; it is moved to the device of `world`.
        data: both splits; unlabelled images are skipped.
        augment: provides the size, mean and std that the encoder was trained with.
        world: processes that share the work; each gets all features. All of them must call this function.
        autocast: compute in bfloat16.
        workers: threads or processes that decode images.

    Raises:
        ValueError: there is no test split, or a split has no labels.
    """
    train, test = labelled_splits(data)
    encoder = encoder.to(world.device)
    parts: list[Tensor] = []
    with frozen(encoder):
        for name, split in (("training", train), ("test", test)):
            part = world.part(len(split))
            own = split if world.size == 1 else split.select(part)
            batches = evaluation_batches(own, world.device, loader=data.loader, workers=workers)
            total = -(-len(own) // BATCH_SIZE)
            features = collect(encoder, with_progress(batches, total, f"{name} features"), augment, autocast)
            rows, labels = with_gaps(features, own.ids)
            labels = world.join(labels, len(split))
            parts += [world.join(rows, len(split))[labels >= 0], labels[labels >= 0]]
    return Features(*parts)


def with_gaps(found: Extracted, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and labels for all `ids`, in their order: zeros and -1 where one could not be read."""
    if len(found.ids) == len(ids):
        return found.features, found.labels
    present = torch.isin(ids.to(found.ids.device), found.ids)
    rows = found.features.new_zeros(len(ids), found.features.shape[1])
    labels = found.labels.new_full((len(ids),), -1)
    rows[present], labels[present] = found.features, found.labels
    return rows, labels


def labelled_splits(data: Splits) -> tuple[ImageDataset | ImageIndex, ImageDataset | ImageIndex]:
    """Return the labelled images of both splits of `data`.

    Raises:
        ValueError: there is no test split, or a split has no labels.
    """
    source = data.train.source
    if not data.train.classes:
        raise ValueError(
            f"{source!r} has no labelled images to learn the classes from: give a CSV file of labels with --labels, or "
            "a folder of labelled images with --data, and a test folder with --test-data if it has no test split"
        )
    if data.test is None:
        raise ValueError(
            f"{source!r} has no labelled test images: give labels of some with --labels, or a folder of them with "
            "--test-data"
        )
    chosen = []
    for what, split in (("training", data.train), ("test", data.test)):
        known = (split.labels >= 0).nonzero().flatten()
        if len(known) == 0:
            raise ValueError(f"the {what} images of {source!r} must have labels (class subfolders); none has one")
        chosen.append(split if split.labelled else split.select(known))  # selecting copies the pixels
    return chosen[0], chosen[1]


def with_progress(batches: Iterable[Batch], total: int, title: str) -> Iterable[Batch]:
    """Wrap `batches` in a progress bar."""
    bar: Iterable[Batch] = progress_bar(iterable=batches, total=total, desc=title, leave=False)
    return bar
