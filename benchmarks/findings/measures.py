"""What is measured of a trained network: accuracy of h and z, what they tell of a transformation, few labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastclr.augment import SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.bench.findings.operators import gray, noise
from fastclr.data import Batch, ImageDataset, Splits
from fastclr.evaluate import Features, frozen, knn_accuracy, lbfgs_probe
from fastclr.methods import Method
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features
from fastclr.training.run import Run
from fastclr.transfer.finetune import FinetuneConfig, finetune

# alike for all: its choice costs more than the trainings of the cpu tier, and the features are standardised
L2 = 1e-2
SHARE, FEW_EPOCHS = "5%", 40
ROWS = 512


@dataclass(frozen=True)
class Outcome:
    """A network after its training.

    Args:
        method: encoder and head.
        data: the images.
        config: of the training.
        run: its folder; None for a network as it starts.
    """

    method: nn.Module
    data: Splits
    config: PretrainConfig
    run: Run | None = None

    @property
    def encoder(self) -> nn.Module:
        """The encoder."""
        found = self.method.encoder
        if not isinstance(found, nn.Module):
            raise TypeError(f"the encoder must be a module, got {type(found).__name__}")
        return found

    def features(self, network: nn.Module) -> Features:
        """Return what a network makes of all images."""
        return run_features(network, self.data, self.config)


def linear(features: Features, seed: int = 0) -> float:
    """Return the accuracy of logistic regression on standardised features."""
    return lbfgs_probe(features, l2=L2, seed=seed).scores.top1


def accuracy(outcome: Outcome) -> dict[str, float]:
    """Return linear and kNN accuracy of the features h."""
    features, config = outcome.features(outcome.encoder), outcome.config
    k = min(config.knn_k, len(features.train))
    knn = knn_accuracy(features, k=k, temperature=config.knn_temperature)
    return {"linear": linear(features), "knn": knn}


def projection(outcome: Outcome) -> dict[str, float]:
    """Return the linear accuracy of z = g(h), and of the principal components of h, as many as z has."""
    h, z = outcome.features(outcome.encoder), outcome.features(projector(outcome.method))
    return {"linear_z": linear(z), "linear_pca": linear(components(h, z.train.shape[1]))}


def projector(method: nn.Module) -> nn.Module:
    """Return encoder and head of a method with one branch as one module.

    Raises:
        ValueError: the method has no head.
    """
    head = getattr(method, "head", None)
    if not isinstance(method, Method) or not isinstance(head, nn.Module):
        raise ValueError(f"{type(method).__name__} has no projection head")
    return nn.Sequential(method.encoder, head)


def components(features: Features, count: int) -> Features:
    """Return the projections on the training features' first `count` principal components."""
    mean = features.train.mean(0)
    _, _, directions = torch.linalg.svd(features.train - mean, full_matrices=False)
    chosen = directions[:count].T
    return Features(
        (features.train - mean) @ chosen, features.train_labels, (features.test - mean) @ chosen, features.test_labels
    )


def told(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Outcome], dict[str, float]]:
    """Return a measure: how well h, and z, tell images that were changed from those that were not."""

    def measure(outcome: Outcome) -> dict[str, float]:
        found = {}
        for short, network in (("h", outcome.encoder), ("z", projector(outcome.method))):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(outcome.config.seed)  # the same images are changed, in the same way
                parts = [changed(network, part, outcome.config, change) for part in images_of(outcome.data)]
            (train, train_labels), (test, test_labels) = parts
            found[f"told_{name}_{short}"] = linear(Features(train, train_labels, test, test_labels))
        return found

    return measure


def images_of(data: Splits) -> tuple[ImageDataset, ImageDataset]:
    """Return training and test images.

    Raises:
        TypeError: they are not in memory.
    """
    if not isinstance(data.train, ImageDataset) or not isinstance(data.test, ImageDataset):
        raise TypeError("the findings need decoded images, training and test")
    return data.train, data.test


def changed(
    network: nn.Module, images: ImageDataset, config: PretrainConfig, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return features of the fixed views, a random half of them changed, and which they are."""
    view_of, rows = SimCLRAugment(config.augment, views=1), []
    labels = torch.randint(0, 2, (len(images),))
    with frozen(network), torch.no_grad():
        for start in range(0, len(images), ROWS):
            part = images.select(torch.arange(start, min(start + ROWS, len(images))))
            batch = Batch(part.images, part.ids, part.labels)
            view = view_of.apply(batch.images, evaluation_params(image_sizes(batch.images), config.augment.size))[0]
            own = labels[start : start + ROWS, None, None, None].bool()
            rows.append(network(torch.where(own, change(view), view)).float())
    return torch.cat(rows), labels


def few_labels(outcome: Outcome) -> dict[str, float]:
    """Return the accuracy of the whole network trained with few labels, from the pretrained weights and from random.

    Raises:
        ValueError: the network was not trained.
    """
    if outcome.run is None:
        raise ValueError("fine-tuning needs a run")
    found = {}
    for name, scratch in (("finetuned", False), ("scratch", True)):
        config = FinetuneConfig(share=SHARE, epochs=FEW_EPOCHS, from_scratch=scratch, seed=outcome.config.seed)
        found[name] = float(finetune(outcome.run, outcome.data, config).result["accuracy"])
    return found


MEASURES: dict[str, Callable[[Outcome], dict[str, float]]] = {
    "projection": projection,
    "told_gray": told("gray", lambda images: gray(images).expand_as(images)),
    "told_noise": told("noise", noise),
    "few_labels": few_labels,
}
