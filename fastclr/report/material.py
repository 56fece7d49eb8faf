"""Collecting what a report shows from a run's folder, images and encoder; whatever is missing carries a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.augment import SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.data import ImageDataset, ImageIndex, Splits, decoded
from fastclr.data.order import permutation
from fastclr.device import resolve_device
from fastclr.evaluate import Features, extract_features, frozen
from fastclr.methods import METHODS
from fastclr.report.blocks import Missing
from fastclr.report.pictures import to_bytes
from fastclr.training.config import PretrainConfig
from fastclr.training.metric_names import KNN, LOSS
from fastclr.training.run import Run

SHOWN = 1000  # images in the map, neighbours and diagnostics: t-SNE of more is slower but no clearer
PAIRED = 512  # images whose two views are compared
BANK = 4000  # training images for the probe behind the confusion matrix
BATCH = 256  # images per forward pass
SHEET = 8  # images on the augmentation sheet
VIEWS = 4  # views of each of them


@dataclass(frozen=True)
class Sheet:
    """Images as seen in evaluation and views of each: uint8 ``[N, S, S, C]``, with their names.

    Args:
        originals: the images.
        views: the first few of their views, which may differ in size.
        count: number of views that the training makes.
        names: of the images.
    """

    originals: Tensor
    views: tuple[Tensor, ...]
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """Features of some images.

    Args:
        what: description of the images.
        dataset: the images.
        features: float32 ``[n, F]`` on the CPU.
        pairs: features of two views of up to `PAIRED` of them, on the CPU.
        bank: features and labels of labelled training images, on the CPU; None if there are none.
    """

    what: str
    dataset: ImageDataset
    features: Tensor
    pairs: tuple[Tensor, Tensor]
    bank: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Material:
    """Everything that a page shows about one run."""

    run: Run
    records: list[dict[str, Any]]
    sheet: Sheet | Missing
    sample: Sample | Missing

    @property
    def train(self) -> list[dict[str, Any]]:
        """The training records."""
        return [r for r in self.records if r.get("kind") == "train" and LOSS in r]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The records of evaluations during training."""
        return [r for r in self.records if r.get("kind") == "eval" and KNN in r]


def collect(run: Run, data: Splits | Missing, features: Features | None = None) -> Material:
    """Collect whatever is available.

    Args:
        run: the run, finished or not.
        data: its images, or why they are missing.
        features: of all labelled images, if already computed.
    """
    records = run.metrics.read()
    if isinstance(data, Missing):
        return Material(run, records, data, data)
    return Material(run, records, make_sheet(run, data.train), make_sample(run, data, features))


def sample_rows(count: int, most: int) -> Tensor:
    """Return up to `most` of `count` rows, sorted and the same on every call."""
    return permutation(count, 0, 0)[:most].sort().values


def make_sheet(run: Run, dataset: ImageDataset | ImageIndex) -> Sheet | Missing:
    """Draw the views of a few training images that the run's method takes in the first epoch."""
    try:
        chosen = decoded(dataset.select(sample_rows(len(dataset), SHEET)))
    except ValueError as error:
        return Missing(f"There are no views to show: {error}.")
    config, plan = run.config.augment, METHODS[run.config.method].plan(run.config)
    made = plan.augmenter(run.config.seed, channels_last=False)(chosen.images, chosen.ids, 0)
    views = [view for group in ([made] if isinstance(made, Tensor) else made) for view in group]  # groups by size
    shown = tuple(to_bytes(view, own.mean, own.std) for view, own in zip(views[:VIEWS], plan.each, strict=False))
    centre = evaluation_params(image_sizes(chosen.images), config.size)
    (original,) = SimCLRAugment(config, views=1).apply(chosen.images, centre)
    return Sheet(to_bytes(original, config.mean, config.std), shown, len(views), chosen.names)


def make_sample(run: Run, data: Splits, features: Features | None) -> Sample | Missing:
    """Compute the features of some images under the encoder of the last checkpoint; unreadable ones are left out."""
    try:
        encoder = run.load_encoder()
    except (FileNotFoundError, ValueError) as error:
        return Missing(f"There are no features to show: {error}.")
    device = resolve_device(run.config.device)
    encoder = encoder.to(device)
    labelled = data.test is not None and bool((data.test.labels >= 0).any()) and bool((data.train.labels >= 0).any())
    shown = data.test if labelled and data.test is not None else data.train
    known = (shown.labels >= 0).nonzero().flatten() if labelled else torch.arange(len(shown))
    rows = sample_rows(len(known), SHOWN)
    chosen = shown.select(known[rows])
    try:
        dataset = decoded(chosen)
        rows = rows[torch.isin(chosen.ids, dataset.ids)]
        if labelled and features is not None and len(features.test) == len(known):
            vectors = features.test[rows.to(features.test.device)].float().cpu()
        else:
            vectors = compute_features(encoder, dataset, run.config)
        bank = make_bank(encoder, data.train, run.config, features) if labelled else None
    except (FloatingPointError, ValueError) as error:
        return Missing(f"There are no features to show: {error}.")
    if not bool(vectors.isfinite().all()):
        return Missing("There are no features to show: the encoder returns NaN or infinite values.")
    what = f"{len(dataset)} {'test' if labelled else 'training'} images"
    return Sample(what, dataset, vectors, make_pairs(encoder, dataset, run), bank)


def make_bank(
    encoder: nn.Module, train: ImageDataset | ImageIndex, config: PretrainConfig, features: Features | None
) -> tuple[Tensor, Tensor]:
    """Return features and labels of up to `BANK` labelled training images."""
    known = (train.labels >= 0).nonzero().flatten()
    rows = sample_rows(len(known), BANK)
    if features is not None and len(features.train) == len(known):
        there = rows.to(features.train.device)
        return features.train[there].float().cpu(), features.train_labels[there].cpu()
    chosen = decoded(train.select(known[rows]))
    return compute_features(encoder, chosen, config), chosen.labels


def make_pairs(encoder: nn.Module, dataset: ImageDataset, run: Run) -> tuple[Tensor, Tensor]:
    """Return the features of two random views of up to `PAIRED` images, ``[n, F]`` on the CPU."""
    chosen = dataset.select(sample_rows(len(dataset), PAIRED))
    # the epoch after the last, so that the encoder was not trained on these views
    views = SimCLRAugment(run.config.augment, 2, run.config.seed)(chosen.images, chosen.ids, run.config.epochs)
    device = next(encoder.parameters()).device
    with frozen(encoder):
        parts = [encoder(part.to(device)).float().cpu() for part in views.flatten(0, 1).split(BATCH)]
    first, second = torch.cat(parts).chunk(2)
    return first, second


def compute_features(encoder: nn.Module, dataset: ImageDataset, config: PretrainConfig) -> Tensor:
    """Return float32 features ``[n, F]`` on the CPU, of images as seen in evaluation."""
    return extract_features(encoder, dataset.images, config.augment, batch_size=BATCH).features.cpu()
