"""Logistic regression by L-BFGS, and the choice of its regularisation without any test image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.data.label_subsets import stratified
from fastclr.device import full_float32
from fastclr.evaluate.features import check_labelled
from fastclr.evaluate.linear import BLOCK, LinearClassifier, class_count, finite
from fastclr.evaluate.scores import label_ranks

# 45 values from 1e-6 to 1e5 (Chen et al. 2020, appendix B.8)
GRID = tuple(float(value) for value in np.logspace(-6, 5, 45))
VALIDATION = 0.1  # share of every class of the training images
TOLERANCE = 1e-5  # largest entry of the gradient of the mean loss at which a fit has converged
SELECTION_TOLERANCE = 1e-4  # the same for the 45 fits of a selection: scikit-learn's default
DECREASE = 1e-10  # relative, of the loss, at which it has converged too: float32 logits do not resolve less
ITERATIONS = 1000

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier, and whether L-BFGS converged within its iterations."""

    classifier: LinearClassifier
    converged: bool


@dataclass(frozen=True)
class Selection:
    """What a validation split of the training images says about the regularisation.

    Args:
        l2: the chosen value.
        accuracies: validation accuracy of every value of the grid.
        validation_images: how many images these are shares of.
        start: the classifier that was chosen, fitted to the other training images.
    """

    l2: float
    accuracies: dict[float, float]
    validation_images: int
    start: LinearClassifier


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    l2: float,
    *,
    start: LinearClassifier | None = None,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    device: torch.device | str | None = None,
) -> Fit:
    """Fit multinomial logistic regression to standardised features by L-BFGS.

    minimise  mean cross-entropy + l2/2 |W|^2   (the bias is free; scikit-learn's C is 1 / (N l2)).

    The loss and its gradient are computed on `device` in blocks of rows, L-BFGS itself by SciPy in float64.

    Args:
        features: float ``[N, F]`` of training images.
        labels: int64 ``[N]``.
        l2: regularisation per sample, above 0.
        start: begin here instead of at zero; the minimum is the same.
        tolerance: largest entry of the gradient at which the fit has converged.
        iterations: most steps of L-BFGS.
        device: computes. Default: that of the features.

    Raises:
        ValueError: l2 is not positive, or there are fewer than two classes.
        FloatingPointError: the weights became NaN or infinite.
    """
    from scipy.optimize import minimize

    check_labelled("features", features, labels)
    check_l2(l2)
    classes, width = class_count(labels), features.shape[1]
    where = features.device if device is None else torch.device(device)
    std, mean = torch.std_mean(features.float(), dim=0, correction=0)
    mean, std = mean.to(where), std.masked_fill(std == 0, 1.0).to(where)
    shape = (classes, width + 1)  # the last column is the bias
    begin = np.zeros(shape) if start is None else packed(start, mean, std)
    loss = objective(features, labels.to(where), mean, std, shape, l2)
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": tolerance, "ftol": DECREASE}
    with full_float32(), torch.no_grad():
        result = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    best = torch.from_numpy(result.x).reshape(shape).to(where, torch.float32)
    classifier = LinearClassifier(best[:, :-1].contiguous(), best[:, -1].contiguous(), mean, std)
    # a line search that float32 cannot refine any more is as converged as it gets; only running out of steps is not
    return Fit(finite(classifier), result.status != 1)


def check_l2(l2: float) -> None:
    """Raise a ValueError unless `l2` is positive and finite."""
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a positive number, got {l2}")


def packed(start: LinearClassifier, mean: Tensor, std: Tensor) -> Vector:
    """Return weights and bias ``[C, F + 1]`` of `start`, moved to features standardised by `mean` and `std`."""
    weight = start.weight.double() / start.std * std
    bias = start.bias.double() + (start.weight.double() / start.std) @ (mean.double() - start.mean)
    result: Vector = torch.cat([weight, bias[:, None]], dim=1).cpu().numpy()
    return result


def objective(
    features: Tensor, labels: Tensor, mean: Tensor, std: Tensor, shape: tuple[int, int], l2: float
) -> Callable[[Vector], tuple[float, Vector]]:
    """Return the function that gives loss and gradient at the parameters ``[C (F + 1)]``."""

    def evaluate(flat: Vector) -> tuple[float, Vector]:
        theta = torch.from_numpy(flat).reshape(shape).to(mean.device)
        weight, bias = theta[:, :-1].float(), theta[:, -1].float()
        gradient = torch.zeros_like(theta)
        total = torch.zeros((), dtype=torch.float64, device=mean.device)
        for start in range(0, len(features), BLOCK):
            rows = (features[start : start + BLOCK].to(mean) - mean) / std
            own = labels[start : start + BLOCK, None]
            # float64 from here on, or the line search cannot tell the last steps from rounding
            logs = F.linear(rows, weight, bias).double().log_softmax(dim=1)
            total -= logs.gather(1, own).sum()
            error = logs.exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=logs.dtype))
            gradient[:, :-1] += error.float().T @ rows
            gradient[:, -1] += error.sum(dim=0)
        weight64 = theta[:, :-1]
        gradient /= len(features)
        gradient[:, :-1] += l2 * weight64
        value = total / len(features) + 0.5 * l2 * weight64.square().sum()
        return float(value), gradient.flatten().cpu().numpy()

    return evaluate


def select_l2(
    features: Tensor,
    labels: Tensor,
    *,
    grid: Sequence[float] = GRID,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Selection:
    """Choose the regularisation on a tenth of every class of the training images.

    One fit per value to the other images, from strong to weak, each starting from the one before. The highest
    validation accuracy wins; of equal ones, the strongest regularisation. This function has no way to see a test image.

    Args:
        features: float ``[N, F]`` of training images.
        labels: int64 ``[N]``. A class with a single image is not validated on.
        grid: values to try.
        seed: decides which images validate.
        device: computes. Default: that of the features.

    Raises:
        ValueError: a value is not positive, there are fewer than two classes, or no class has two images.
    """
    check_labelled("features", features, labels)
    if not grid:
        raise ValueError("grid must hold at least one value, got none")
    for value in grid:
        check_l2(value)
    class_count(labels)
    validation = stratified(labels.cpu(), VALIDATION, seed).to(features.device)
    if len(validation) == 0:
        raise ValueError("choosing l2 needs a class with at least 2 training images: give a value of l2 instead")
    learn = torch.ones(len(features), dtype=torch.bool, device=features.device)
    learn[validation] = False
    held, held_labels = features[validation], labels.to(features.device)[validation]
    rest, rest_labels = features[learn], labels.to(features.device)[learn]
    accuracies: dict[float, float] = {}

    def path() -> Iterator[tuple[float, LinearClassifier]]:
        current: LinearClassifier | None = None
        for l2 in sorted(set(grid), reverse=True):
            fit = fit_logistic(rest, rest_labels, l2, start=current, tolerance=SELECTION_TOLERANCE, device=device)
            current = fit.classifier
            ranks = label_ranks(current.logits(held), held_labels.to(current.weight.device))
            accuracies[l2] = float((ranks == 0).double().mean())
            yield l2, current

    l2, start = max(path(), key=lambda step: accuracies[step[0]])  # the first of equal ones
    return Selection(l2, accuracies, len(validation), start)
