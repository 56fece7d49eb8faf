"""How logistic regression is fitted: few steps, standardised once, one thread of OpenBLAS, signs of life."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import threadpoolctl
import torch
from evaluate_cases import blobs
from torch import Tensor
from torch.nn import functional as F

from fastclr.evaluate import Features, LinearClassifier, fit_logistic, lbfgs_probe, logistic, probe_accuracy, select_l2


def features(noise: float, classes: int, width: int, train: int, test: int) -> Features:
    return Features(*blobs(train, 0, noise, classes, width), *blobs(test, 1, noise, classes, width))


def correlated(count: int, seed: int, width: int = 60) -> tuple[Tensor, Tensor]:
    """Points whose covariance has eigenvalues of many magnitudes, as the features of an encoder have."""
    rows, labels = blobs(count, seed, 3.0, 4, width)
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return rows * torch.logspace(0, -2.5, width) @ turn, labels


def penalised_loss(fit: LinearClassifier, rows: Tensor, labels: Tensor, l2: float) -> float:
    loss = F.cross_entropy(fit.logits(rows).double(), labels)
    return float(loss + l2 / 2 * fit.weight.double().square().sum())


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that grows by a loss at every evaluation."""
    found: list[float] = []
    plain = logistic.Problem.evaluate

    def counted(self: logistic.Problem, theta: Tensor, l2: float) -> tuple[float, Tensor]:
        value, gradient = plain(self, theta, l2)
        found.append(value)
        return value, gradient

    monkeypatch.setattr(logistic.Problem, "evaluate", counted)
    return found


@pytest.mark.parametrize(
    ("data", "l2", "validation", "top1", "fixed"),
    [
        (features(3.0, 6, 24, 400, 1000), 10**-0.75, 29 / 40, 0.654, 0.621),
        (features(6.0, 5, 300, 600, 600), 10**0.25, 55 / 60, 0.845, 0.81333),
    ],
)
def test_choice_and_accuracy_are_those_of_the_first_release_candidates(
    data: Features, l2: float, validation: float, top1: float, fixed: float
) -> None:
    """Numbers of the code that standardised in every evaluation and knew nothing of the curvature."""
    found = lbfgs_probe(data)
    assert found.chosen["l2"] == pytest.approx(l2) and found.chosen["validation_accuracy"] == pytest.approx(validation)
    image = 1.01 / len(data.test)
    assert found.scores.top1 == pytest.approx(top1, abs=image)
    assert probe_accuracy(data) == pytest.approx(fixed, abs=image)


def test_the_curvature_saves_steps_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = correlated(500, 0)
    counted = evaluations(monkeypatch)
    with_it = fit_logistic(rows, labels, 1e-3)
    steps = len(counted)
    monkeypatch.setattr(logistic, "WIDEST", 59)
    without = fit_logistic(rows, labels, 1e-3)
    assert with_it.converged and without.converged and 3 * steps < len(counted) - steps
    lowest = penalised_loss(without.classifier, rows, labels, 1e-3)
    assert penalised_loss(with_it.classifier, rows, labels, 1e-3) <= lowest + 1e-7
    torch.testing.assert_close(with_it.classifier.logits(rows), without.classifier.logits(rows), atol=0.02, rtol=0.02)


def test_fewer_images_than_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = correlated(40, 0)
    for l2 in (1e-6, 1e-3, 10.0):
        fit = fit_logistic(rows, labels, l2, tolerance=1e-8)
        monkeypatch.setattr(logistic, "WIDEST", 0)
        plain = fit_logistic(rows, labels, l2, tolerance=1e-8)
        monkeypatch.undo()
        assert fit.converged
        lowest = penalised_loss(plain.classifier, rows, labels, l2)
        assert penalised_loss(fit.classifier, rows, labels, l2) <= lowest + 1e-5


