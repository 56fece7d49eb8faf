"""What an encoder has learnt: kNN and a linear probe on frozen features.

The protocol is enforced, not hoped for: evaluation mode, no gradients, and a hash of every weight and buffer of the
encoder before and after, because published probes have been contaminated by batch statistics that kept moving.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.config import PretrainConfig
from fastclr.data import Splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.images import RaggedImages

CROP_ABOVE = 32  # pixels: google-research/simclr crops the centre of larger images only
CROP_FRACTION = 0.875


@dataclass(frozen=True)
class Features:
    """Features ``[N, F]`` and labels ``[N]`` of the labelled training images, and of the labelled test images."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def state_hash(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of `module`, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[nn.Module]:
    """Hold `encoder` in evaluation mode without gradients, and check that nothing in it changed.

    Raises:
        RuntimeError: a weight or a batch statistic differs afterwards.
    """
    modes = {module: module.training for module in encoder.modules()}
    before = state_hash(encoder)
    encoder.eval()
    try:
        with torch.no_grad():
            yield encoder
    finally:
        for module, mode in modes.items():
            module.training = mode
    if state_hash(encoder) != before:
        raise RuntimeError("the encoder must stay unchanged during an evaluation, but its weights or buffers moved")


def evaluation_params(sizes: Tensor, size: int) -> AugmentParams:
    """Return the fixed view of an evaluation: whole image up to 32 px, else the centre 87.5% square.

    Args:
        sizes: int64 ``[N, 2]``, heights and widths.
        size: side of the output in pixels.
    """
    short = sizes.amin(dim=1)
    side = (short * CROP_FRACTION).round().clamp_min(1).long() if size > CROP_ABOVE else short
    packed = torch.zeros(1, len(sizes), 16, device=sizes.device)
    packed[0, :, 0] = ((sizes[:, 0] - side) // 2).float()
    packed[0, :, 1] = ((sizes[:, 1] - side) // 2).float()
    packed[0, :, 2] = packed[0, :, 3] = side.float()
    packed[0, :, 5:8] = 1.0  # brightness, contrast and saturation of an unchanged image
    packed[0, :, 9] = -1.0
    return AugmentParams(packed)


def image_sizes(images: Tensor | RaggedImages) -> Tensor:
    """Return int64 ``[N, 2]`` heights and widths of a batch."""
    if isinstance(images, RaggedImages):
        return images.sizes
    return torch.tensor(images.shape[1:3], device=images.device).expand(len(images), 2)


def extract_features(
    encoder: nn.Module,
    images: Tensor | RaggedImages,
    augment: AugmentConfig,
    *,
    batch_size: int = 512,
    autocast: bool = False,
) -> Tensor:
    """Return the features h ``[N, F]`` (float32, on the encoder's device) of a frozen encoder.

    Args:
        encoder: module from float images ``[n, 3, S, S]`` to ``[n, F]``.
        images: uint8 ``[N, H, W, 3]`` or `RaggedImages`, on any device.
        augment: gives the size, mean and std that the encoder was trained with.
        batch_size: images per forward pass.
        autocast: compute in bfloat16.
    """
    owned = itertools.chain(encoder.parameters(), encoder.buffers())
    device = next((tensor.device for tensor in owned), images.device)
    transform = SimCLRAugment(augment, views=1)
    parts = []
    with frozen(encoder):
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            index = torch.arange(start, stop, device=images.device)
            chunk = images.select(index) if isinstance(images, RaggedImages) else images[start:stop]
            view = transform.apply(chunk, evaluation_params(image_sizes(chunk), augment.size))[0]
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                parts.append(encoder(view.to(device)).float())
    return torch.cat(parts)


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, *, k: int = 20, temperature: float | None = 0.1, block: int = 1024
) -> Tensor:
    """Predict by the k most similar rows of `bank` under the cosine; int64 ``[Q]``.

    score(c) = sum over the k neighbours of class c of exp(cosine / temperature)   (1 each if temperature is None).
    Ties go to the smaller class.

    Args:
        bank: float features ``[N, F]``.
        labels: int64 ``[N]``, classes from 0.
        queries: float features ``[Q, F]``, same device.
        k: number of neighbours, at most N.
        temperature: weight of similarity (Wu et al. 2018, section 3.4), or None for a plain vote.
        block: queries per block; memory is block x N.

    Raises:
        ValueError: shapes do not fit, k is out of range, a label is negative.
    """
    if bank.dim() != 2 or queries.dim() != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank and queries must be [N, F] and [Q, F], got {tuple(bank.shape)}, {tuple(queries.shape)}")
    if labels.shape != (len(bank),) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 [{len(bank)}], got {labels.dtype} {tuple(labels.shape)}")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be between 1 and the {len(bank)} images of the bank, got {k}")
    if int(labels.min()) < 0:
        raise ValueError("labels must be known (>= 0); drop the unlabelled images from the bank")
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    classes = int(labels.max()) + 1
    predictions = []
    for rows in queries.split(block):
        similarity, neighbours = (rows @ bank.T).topk(k, dim=1)
        weights = torch.ones_like(similarity) if temperature is None else (similarity / temperature).exp()
        votes = rows.new_zeros(len(rows), classes).scatter_add_(1, labels[neighbours], weights)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def knn_accuracy(features: Features, *, k: int = 20, temperature: float | None = 0.1) -> float:
    """Return the share of test images whose kNN prediction is right; see `knn_predict`."""
    predictions = knn_predict(features.train, features.train_labels, features.test, k=k, temperature=temperature)
    return float((predictions == features.test_labels).double().mean())


def probe_accuracy(features: Features, *, l2: float = 1e-3) -> float:
    """Return the test accuracy of logistic regression on standardised, frozen features.

    minimise  mean cross-entropy + l2/2 |W|^2   by L-BFGS to convergence (scikit-learn); there is no last or best
    epoch to choose, and nothing is selected on the test labels.

    Args:
        features: of a frozen encoder.
        l2: regularisation per sample, above 0.

    Raises:
        ValueError: l2 is not positive, or there are fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a positive number, got {l2}")
    found = features.train_labels.unique().numel()
    if found < 2:
        raise ValueError(f"a linear probe needs at least 2 classes, got {found}")
    strength = 1.0 / (l2 * len(features.train))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    classifier.fit(features.train.cpu().numpy(), features.train_labels.cpu().numpy())
    return float(classifier.score(features.test.cpu().numpy(), features.test_labels.cpu().numpy()))


def labelled_features(encoder: nn.Module, data: Splits, config: PretrainConfig) -> Features:
    """Return the features of all labelled images of `data` under a frozen `encoder`.

    Raises:
        ValueError: there is no test split, or a split has no labels.
    """
    if data.test is None:
        raise ValueError(f"{config.data!r} has no labelled test images: give a folder of them with --test-data")
    device = resolve_device(config.device)
    encoder = encoder.to(device)
    parts: list[Tensor] = []
    for what, split in (("training", data.train), ("test", data.test)):
        known = (split.labels >= 0).nonzero().flatten()
        if len(known) == 0:
            raise ValueError(f"the {what} images of {config.data!r} must have labels (class subfolders); none has one")
        images = split.images if split.labelled else split.select(known).images  # a selection copies the pixels
        features = extract_features(encoder, images, config.augment, autocast=uses_bf16(config.amp, device))
        parts += [features, split.labels[known].to(features.device)]
    return Features(*parts)
