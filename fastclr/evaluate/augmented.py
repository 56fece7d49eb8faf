"""The `augmented` protocol: a linear classifier on a frozen encoder, trained on random crops and flips."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.fixed_view import crop_and_flip
from fastclr.data import ImageDataset, ImageIndex, LoaderKind, Order, make_loader
from fastclr.evaluate.features import with_progress
from fastclr.evaluate.frozen_encoder import frozen
from fastclr.evaluate.linear import LinearClassifier, check_schedule, class_count, finite, zero_linear

REFERENCE_BATCH = 256  # of the linear learning rate scaling rule
LR_PER_REFERENCE = 0.1
MOMENTUM = 0.9


def scaled_lr(batch_size: int) -> float:
    """Return the paper's learning rate for linear evaluation: 0.1 batch_size / 256 (Chen et al. 2020, B.6)."""
    return LR_PER_REFERENCE * batch_size / REFERENCE_BATCH


def fit_augmented(
    encoder: nn.Module,
    dataset: ImageDataset | ImageIndex,
    augment: AugmentConfig,
    *,
    epochs: int = 100,
    batch_size: int = 512,
    lr: float | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    autocast: bool = False,
    device: torch.device | str = "cpu",
    loader: LoaderKind = "auto",
    workers: int | None = None,
) -> LinearClassifier:
    """Fit a linear classifier to a frozen encoder's features of random crops and flips.

    SGD with Nesterov momentum 0.9 from zero weights, per-step cosine to zero, no warm-up. An image's crop and flip
    are a function of (seed, epoch, id). Returns the last epoch's weights, without model selection. The encoder runs
    over the images once per epoch, and is checked at the end to be unchanged.

    Args:
        encoder: module from images ``[n, 3, S, S]`` to features ``[n, F]``, on `device`.
        dataset: labelled training images.
        augment: of pretraining; only its crops, flips, size, style and normalisation are used.
        epochs: passes over the images.
        batch_size: images per step.
        lr: peak learning rate. Default: 0.1 batch_size / 256.
        weight_decay: L2 penalty; this multiple of the weights is added to the gradient.
        seed: determines order, crops and flips.
        autocast: run the encoder in bfloat16.
        device: where to compute.
        loader: decodes images that are not in memory; `auto` is DALI if installed.
        workers: how many threads or processes it has; None: one for each core.

    Raises:
        ValueError: an image has no label, there are fewer than two classes, or an argument is out of range.
        RuntimeError: the encoder changed.
        FloatingPointError: the weights became NaN or infinite.

    Source: Chen et al. 2020, appendix B.6; google-research/simclr, README, linear evaluation.
    """
    lr = scaled_lr(batch_size) if lr is None else lr
    check_schedule(epochs, batch_size, lr, weight_decay)
    if not dataset.labelled:
        raise ValueError(f"all training images must have labels, but some of {dataset.source!r} have none")
    classes, where = class_count(dataset.labels), torch.device(device)
    transform = SimCLRAugment(crop_and_flip(augment), views=1, seed=seed)
    crops_on = where if SimCLRAugment.supports(where) else torch.device("cpu")
    source = make_loader(dataset, loader, Order(batch_size, seed, drop_last=False), device=crops_on, workers=workers)
    linear: nn.Linear | None = None
    with frozen(encoder):
        for epoch in range(epochs):
            batches = with_progress(source.epoch(epoch), len(source), f"linear probe, epoch {epoch + 1}/{epochs}")
            for batch in batches:
                view = transform(batch.images, batch.ids, epoch)[0].to(where)
                with torch.autocast(where.type, torch.bfloat16, enabled=autocast):
                    features = encoder(view)
                if linear is None:  # the number of features is known only now
                    linear = zero_linear(features.shape[1], classes, where)
                    optimizer = torch.optim.SGD(
                        linear.parameters(), lr, MOMENTUM, weight_decay=weight_decay, nesterov=True
                    )
                    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(source))
                with torch.enable_grad():
                    F.cross_entropy(linear(features.float()), batch.labels.to(where)).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
    source.close()
    if linear is None:
        raise ValueError(f"there are no images in {dataset.source!r}")
    return finite(LinearClassifier.of(linear))
