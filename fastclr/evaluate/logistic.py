"""Logistic regression by L-BFGS, and the choice of its regularisation without any test image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.data.label_subsets import stratified
from fastclr.device import available_memory, exact, exact_device, full_float32
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
WIDEST = 4096  # features up to which factors of their covariance cost less than the steps that they save
# l2 from which the curvature is guessed. Below, classes that can be separated leave a loss so flat that fits end far
# from the minimum by any rule, and where would depend on the guess: another accuracy, and another choice of l2
GUESSED_FROM = 0.99e-3
CURVATURE = 0.2  # of the mean cross-entropy, as a share of the covariance: a guess that decides the number of steps
ROUNDING = 1e-6  # of a covariance in float32, relative to its trace
QUIET_S = 2.0  # seconds between two lines of progress

Vector = npt.NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier.

    Args:
        classifier: the classifier.
        converged: whether L-BFGS stopped by its tolerances, not for want of iterations.
        gradient: its largest entry where it stopped. Where l2 is small and the classes can be separated, the loss is so
            flat that the minimum may still be far.
    """

    classifier: LinearClassifier
    converged: bool
    gradient: float


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
    say: Say | None = None,
) -> Fit:
    """Fit multinomial logistic regression to standardised features by L-BFGS.

    minimise  mean cross-entropy + l2/2 |W|^2   (the bias is free; scikit-learn's C is 1 / (N l2)).

    The loss and its gradient are computed on `device` in blocks of rows, on the CPU if that has no float64; L-BFGS
    itself by SciPy in float64.

    Args:
        features: float ``[N, F]`` of training images.
        labels: int64 ``[N]``.
        l2: regularisation per sample, above 0.
        start: begin here instead of at zero; the minimum is the same.
        tolerance: largest entry of the gradient at which the fit has converged.
        iterations: most steps of L-BFGS.
        device: computes. Default: that of the features.
        say: takes a line every few seconds, on how far the fit is.

    Raises:
        ValueError: l2 is not positive, or there are fewer than two classes.
        FloatingPointError: the weights became NaN or infinite.
    """
    check_labelled("features", features, labels)
    check_l2(l2)
    features, labels = exact(features), exact(labels)
    where = features.device if device is None else exact_device(torch.device(device))
    return Problem(features, labels, where).fit(l2, start, tolerance, iterations, say)


def check_l2(l2: float) -> None:
    """Raise a ValueError unless `l2` is positive and finite."""
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a positive number, got {l2}")


def packed(start: LinearClassifier, mean: Tensor, std: Tensor) -> Tensor:
    """Return weights and bias float64 ``[C, F + 1]`` of `start`, moved to features standardised by `mean` and `std`."""
    weight = start.weight.double() / start.std * std
    bias = start.bias.double() + (start.weight.double() / start.std) @ (mean.double() - start.mean)
    return torch.cat([weight, bias[:, None]], dim=1)


