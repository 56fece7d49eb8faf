from __future__ import annotations

import dataclasses
import inspect
import itertools
import statistics

import numpy as np
import pytest
import torch
from evaluate_cases import Net, blobs
from torch import Tensor, nn
from torch.nn import functional as F

import fastclr.evaluate.frozen_encoder
from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.fixed_view import evaluation_params, image_sizes
from fastclr.data import ImageDataset, Splits, make_shapes
from fastclr.data.order import permutation
from fastclr.evaluate import (
    Features,
    LinearClassifier,
    augmented_probe,
    fit_adam,
    fit_augmented,
    fit_logistic,
    lbfgs_probe,
    precomputed_probe,
    probe_accuracy,
    select_l2,
    state_hash,
    summary,
)
from fastclr.evaluate.logistic import GRID
from fastclr.training.config import PretrainConfig


def features(noise: float = 2.0, classes: int = 6, width: int = 24) -> Features:
    return Features(*blobs(400, 0, noise, classes, width), *blobs(1000, 1, noise, classes, width))


def penalised_loss(weight: Tensor, bias: Tensor, rows: Tensor, labels: Tensor, l2: float) -> float:
    logits = F.linear(rows, weight.double(), bias.double())
    return float(F.cross_entropy(logits, labels) + l2 / 2 * weight.double().square().sum())


@pytest.mark.parametrize("l2", [10.0, 0.1, 1e-3, 1e-5])
def test_logistic_regression_is_scikit_learns(l2: float) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = features(noise=3.5)
    scale = torch.logspace(-3, 3, 24)  # neither library may care about the units of a feature
    train, test = data.train * scale + 5, data.test * scale + 5
    scaler = StandardScaler().fit(train.double().numpy())
    rows, unseen = scaler.transform(train.double().numpy()), scaler.transform(test.double().numpy())
    oracle = LogisticRegression(C=1 / (l2 * 400), tol=1e-7, max_iter=10_000).fit(rows, data.train_labels.numpy())
    fit = fit_logistic(train, data.train_labels, l2)
    assert fit.converged
    weight, bias = torch.from_numpy(oracle.coef_), torch.from_numpy(oracle.intercept_)
    lowest = penalised_loss(weight, bias, torch.from_numpy(rows), data.train_labels, l2)
    ours = penalised_loss(fit.classifier.weight, fit.classifier.bias, torch.from_numpy(rows), data.train_labels, l2)
    assert lowest <= ours + 1e-9 and ours <= lowest + 1e-5
    logits = fit.classifier.logits(test)
    if l2 >= 1e-3:  # below, the loss is so flat that both stop at different places of equal loss
        np.testing.assert_allclose(logits.softmax(dim=1).numpy(), oracle.predict_proba(unseen), atol=0.005)
    accuracy = float((logits.argmax(dim=1) == data.test_labels).double().mean())
    assert accuracy == pytest.approx(oracle.score(unseen, data.test_labels.numpy()), abs=0.002)


def test_the_loss_that_is_minimised_is_the_documented_one() -> None:
    data = features()
    fit = fit_logistic(data.train, data.train_labels, 0.05).classifier
    train = data.train.double()
    rows = (train - train.mean(dim=0)) / train.std(dim=0, correction=0)
    weight, bias = fit.weight.double().requires_grad_(), fit.bias.double().requires_grad_()
    loss = F.cross_entropy(F.linear(rows, weight, bias), data.train_labels) + 0.05 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-4  # a stationary point of a convex function


def test_blocks_and_start_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastclr.evaluate import logistic

    data = features()
    whole = fit_logistic(data.train, data.train_labels, 0.01).classifier
    other = fit_logistic(data.train[:300] * 3 + 1, data.train_labels[:300], 1.0).classifier
    monkeypatch.setattr(logistic, "BLOCK", 37)
    blocks = fit_logistic(data.train, data.train_labels, 0.01, start=other).classifier
    torch.testing.assert_close(blocks.logits(data.test), whole.logits(data.test), atol=5e-3, rtol=5e-3)


def test_a_start_keeps_its_logits_when_the_standardisation_changes() -> None:
    from fastclr.evaluate.logistic import packed

    data = features()
    start = fit_logistic(data.train, data.train_labels, 0.1).classifier
    mean, std = torch.randn(24), torch.rand(24) + 0.5
    moved = packed(start, mean, std)
    logits = F.linear((data.test.double() - mean) / std, moved[:, :-1], moved[:, -1])
    torch.testing.assert_close(logits.float(), start.logits(data.test), atol=1e-4, rtol=1e-4)


