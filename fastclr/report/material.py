"""What a report shows, gathered from a run's folder, its images and its encoder; what is missing has a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.augment import SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.data import ImageDataset, ImageIndex, Splits
from fastclr.data.order import permutation
from fastclr.device import resolve_device
from fastclr.evaluate import Features, extract_features, frozen
from fastclr.report.pictures import to_bytes
from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run

SHOWN = 1000  # images of the map, the neighbours and the diagnostics: t-SNE of more is slow and no clearer
PAIRED = 512  # images whose two views are compared
BANK = 4000  # images that the probe of the confusion matrix learns from
BATCH = 256  # images per forward pass
SHEET = 8  # images of the augmentation sheet


@dataclass(frozen=True)
class Missing:
    """Why something cannot be shown."""

    reason: str


@dataclass(frozen=True)
class Sheet:
    """Images as an evaluation sees them and two views of each: uint8 ``[N, S, S, 3]``, and their names."""

    originals: Tensor
    views: tuple[Tensor, Tensor]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """Features of some images.

    Args:
        what: which images these are, in words.
        dataset: the images.
        features: float32 ``[n, F]`` on the CPU.
        pairs: features of two views of up to `PAIRED` of them, on the CPU.
        bank: features and labels of labelled training images, on the CPU; None where there are none.
    """

    what: str
    dataset: ImageDataset | ImageIndex
    features: Tensor
    pairs: tuple[Tensor, Tensor]
    bank: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Material:
    """Everything that a page shows of one run."""

    run: Run
    records: list[dict[str, Any]]
    sheet: Sheet | Missing
    sample: Sample | Missing

    @property
    def train(self) -> list[dict[str, Any]]:
        """The records of the training."""
        return [r for r in self.records if r.get("kind") == "train" and "loss" in r]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The records of the evaluations while training."""
        return [r for r in self.records if r.get("kind") == "eval" and "knn" in r]


def collect(run: Run, data: Splits | Missing, features: Features | None = None) -> Material:
    """Gather what there is.

    Args:
        run: the run, finished or not.
        data: its images, or why they are not there.
        features: of all labelled images, if they are known already.
    """
    records = run.metrics.read()
    if isinstance(data, Missing):
        return Material(run, records, data, data)
    return Material(run, records, make_sheet(run, data.train), make_sample(run, data, features))


def some_rows(count: int, most: int) -> Tensor:
    """Return up to `most` of `count` rows, in order, the same at every call."""
    return permutation(count, 0, 0)[:most].sort().values


def make_sheet(run: Run, dataset: ImageDataset | ImageIndex) -> Sheet:
    """Draw two views of a few training images, as in the first epoch."""
    chosen = dataset.select(some_rows(len(dataset), SHEET))
    config = run.config.augment
    views = SimCLRAugment(config, views=2, seed=run.config.seed)(chosen.images, chosen.ids, 0)
    centre = evaluation_params(image_sizes(chosen.images), config.size)
    original = SimCLRAugment(config, views=1).apply(chosen.images, centre)
    shown = [to_bytes(view, config.mean, config.std) for view in (*original, *views)]
    return Sheet(shown[0], (shown[1], shown[2]), chosen.names)


def make_sample(run: Run, data: Splits, features: Features | None) -> Sample | Missing:
    """Compute the features of some images under the encoder of the last checkpoint."""
    try:
        encoder = run.load_encoder()
    except (FileNotFoundError, ValueError) as error:
        return Missing(f"There are no features to show: {error}.")
    device = resolve_device(run.config.device)
    encoder = encoder.to(device)
    labelled = data.test is not None and bool((data.test.labels >= 0).any()) and bool((data.train.labels >= 0).any())
    shown = data.test if labelled and data.test is not None else data.train
    known = (shown.labels >= 0).nonzero().flatten() if labelled else torch.arange(len(shown))
    rows = some_rows(len(known), SHOWN)
    dataset = shown.select(known[rows])
    try:
        if labelled and features is not None and len(features.test) == len(known):
            vectors = features.test[rows.to(features.test.device)].float().cpu()
        else:
            vectors = vectors_of(encoder, dataset, run.config)
    except FloatingPointError as error:
        return Missing(f"There are no features to show: {error}.")
    if not bool(vectors.isfinite().all()):
        return Missing("There are no features to show: the encoder gives NaN or infinite values.")
    bank = make_bank(encoder, data.train, run.config, features) if labelled else None
    what = f"{len(dataset)} {'test' if labelled else 'training'} images"
    return Sample(what, dataset, vectors, make_pairs(encoder, dataset, run), bank)


def make_bank(
    encoder: nn.Module, train: ImageDataset | ImageIndex, config: PretrainConfig, features: Features | None
) -> tuple[Tensor, Tensor]:
    """Return features and labels of up to `BANK` labelled training images."""
    known = (train.labels >= 0).nonzero().flatten()
    rows = some_rows(len(known), BANK)
    if features is not None and len(features.train) == len(known):
        there = rows.to(features.train.device)
        return features.train[there].float().cpu(), features.train_labels[there].cpu()
    chosen = train.select(known[rows])
    return vectors_of(encoder, chosen, config), chosen.labels


def make_pairs(encoder: nn.Module, dataset: ImageDataset | ImageIndex, run: Run) -> tuple[Tensor, Tensor]:
    """Return the features of two random views of up to `PAIRED` images, ``[n, F]`` on the CPU."""
    chosen = dataset.select(some_rows(len(dataset), PAIRED))
    # the epoch after the last one: views that the encoder was not trained on
    views = SimCLRAugment(run.config.augment, 2, run.config.seed)(chosen.images, chosen.ids, run.config.epochs)
    device = next(encoder.parameters()).device
    with frozen(encoder):
        parts = [encoder(part.to(device)).float().cpu() for part in views.flatten(0, 1).split(BATCH)]
    first, second = torch.cat(parts).chunk(2)
    return first, second


def vectors_of(encoder: nn.Module, dataset: ImageDataset | ImageIndex, config: PretrainConfig) -> Tensor:
    """Return float32 features ``[n, F]`` on the CPU, of images as an evaluation sees them."""
    return extract_features(encoder, dataset.images, config.augment, batch_size=BATCH).features.cpu()
