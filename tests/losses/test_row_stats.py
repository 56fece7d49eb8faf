"""Accuracy and entropy of the softmaxes of a loss against the dense softmaxes."""

from __future__ import annotations

import pytest
import torch
from loss_cases import make_views
from torch import Tensor
from torch.nn.functional import normalize

from fastclr import CLIPLoss, DCLLoss, InfoNCELoss, MultipleNegativesLoss, SupConLoss
from fastclr.losses import tiles

TAU = 0.3


def data(count: int = 37) -> list[Tensor]:
    first, second = make_views("far", count, 4, torch.float64)
    return [first, second, make_views("far", 2 * count, 4, torch.float64, 5)[0]]


def check(found: tuple[Tensor, tuple[Tensor, Tensor]], logits: Tensor, positive: Tensor, loss: Tensor) -> None:
    """`logits` hold the positive too, whose number is in `positive`; -inf does not count."""
    value, (accuracy, entropy) = found
    torch.testing.assert_close(value, loss)
    own = logits.gather(1, positive[:, None])
    expected = -(logits.softmax(1) * logits.log_softmax(1).masked_fill(logits == -torch.inf, 0.0)).sum(1)
    torch.testing.assert_close(accuracy, (logits <= own).all(1).double())
    torch.testing.assert_close(entropy, expected, rtol=1e-9, atol=1e-12)
    assert 0 < accuracy.mean() < 1 and not entropy.requires_grad


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
def test_clip_has_those_of_rows_and_then_of_columns(impl: str) -> None:
    a, b, _ = data()
    loss = CLIPLoss(TAU, impl=impl)
    s = normalize(a, dim=1) @ normalize(b, dim=1).T / TAU
    found = loss.stats(a.requires_grad_(), b)
    check(found, torch.cat([s, s.T]).detach(), torch.arange(37).repeat(2), loss(a, b))
    found[0].backward()
    assert a.grad is not None


def test_info_nce_against_a_set_a_set_of_its_own_and_the_batch() -> None:
    a, b, n = data()
    q, p, m = (normalize(x, dim=-1) for x in (a, b, n))
    loss, own = InfoNCELoss(TAU), torch.zeros(37, dtype=torch.long)
    dots = (q * p).sum(1, keepdim=True)
    check(loss.stats(a, b, n), torch.cat([dots, q @ m.T], dim=1) / TAU, own, loss(a, b, n))
    sets = n.view(37, 2, 4)
    logits = torch.cat([dots, torch.einsum("nd,nkd->nk", q, m.view(37, 2, 4))], dim=1) / TAU
    check(loss.stats(a, b, sets), logits, own, loss(a, b, sets))
    check(loss.stats(a, b), q @ p.T / TAU, torch.arange(37), loss(a, b))


def test_multiple_negatives_with_everything() -> None:
    a, b, n = data()
    q, p, m = (normalize(x, dim=1) / TAU**0.5 for x in (a, b, n))
    loss, ids = MultipleNegativesLoss(TAU, margin=0.4, query_query=True), torch.arange(37) // 2
    own = (q * p).sum(1, keepdim=True)
    same, limit = ids[:, None] == ids, own + 0.4 / TAU
    parts = [
        own,
        (q @ p.T).masked_fill(same | (q @ p.T > limit), -torch.inf),
        (q @ m.T).masked_fill(q @ m.T > limit, -torch.inf),
        (q @ q.T).masked_fill(same, -torch.inf),
    ]
    found = loss.stats(a, b, n, ids=ids)
    check(found, torch.cat(parts, dim=1), torch.zeros(37, dtype=torch.long), loss(a, b, n, ids=ids))


def test_likely_positives_left_out() -> None:
    a, b, _ = data()
    s = normalize(a, dim=1) @ normalize(b, dim=1).T / TAU
    sides = [x.masked_fill(x > x.diagonal()[:, None] + 0.3 / TAU, -torch.inf) for x in (s, s.T)]
    loss = CLIPLoss(TAU, margin=0.3)
    check(loss.stats(a, b), torch.cat(sides), torch.arange(37).repeat(2), loss(a, b))
    loss = InfoNCELoss(TAU, margin=0.3)
    check(loss.stats(a, b), sides[0], torch.arange(37), loss(a, b))


def test_losses_without_a_single_positive_say_so() -> None:
    a, b, _ = data(6)
    for loss, inputs in ((SupConLoss(), (torch.stack([a, b], 1),)), (DCLLoss(), (a, b))):
        with pytest.raises(ValueError, match="no single positive"):
            loss.stats(*inputs)
        assert "watch" not in loss.__dict__
