from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluate_cases import blobs
from torch import Tensor

import fastclr.evaluate.knn
from fastclr.evaluate import Features, knn_accuracy, knn_predict, knn_scores, nearest, score


@pytest.mark.parametrize("k", [1, 2, 5, 20, 300])
@pytest.mark.parametrize("temperature", [None, 0.1, 0.02])
def test_knn_is_scikit_learns(k: int, temperature: float | None) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    bank, labels = blobs(300, 0, 1.5)
    queries, _ = blobs(200, 1, 1.5)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1.0 - distances.astype(np.float64)) / (temperature or 1.0))

    how = "uniform" if temperature is None else weights
    oracle = KNeighborsClassifier(k, metric="cosine", weights=how).fit(bank.numpy(), labels.numpy())
    ours = knn_predict(bank, labels, queries, k=k, temperature=temperature, block=32)
    assert ours.tolist() == oracle.predict(queries.numpy()).tolist()


def test_equal_votes_go_to_the_smaller_class_as_in_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    angles = torch.tensor([0.1, -0.2, 0.3, -0.4])  # all distances differ, votes are 2 to 2
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])
    for labels in ([2, 1, 1, 2], [1, 2, 2, 1], [0, 3, 0, 3]):
        oracle = KNeighborsClassifier(4, metric="cosine").fit(bank.numpy(), labels)
        expected = oracle.predict(query.numpy()).tolist()
        assert expected == [min(labels)]
        assert knn_predict(bank, torch.tensor(labels), query, k=4, temperature=None).tolist() == expected


@pytest.mark.parametrize("bank_block", [1, 3, 7, 64])
@pytest.mark.parametrize("block", [1, 5, 64])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_equal_cosines_come_in_the_order_of_the_bank_whatever_the_blocks(k: int, block: int, bank_block: int) -> None:
    # one-hot rows: every cosine is exactly 1, 0 or -1, so that most neighbours are tied
    generator = torch.Generator().manual_seed(0)
    bank = torch.eye(3)[torch.randint(3, (30,), generator=generator)] * torch.randint(
        1, 4, (30, 1), generator=generator
    )
    bank[::7] *= -1
    queries = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)])
    cosines, rows = nearest(bank, queries, k, block=block, bank_block=bank_block)
    exact = queries.double() @ torch.nn.functional.normalize(bank.double(), dim=1).T
    for query in range(len(queries)):
        expected = sorted(range(30), key=lambda row: (-float(exact[query, row]), row))[:k]
        assert rows[query].tolist() == expected
        assert cosines[query].tolist() == exact[query, expected].tolist()


def test_neighbours_are_scikit_learns_over_many_blocks() -> None:
    from sklearn.neighbors import NearestNeighbors

    bank, queries = blobs(500, 0, 2.0, width=16)[0], blobs(60, 1, 2.0, width=16)[0]
    distances, expected = (
        NearestNeighbors(n_neighbors=25, metric="cosine").fit(bank.numpy()).kneighbors(queries.numpy())
    )
    cosines, rows = nearest(bank, queries, 25, block=7, bank_block=20)
    assert np.array_equal(rows.numpy(), expected)
    np.testing.assert_allclose(cosines.numpy(), 1 - distances, atol=1e-6)


def test_weighted_knn_is_the_formula() -> None:
    bank, labels = blobs(60, 0, 1.5)
    queries, _ = blobs(20, 1, 1.5)
    k, temperature = 7, 0.1
    for query, predicted in zip(queries, knn_predict(bank, labels, queries, k=k, temperature=temperature), strict=True):
        cosine = torch.cosine_similarity(query.double()[None], bank.double())
        nearby = sorted(range(len(bank)), key=lambda i: -float(cosine[i]))[:k]
        votes = [sum(float((cosine[i] / temperature).exp()) for i in nearby if labels[i] == c) for c in range(3)]
        assert votes[int(predicted)] == pytest.approx(max(votes))


def test_a_small_temperature_does_not_overflow() -> None:
    bank, labels = blobs(60, 0, 1.5)
    queries, _ = blobs(20, 1, 1.5)
    coldest = knn_predict(bank, labels, queries, k=20, temperature=1e-4)  # exp(1 / 1e-4) has no float
    assert coldest.tolist() == knn_predict(bank, labels, queries, k=1, temperature=None).tolist()