class Problem:
    """Features, standardised once, and labels: fitted for as many values of l2 as there are to try.

    Args:
        features: float ``[N, F]``.
        labels: int64 ``[N]``.
        where: computes. Where the standardised features, float32 ``[N, F]``, leave half of its free memory, they stay
            there; else they are computed again in every evaluation.
    """

    def __init__(self, features: Tensor, labels: Tensor, where: torch.device) -> None:
        self.shape = class_count(labels), features.shape[1] + 1  # the last column is the bias
        self.features, self.labels = features, labels.to(where)
        std, mean = torch.std_mean(features.float(), dim=0, correction=0)
        self.mean, self.std = mean.to(where), std.masked_fill(std == 0, 1.0).to(where)
        self.kept = list(self.standardised()) if has_room(where, 4 * features.numel()) else None
        self.covariance = self.find_covariance() if features.shape[1] <= WIDEST else None
        self.blas = scipy_threads()

    def standardised(self) -> Iterator[Tensor]:
        """Yield standardised features float32 ``[n, F]``, block by block."""
        return ((rows.to(self.mean) - self.mean) / self.std for rows in self.features.split(BLOCK))

    def blocks(self) -> Iterable[Tensor]:
        """Return the same from memory, if it has room for them."""
        return self.standardised() if self.kept is None else self.kept

    def find_covariance(self) -> Tensor:
        """Return the covariance float64 ``[F, F]`` of the standardised features."""
        width = self.shape[1] - 1
        total = torch.zeros(width, width, dtype=torch.float64, device=self.mean.device)
        with full_float32():
            for rows in self.blocks():
                total += rows.T @ rows
        return total / len(self.labels)

    def root(self, l2: float) -> Tensor | None:
        """Return the Cholesky factor float64 ``[F, F]`` of a guess at the curvature, or None for no guess."""
        if self.covariance is None or l2 < GUESSED_FROM:
            return None
        curvature = CURVATURE * self.covariance
        curvature.diagonal().add_(l2 + CURVATURE * ROUNDING * len(curvature))
        factor: Tensor = torch.linalg.cholesky_ex(curvature).L  # NaN where features are not finite
        return factor

    def fit(
        self, l2: float, start: LinearClassifier | None, tolerance: float, iterations: int, say: Say | None = None
    ) -> Fit:
        """Do what `fit_logistic` says.

        L-BFGS moves v in W = v L^-1, with L L^T the guess at the curvature: it meets one near 1 in every direction, and
        needs a fraction of the steps. The minimum is the same, and so is the gradient by which it is recognised.
        """
        from scipy.optimize import minimize

        root, shown = self.root(l2), None if say is None else every(QUIET_S, say)
        steepest = float("inf")

        def evaluate(flat: Vector) -> tuple[float, Vector]:
            nonlocal steepest
            value, gradient = self.evaluate(weights(torch.from_numpy(flat).reshape(self.shape), root), l2)
            steepest = float(gradient.abs().max())
            if root is not None:
                gradient[:, :-1] = torch.linalg.solve_triangular(root.T, gradient[:, :-1], upper=True, left=False)
            if shown is not None:
                shown(f"logistic regression: loss {value:.6f}")
            return value, gradient.flatten().cpu().numpy()

        def stop(_: Vector) -> None:
            if steepest <= tolerance:
                raise StopIteration

        begin = torch.zeros(self.shape, dtype=torch.float64)
        if start is not None:
            begin = packed(start, self.mean, self.std)
            begin[:, :-1] = begin[:, :-1] if root is None else begin[:, :-1] @ root
        # the gradient of L-BFGS is not that of W, so that `stop` looks at the latter
        options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": 0.0, "ftol": DECREASE}
        with full_float32(), torch.no_grad(), self.blas.limit(limits=1):
            result = minimize(
                evaluate, begin.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", callback=stop, options=options
            )
        best = weights(torch.from_numpy(result.x).reshape(self.shape), root).to(self.mean)
        classifier = LinearClassifier(best[:, :-1].contiguous(), best[:, -1].contiguous(), self.mean, self.std)
        # a line search that float32 cannot refine any more is as converged as it gets; only running out of steps is not
        steepest = float(
            self.evaluate(weights(torch.from_numpy(result.x).reshape(self.shape), root), l2)[1].abs().max()
        )
        return Fit(finite(classifier), result.status != 1, steepest)

    def evaluate(self, theta: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return the loss and its gradient ``[C, F + 1]`` at float64 weights and bias ``[C, F + 1]``."""
        theta = theta.to(self.mean.device)
        weight, bias = theta[:, :-1].float(), theta[:, -1].float()
        gradient = torch.zeros_like(theta)
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        for rows, own in zip(self.blocks(), self.labels[:, None].split(BLOCK), strict=True):
            # float64 from here on, or the line search cannot tell the last steps from rounding
            logs = F.linear(rows, weight, bias).double().log_softmax(dim=1)
            total -= logs.gather(1, own).sum()
            error = logs.exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=logs.dtype))
            gradient[:, :-1] += error.float().T @ rows
            gradient[:, -1] += error.sum(dim=0)
        weight64 = theta[:, :-1]
        gradient /= len(self.labels)
        gradient[:, :-1] += l2 * weight64
        return float(total / len(self.labels) + 0.5 * l2 * weight64.square().sum()), gradient


def weights(theta: Tensor, root: Tensor | None) -> Tensor:
    """Return weights and bias float64 ``[C, F + 1]`` of what L-BFGS moves."""
    if root is None:
        return theta
    theta = theta.to(root.device)
    return torch.cat(
        [torch.linalg.solve_triangular(root, theta[:, :-1], upper=False, left=False), theta[:, -1:]], dim=1
    )


def has_room(where: torch.device, count: int) -> bool:
    """Tell whether `count` bytes are at most half of the free memory of a device."""
    free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else available_memory()
    return 2 * count <= free


def scipy_threads() -> Any:
    """Return what limits the threads of NumPy's and SciPy's OpenBLAS.

    L-BFGS gives it vectors only, for which more threads than one gain nothing; but they wait busily on the cores on
    which torch then computes.
    """
    import scipy.optimize  # noqa: F401 - only what is loaded is found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(prefix="libscipy_openblas")


def every(seconds: float, say: Say) -> Say:
    """Return a function that hands a line on if the one before came at least so many seconds ago."""
    last = time.monotonic()

    def now_and_then(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(line)

    return now_and_then


def select_l2(
    features: Tensor,
    labels: Tensor,
    *,
    grid: Sequence[float] = GRID,
    seed: int = 0,
    device: torch.device | str | None = None,
    say: Say | None = None,
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
        say: takes a line every few seconds, on how far the choice is.

    Raises:
        ValueError: a value is not positive, there are fewer than two classes, or no class has two images.
    """
    check_labelled("features", features, labels)
    if not grid:
        raise ValueError("grid must hold at least one value, got none")
    for value in grid:
        check_l2(value)
    class_count(labels)
    features, labels = exact(features), exact(labels)
    validation = stratified(labels.cpu(), VALIDATION, seed).to(features.device)
    if len(validation) == 0:
        raise ValueError("choosing l2 needs a class with at least 2 training images: give a value of l2 instead")
    learn = torch.ones(len(features), dtype=torch.bool, device=features.device)
    learn[validation] = False
    held, held_labels = features[validation], labels.to(features.device)[validation]
    rest, rest_labels = features[learn], labels.to(features.device)[learn]
    problem = Problem(rest, rest_labels, features.device if device is None else exact_device(torch.device(device)))
    accuracies: dict[float, float] = {}
    shown = every(QUIET_S, say) if say is not None else None

    def path() -> Iterator[tuple[float, LinearClassifier]]:
        current: LinearClassifier | None = None
        values = sorted(set(grid), reverse=True)
        for number, l2 in enumerate(values):
            current = problem.fit(l2, current, SELECTION_TOLERANCE, ITERATIONS, shown).classifier
            ranks = label_ranks(current.logits(held), held_labels.to(current.weight.device))
            accuracies[l2] = float((ranks == 0).double().mean())
            if shown is not None:
                best = max(accuracies.values())
                shown(f"l2 {number + 1}/{len(values)}: {100 * best:.1f}% of the validation images at best")
            yield l2, current

    l2, start = max(path(), key=lambda step: accuracies[step[0]])  # the first of equal ones
    return Selection(l2, accuracies, len(validation), start)