def test_a_constant_feature_does_no_harm() -> None:
    train, labels = blobs(300, 0, 0.2)
    test, truth = blobs(100, 1, 0.2)
    ones = torch.full((300, 1), 7.0)
    assert probe_accuracy(Features(torch.cat([train, ones], 1), labels, torch.cat([test, ones[:100]], 1), truth)) == 1.0


def test_l2_is_chosen_on_the_training_images_as_scikit_learn_would() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from fastclr.data import stratified

    data = features(noise=3.0)
    grid = (1e-4, 1e-2, 1.0, 100.0)
    found = select_l2(data.train, data.train_labels, grid=grid, seed=3)
    held = stratified(data.train_labels, 0.1, 3)
    rest = torch.tensor([i for i in range(400) if i not in set(held.tolist())])
    assert found.validation_images == len(held) and len(rest) + len(held) == 400
    rows, labels = data.train[rest].double().numpy(), data.train_labels[rest].numpy()
    scaler = StandardScaler().fit(rows)
    for l2 in grid:
        oracle = LogisticRegression(C=1 / (l2 * len(rest)), tol=1e-7, max_iter=10_000).fit(
            scaler.transform(rows), labels
        )
        expected = oracle.score(scaler.transform(data.train[held].double().numpy()), data.train_labels[held].numpy())
        assert found.accuracies[l2] == pytest.approx(expected, abs=1.01 / len(held))
    best = max(found.accuracies.values())
    assert found.l2 == max(l2 for l2, accuracy in found.accuracies.items() if accuracy == best)


def test_of_equally_good_values_the_strongest_regularisation_wins() -> None:
    found = select_l2(*blobs(300, 0, 0.2), grid=(1e-3, 1e-2, 1e-4))
    assert set(found.accuracies.values()) == {1.0} and found.l2 == 1e-2


def test_the_grid_is_the_papers() -> None:
    assert len(GRID) == 45 and GRID[0] == pytest.approx(1e-6) and GRID[-1] == pytest.approx(1e5)
    ratios = [b / a for a, b in itertools.pairwise(GRID)]
    assert ratios == pytest.approx([10**0.25] * 44)


def test_nothing_that_fits_or_selects_can_see_test_images() -> None:
    for function in (fit_logistic, select_l2, fit_adam, fit_augmented):
        parameters = inspect.signature(function).parameters
        assert not any("test" in name for name in parameters), function.__name__
        assert not {Features.__name__, Splits.__name__} & {str(p.annotation) for p in parameters.values()}


@pytest.mark.parametrize("probe", [lbfgs_probe, precomputed_probe])
def test_test_labels_change_the_score_and_nothing_else(probe: object) -> None:
    data = features()
    settings = {"epochs": 5} if probe is precomputed_probe else {}
    right = probe(data, **settings)
    wrong = probe(dataclasses.replace(data, test_labels=(data.test_labels + 1) % 6), **settings)
    assert torch.equal(right.classifier.weight, wrong.classifier.weight) and right.chosen == wrong.chosen
    assert right.scores.top1 > 0.5 > wrong.scores.top1


def test_the_grid_does_not_lose_to_a_bad_l2() -> None:
    data = features(noise=3.0)
    chosen = lbfgs_probe(data)
    assert chosen.scores.top1 >= max(probe_accuracy(data, l2=l2) for l2 in (1e-5, 100.0))
    assert chosen.chosen["l2"] in GRID and chosen.chosen["converged"]