def test_several_k_are_each_what_they_are_alone() -> None:
    features = Features(*blobs(200, 0, 1.5, classes=8), *blobs(100, 1, 1.5, classes=8))
    scores = knn_scores(features, [1, 5, 20], temperature=0.1)
    assert list(scores) == [1, 5, 20]
    for k, found in scores.items():
        assert found.top1 == knn_accuracy(features, k=k, temperature=0.1)
    assert scores[1].top5 == scores[1].top1  # one neighbour names one class, not five


def test_labels_are_missing_for_one_class_and_single_in_another() -> None:
    bank, labels = torch.eye(4), torch.tensor([0, 2, 2, 5])
    features = Features(bank, labels, torch.eye(4), torch.tensor([0, 2, 1, 5]))
    found = knn_scores(features, [1])[1]
    assert found.top1 == 0.75 and found.per_class == [1.0, 0.0, 1.0, None, None, 1.0]
    unseen = Features(bank, labels, torch.eye(4), torch.tensor([0, 2, 2, 7]))  # 7 is not in the bank: never right
    assert knn_scores(unseen, [1])[1].top1 == 0.75


def test_knn_accuracy_counts_right_predictions() -> None:
    features = Features(torch.eye(2), torch.tensor([0, 1]), torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 1, 1]))
    assert knn_accuracy(features, k=1) == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be between 1 and the 30 images"),
        ({"k": 31}, "k must be between 1 and the 30 images"),
        ({"temperature": 0.0}, "temperature must be a positive number, or None"),
        ({"queries": torch.zeros(5, 3)}, "bank and queries must be"),
        ({"queries": torch.full((5, 8), float("nan"))}, "features must be finite"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"labels must be int64 \[30\]"),
        ({"labels": torch.full((30,), -1)}, "labels must be known"),
    ],
)
def test_knn_refuses(change: dict[str, object], message: str) -> None:
    bank, labels = blobs(30, 0, 1.0)
    arguments = {"bank": bank, "labels": labels, "queries": bank[:5], "k": 3} | change
    with pytest.raises(ValueError, match=message):
        knn_predict(**arguments)


def test_scores_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, top_k_accuracy_score

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 9, generator=generator), torch.randint(9, (300,), generator=generator)
    found = score(logits, labels)
    predicted = logits.argmax(dim=1)
    assert found.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found.confusion == confusion_matrix(labels, predicted).tolist()
    assert found.per_class == pytest.approx(recall_score(labels, predicted, average=None).tolist())
    assert score(logits[:, :5], labels % 5).top5 is None


def with_classes(count: int) -> tuple[Tensor, Tensor]:
    return torch.eye(count), torch.arange(count)


@pytest.mark.parametrize("classes", [7, 150])
def test_scores_of_blocks_are_those_of_the_whole(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(300, 8, generator=generator), torch.randn(101, 8, generator=generator)
    labels, wanted = (torch.randint(0, classes, (n,), generator=generator) for n in (300, 101))
    features = Features(bank, labels, queries, wanted)
    metrics = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(fastclr.evaluate.knn, "VOTES", 20 * classes)
    found = knn_scores(features, [5, 50])
    cosines, rows = nearest(bank, queries, 50)
    for k, scores in found.items():
        votes = fastclr.evaluate.knn.vote(cosines[:, :k], labels[rows[:, :k]], classes, 0.1)
        predicted = votes.argmax(dim=1)
        assert scores.top1 == metrics.accuracy_score(wanted, predicted)
        recalls = metrics.recall_score(wanted, predicted, labels=range(classes), average=None, zero_division=0)
        shown = [0.0 if share is None else share for share in scores.per_class]
        np.testing.assert_allclose(shown, recalls, atol=1e-12)
        confusion = metrics.confusion_matrix(wanted, predicted, labels=range(classes)).tolist()
        assert scores.confusion == (confusion if classes <= 100 else None)


def test_confusion_is_kept_up_to_a_hundred_classes() -> None:
    assert score(*with_classes(100)).confusion is not None
    assert score(*with_classes(101)).confusion is None and score(*with_classes(101)).top1 == 1.0


def test_equal_scores_favour_the_smaller_class_in_top_1_and_top_5() -> None:
    found = score(torch.zeros(8, 8), torch.arange(8))
    assert found.top1 == 1 / 8 and found.top5 == 5 / 8
    with pytest.raises(ValueError, match="scores and labels must be"):
        score(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))
