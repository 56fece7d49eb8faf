"""The adaptors against the installed library, or against its formula where it is not installed."""

from __future__ import annotations

import pytest
import torch
from loss_cases import make_views
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningLoss
from torch import Tensor

from fastclr.compat import (
    MetricLearningNTXentLoss,
    add_contrastive_loss,
    mocov2plus_loss_func,
    mocov3_loss_func,
    simclr_loss_func,
)
from fastclr.compat.view_pairs import pair_rows


def shuffled(pairs: int, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Rows of two views in random order, and labels that are neither sorted nor consecutive."""
    order = torch.randperm(2 * pairs, generator=torch.Generator().manual_seed(5))
    labels = (7 * torch.arange(pairs) - 20).repeat(2)
    return torch.cat(make_views("far", pairs, dim))[order].requires_grad_(), labels[order]


def test_pair_rows() -> None:
    ids = torch.tensor([5, -1, 9, -1, 9, 5])
    first, second = pair_rows(ids, 6)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 5), (1, 3), (2, 4)]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_pytorch_metric_learning(temperature: float) -> None:
    rows, labels = shuffled(20)
    ours, theirs = (kind(temperature)(rows, labels) for kind in (MetricLearningNTXentLoss, MetricLearningLoss))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    mine, other = (torch.autograd.grad(loss, rows)[0] for loss in (ours, theirs))
    assert float((mine - other).norm()) <= 2e-6 * float(other.norm())
    assert MetricLearningNTXentLoss().temperature == MetricLearningLoss().temperature


def solo_formula(z: Tensor, indexes: Tensor, temperature: float) -> Tensor:
    """-mean log(pos / (pos + neg)) with masks of equal and different indexes, as solo-learn states it."""
    z = torch.nn.functional.normalize(z, dim=-1)
    similar = torch.exp(z @ z.T / temperature)
    same = indexes[:, None] == indexes[None, :]
    positive = (similar * (same & ~torch.eye(len(z), dtype=torch.bool))).sum(1)
    return -torch.log(positive / (positive + (similar * ~same).sum(1))).mean()


@pytest.mark.parametrize("labels", [torch.arange(21) % 4, torch.arange(21) // 3, torch.arange(20) // 2 % 5 - 1])
def test_solo_learn_with_labels_or_more_views(labels: Tensor) -> None:
    rows = make_views("random", len(labels), 6, torch.float64)[0].requires_grad_()
    ours, theirs = simclr_loss_func(rows, labels, 0.2), solo_formula(rows, labels, 0.2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    mine, other = (torch.autograd.grad(loss, rows)[0] for loss in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)


def test_solo_learn_moco() -> None:
    query, key = (view.requires_grad_() for view in make_views("random", 12, 6, torch.float64))
    queue = make_views("far", 9, 6, torch.float64)[0].T
    entropy, normal = torch.nn.functional.cross_entropy, torch.nn.functional.normalize
    plus = torch.cat([(query * key).sum(1, keepdim=True), query @ queue], dim=1) / 0.1
    third = normal(query, dim=1) @ normal(key, dim=1).T / 0.2
    pairs = (
        (mocov2plus_loss_func(query, key, queue), entropy(plus, torch.zeros(12, dtype=torch.long))),
        (mocov3_loss_func(query, key), entropy(third, torch.arange(12)) * 0.4),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        for mine, other in zip(*(torch.autograd.grad(loss, (query, key)) for loss in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)


def test_solo_learn() -> None:
    rows, indexes = shuffled(20)
    ours, theirs = simclr_loss_func(rows, indexes), solo_formula(rows, indexes, 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    mine, other = (torch.autograd.grad(loss, rows)[0] for loss in (ours, theirs))
    assert float((mine - other).norm()) <= 2e-6 * float(other.norm())


def tf_formula(hidden: Tensor, hidden_norm: bool, temperature: float) -> tuple[Tensor, Tensor]:
    """loss_a + loss_b with 1e9 taken off the diagonal, as google-research/simclr states it."""
    if hidden_norm:
        hidden = torch.nn.functional.normalize(hidden, dim=1)
    first, second = hidden.chunk(2)
    diagonal = torch.eye(len(first)) * 1e9
    aa, bb = first @ first.T / temperature - diagonal, second @ second.T / temperature - diagonal
    ab, ba = first @ second.T / temperature, second @ first.T / temperature
    labels = torch.arange(len(first))
    entropy = torch.nn.functional.cross_entropy
    return entropy(torch.cat([ab, aa], 1), labels) + entropy(torch.cat([ba, bb], 1), labels), ab


@pytest.mark.parametrize("hidden_norm", [True, False])
def test_tf_original(hidden_norm: bool) -> None:
    hidden = torch.cat(make_views("far", 12, 6)) / (1 if hidden_norm else 10)
    expected, expected_logits = tf_formula(hidden, hidden_norm, 0.4)
    loss = add_contrastive_loss(hidden, hidden_norm, 0.4)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    again, logits, labels = add_contrastive_loss(hidden, hidden_norm, 0.4, return_logits=True)
    assert torch.equal(again, loss)
    torch.testing.assert_close(logits, expected_logits)
    assert torch.equal(labels, torch.nn.functional.one_hot(torch.arange(12), 24).float())


def test_what_is_no_two_view_loss_is_refused() -> None:
    rows = torch.randn(6, 4)
    for labels, found in (([0, 0, 1, 1, 1, 2], r"\[1, 2, 3\]"), ([0] * 6, r"\[6\]"), ([0, 1, 2, 3, 4, 5], r"\[1\]")):
        with pytest.raises(ValueError, match=found):
            MetricLearningNTXentLoss()(rows, torch.tensor(labels))
    with pytest.raises(ValueError, match="at least twice, got one that occurs once"):
        simclr_loss_func(rows, torch.tensor([0, 0, 1, 1, 1, 2]))
    for labels in (torch.tensor([0, 1]), torch.zeros(6, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="one label for each of the 6 rows"):
            MetricLearningNTXentLoss()(rows, labels)
        with pytest.raises(ValueError, match=r"indexes must be \[6\]"):
            simclr_loss_func(rows, labels)
    with pytest.raises(TypeError, match="indexes must be integers"):
        simclr_loss_func(rows, torch.zeros(6))
    pairs = torch.tensor([0, 1, 2, 0, 1, 2])
    for kwargs in ({}, {"labels": pairs, "ref_emb": rows}, {"labels": pairs, "indices_tuple": (pairs, pairs)}):
        with pytest.raises(ValueError, match="embeddings and labels only"):
            MetricLearningNTXentLoss()(rows, **kwargs)
    with pytest.raises(ValueError, match=r"two views.*\[5, 4\]"):
        add_contrastive_loss(rows[:5])
    with pytest.raises(ValueError, match="temperature"):
        MetricLearningNTXentLoss(0.0)