@pytest.mark.parametrize("room", [True, False])
def test_features_are_standardised_once_or_where_memory_is_short_in_every_evaluation(
    room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels = blobs(300, 0, 3.0)
    expected = fit_logistic(rows, labels, 1e-3).classifier
    passes, plain = [0], logistic.Problem.standardised

    def counted(self: logistic.Problem) -> Iterator[Tensor]:
        passes[0] += 1
        return plain(self)

    monkeypatch.setattr(logistic.Problem, "standardised", counted)
    monkeypatch.setattr(logistic, "has_room", lambda where, count: room)
    losses = evaluations(monkeypatch)
    found = fit_logistic(rows, labels, 1e-3).classifier
    assert passes[0] == (1 if room else len(losses) + 1)  # one more for the covariance
    assert torch.equal(found.weight, expected.weight) and torch.equal(found.bias, expected.bias)


def test_scipy_computes_on_one_thread_and_gets_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> list[int]:
        return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["prefix"] == "libscipy_openblas"]

    seen, plain = [], logistic.Problem.evaluate

    def looking(self: logistic.Problem, theta: Tensor, l2: float) -> tuple[float, Tensor]:
        seen.append(threads())
        return plain(self, theta, l2)

    monkeypatch.setattr(logistic.Problem, "evaluate", looking)
    fit_logistic(*blobs(100, 0, 1.0), 0.1)
    before = threads()
    fit_logistic(*blobs(100, 0, 1.0), 0.1)
    assert all(set(found) <= {1} for found in seen) and threads() == before


def test_a_long_fit_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    select_l2(*blobs(100, 0, 1.0), grid=(0.1, 1.0), say=lines.append)
    assert lines == []  # nothing to say in so short a time
    monkeypatch.setattr(logistic, "QUIET_S", 0.0)
    found = select_l2(*blobs(100, 0, 1.0), grid=(0.1, 1.0), say=lines.append)
    assert any(line.startswith("logistic regression: loss") for line in lines)
    assert lines[-1] == f"l2 2/2: {100 * max(found.accuracies.values()):.1f}% of the validation images at best"


def test_features_that_are_not_finite_end_in_an_error() -> None:
    rows, labels = blobs(100, 0, 1.0)
    rows[3, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="diverged"):
        fit_logistic(rows, labels, 0.1)


def test_where_classes_can_be_separated_weak_regularisation_ends_where_it_always_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a guess at the curvature, 1e-5 ended far from the minimum, at a validation accuracy that no minimum has."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (1000,), generator=generator)
    rows = torch.randn(10, 256, generator=generator)[labels] + 4 * torch.randn(1000, 256, generator=generator)
    rows = rows * torch.logspace(0, -2, 256) @ torch.randn(256, 256, generator=generator)
    found = select_l2(rows, labels, grid=(1e-1, 1e-2, 1e-3, 1e-5)).accuracies
    monkeypatch.setattr(logistic, "WIDEST", 0)
    plain = select_l2(rows, labels, grid=(1e-1, 1e-2, 1e-3, 1e-5)).accuracies
    assert all(abs(found[l2] - plain[l2]) <= 2.01 / 100 for l2 in plain)


def test_where_a_flat_loss_ends_is_told() -> None:
    """Separable classes under weak l2: the fit ends by its tolerance, and says at which gradient."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 5, generator=generator) + 6.0 * labels[:, None]
    fit = fit_logistic(features, labels, 1e-6)
    theta = logistic.packed(fit.classifier, fit.classifier.mean, fit.classifier.std)
    _, gradient = logistic.Problem(features, labels, torch.device("cpu")).evaluate(theta, 1e-6)
    assert fit.converged and 0 < fit.gradient <= 1e-5
    assert fit.gradient == pytest.approx(float(gradient.abs().max()), rel=0.2)
    probe = lbfgs_probe(Features(features, labels, features, labels), l2=1e-6)
    assert probe.settings["tolerance"] == 1e-5 and probe.chosen["gradient"] == pytest.approx(fit.gradient)