def test_adam_is_a_plain_loop_of_torch() -> None:
    data = features()
    ours = fit_adam(data.train, data.train_labels, epochs=4, batch_size=150, lr=0.02, weight_decay=0.01, seed=5)
    linear = nn.Linear(24, 6)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.02, weight_decay=0.01)
    step = 0
    for epoch in range(4):
        order = permutation(400, 5, epoch)
        for rows in (order[:150], order[150:300], order[300:]):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 + np.cos(np.pi * step / 12)) / 2
            optimizer.zero_grad()
            F.cross_entropy(linear(data.train[rows]), data.train_labels[rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(ours.weight, linear.weight.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.bias, linear.bias.detach(), atol=1e-5, rtol=1e-5)


def test_precomputed_reaches_logistic_regression() -> None:
    data = features()
    ours = precomputed_probe(data, epochs=200, batch_size=100)
    assert ours.scores.top1 == pytest.approx(probe_accuracy(data, l2=1e-3), abs=0.03)
    assert ours.settings == {"epochs": 200, "batch_size": 100, "lr": 0.01, "weight_decay": 5e-6}


class Grid(nn.Module):
    """Features that a crop changes: the mean colour of every 8 x 8 patch; a buffer to be guarded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((), 10.0))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``[N, 48]``."""
        return F.avg_pool2d(images, 8).flatten(1) * self.scale


def test_augmented_is_a_plain_loop_over_torchvisions_crops_and_flips() -> None:
    data = make_shapes(train=60, test=12).train
    config = AugmentConfig.cifar(32)
    ours = fit_augmented(Grid(), data, config, epochs=3, batch_size=25, weight_decay=0.01, seed=7)
    recipe = AugmentConfig(32, crop_scale=config.crop_scale, jitter_p=0.0, gray_p=0.0, blur_p=0.0)
    views = SimCLRAugment(recipe, views=1, seed=7, impl="reference")  # torchvision, image by image
    linear = nn.Linear(48, len(data.classes))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    lr = 0.1 * 25 / 256
    optimizer = torch.optim.SGD(linear.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=0.01)
    step = 0
    for epoch in range(3):
        order = permutation(60, 7, epoch)
        for rows in (order[:25], order[25:50], order[50:]):
            optimizer.param_groups[0]["lr"] = lr * (1 + np.cos(np.pi * step / 9)) / 2
            seen = 10 * F.avg_pool2d(views(data.images[rows], data.ids[rows], epoch)[0], 8).flatten(1)
            optimizer.zero_grad()
            F.cross_entropy(linear(seen), data.labels[rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(ours.weight, linear.weight.detach(), atol=1e-4, rtol=1e-3)
    assert linear.weight.abs().max() > 0.02


def dark_and_bright(data: Splits) -> Splits:
    """Darken every other image, and label it so: a class that mean colours show."""

    def change(split: ImageDataset) -> ImageDataset:
        labels = torch.arange(len(split)) % 2
        return dataclasses.replace(
            split, labels=labels, images=split.images // (4 - 3 * labels[:, None, None, None]).byte()
        )

    return Splits(change(data.train), change(data.test))


def test_augmented_hashes_at_the_ends_only_and_tests_on_the_fixed_view(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr(
        fastclr.evaluate.frozen_encoder, "state_hash", lambda module: counted.append(1) or state_hash(module)
    )
    data = dark_and_bright(make_shapes(train=80, test=40))
    found = augmented_probe(Grid(), data, tiny.augment, epochs=25, batch_size=20)
    assert len(counted) == 4  # around the training, and around the test features
    assert found.settings == {"epochs": 25, "batch_size": 20, "lr": 0.1 * 20 / 256, "weight_decay": 0.0}
    assert (found.train_images, found.test_images) == (80, 40)
    views = SimCLRAugment(tiny.augment, views=1).apply(
        data.test.images, evaluation_params(image_sizes(data.test.images), 32)
    )
    right = found.classifier.logits(Grid()(views[0])).argmax(dim=1) == data.test.labels
    assert found.scores.top1 == pytest.approx(float(right.double().mean()))
    assert found.scores.top1 > 0.8


class Cheat(Net):
    """An encoder that goes on learning its batch statistics, whatever mode it is put into."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features of batch norm in training mode."""
        self.train()
        return super().forward(images)


def test_a_probe_that_updates_batch_norm_is_caught(tiny: PretrainConfig) -> None:
    data = make_shapes(train=40, test=20)
    with pytest.raises(RuntimeError, match="must stay unchanged"):
        augmented_probe(Cheat(), data, tiny.augment, epochs=1, batch_size=20)


def test_augmented_leaves_the_encoder_without_gradients(tiny: PretrainConfig) -> None:
    encoder = Net()
    before = state_hash(encoder)
    augmented_probe(encoder, make_shapes(train=40, test=20), tiny.augment, epochs=1, batch_size=20)
    assert state_hash(encoder) == before and encoder.training
    assert all(p.grad is None for p in encoder.parameters())


def test_augmented_leaves_out_unlabelled_images(tiny: PretrainConfig) -> None:
    data = make_shapes(train=40, test=20)
    labels = data.train.labels.clone()
    labels[:15] = -1
    partly = Splits(dataclasses.replace(data.train, labels=labels), data.test)
    found = augmented_probe(Grid(), partly, tiny.augment, epochs=2, batch_size=10)
    kept = Splits(data.train.select(torch.arange(15, 40)), data.test)
    expected = augmented_probe(Grid(), kept, tiny.augment, epochs=2, batch_size=10)
    assert found.train_images == 25 and torch.equal(found.classifier.weight, expected.classifier.weight)
    with pytest.raises(ValueError, match="must have labels, but some"):
        fit_augmented(Grid(), partly.train, tiny.augment)


def test_probe_separates_what_is_separable_and_not_noise() -> None:
    assert probe_accuracy(Features(*blobs(300, 0, 0.2), *blobs(100, 1, 0.2))) == 1.0
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(300, 4, generator=generator), torch.randint(4, (300,), generator=generator)
    assert probe_accuracy(Features(noise, labels, torch.ones(200, 4), labels[:200])) < 0.5


def test_a_class_with_one_image_is_learnt_from_and_not_validated_on() -> None:
    train, labels = blobs(200, 0, 0.2)
    lonely = torch.full((1, 8), 9.0)
    data = Features(torch.cat([train, lonely]), torch.cat([labels, torch.tensor([3])]), lonely, torch.tensor([3]))
    selection = select_l2(data.train, data.train_labels, grid=(1e-3, 1e-2))
    assert selection.start.weight.shape == (4, 8)  # it stays among the images that are learnt from
    assert lbfgs_probe(data, l2=1e-3).scores.top1 == 1.0
    assert precomputed_probe(data, epochs=50, batch_size=50).scores.top1 == 1.0


def test_probes_refuse_what_makes_no_sense() -> None:
    points, labels = blobs(30, 0, 1.0)
    single = Features(points, torch.zeros_like(labels), points, torch.zeros_like(labels))
    for probe in (lbfgs_probe, precomputed_probe):
        with pytest.raises(ValueError, match="at least 2 classes, got 1"):
            probe(single)
    good = Features(points, labels, points, labels)
    for l2 in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="l2 must be a positive number"):
            probe_accuracy(good, l2=l2)
    with pytest.raises(ValueError, match="a class with at least 2 training images"):
        select_l2(points[:3], torch.arange(3))
    with pytest.raises(ValueError, match="at least one value"):
        select_l2(points, labels, grid=())
    for change in ({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
            fit_adam(points, labels, **change)
    with pytest.raises(FloatingPointError, match="diverged"):
        fit_adam(points * 1e30, labels, lr=1e30, epochs=3)


def test_a_summary_has_every_seed_and_the_sample_standard_deviation() -> None:
    data = features(noise=4.0)
    results = [precomputed_probe(data, epochs=3, batch_size=50, lr=0.5, seed=seed) for seed in (0, 1, 2)]
    found = summary(results)
    single = [r.scores.top1 for r in results]
    assert len(set(single)) > 1
    assert [s["seed"] for s in found["seeds"]] == [0, 1, 2] and [s["accuracy"] for s in found["seeds"]] == single
    assert found["accuracy"] == pytest.approx(np.mean(single))
    assert found["accuracy_std"] == pytest.approx(statistics.stdev(single)) == pytest.approx(np.std(single, ddof=1))
    assert found["top5"] == pytest.approx(np.mean([r.scores.top5 for r in results]))
    assert summary(results[:1])["accuracy_std"] is None
    with pytest.raises(ValueError, match="must agree in protocol"):
        summary([results[0], lbfgs_probe(data, l2=1.0)])
    with pytest.raises(ValueError, match="at least one probe"):
        summary([])


def test_a_classifier_computes_its_formula_in_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, mean, rows = (torch.randn(*s, generator=generator) for s in ((3, 4), (3,), (4,), (20000, 4)))
    std = torch.rand(4, generator=generator) + 0.5
    expected = (rows.double() - mean) / std @ weight.double().T + bias
    torch.testing.assert_close(
        LinearClassifier(weight, bias, mean, std).logits(rows), expected.float(), atol=1e-4, rtol=1e-4
    )
