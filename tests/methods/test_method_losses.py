"""The loss of every method equals its formula, written out in float64, or another library's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from method_cases import config_of, make_tiny
from torch import Tensor
from torch.nn import functional as F

from fastclr.data import Batch
from fastclr.methods import Facts, Method, MoCo

N, D, TOTAL = 16, 8, 10
FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=N)


def build(variant: str, **changes: Any) -> Method:
    torch.manual_seed(0)
    return make_tiny(config_of(variant, **changes), FACTS)


def inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(N, D, generator=generator) for _ in range(count)]


LABELS = torch.arange(N) % 3
BATCH = Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), torch.arange(N), LABELS)


def loss_of(method: Method, embeddings: list[Tensor]) -> Tensor:
    loss, sums = method.loss(embeddings, BATCH, 3, TOTAL)
    assert loss.dim() == 0 and all(value.dim() == 0 and not value.requires_grad for value in sums.values())
    return loss


def unit(z: Tensor) -> Tensor:
    return F.normalize(z.double(), dim=1)


def pairs(z0: Tensor, z1: Tensor, tau: float, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """Similarities ``[2N, 2N]`` over tau, and the row's partner."""
    z = torch.cat([unit(z0), unit(z1)]) if normalize else torch.cat([z0, z1]).double()
    return z @ z.T / tau, torch.arange(2 * N).roll(N)


def nt_xent(z0: Tensor, z1: Tensor, tau: float, normalize: bool = True) -> Tensor:
    s, partner = pairs(z0, z1, tau, normalize)
    return F.cross_entropy(s.masked_fill(torch.eye(2 * N, dtype=torch.bool), -math.inf), partner)


def dcl(z0: Tensor, z1: Tensor, tau: float) -> Tensor:
    s, partner = pairs(z0, z1, tau)
    rows = torch.arange(2 * N)
    others = torch.ones(2 * N, 2 * N, dtype=torch.bool)
    others[rows, rows] = others[rows, partner] = False
    return (s.masked_fill(~others, -math.inf).logsumexp(1) - s[rows, partner]).mean()


def nt_logistic(z0: Tensor, z1: Tensor, tau: float) -> Tensor:
    """Positive and the N - 1 negatives of the other view."""
    s = unit(z0) @ unit(z1).T / tau
    own = torch.eye(N, dtype=torch.bool)
    signed = torch.where(own, s, -s)
    return -(F.logsigmoid(signed).sum(1).mean() + F.logsigmoid(signed.T).sum(1).mean()) / 2


def semi_hard_margin(z0: Tensor, z1: Tensor, margin: float) -> Tensor:
    total = 0.0
    for a, b in ((unit(z0), unit(z1)), (unit(z1), unit(z0))):
        for i, row in enumerate((a @ b.T).tolist()):
            positive = row[i]
            semi = [s for j, s in enumerate(row) if j != i and positive - margin < s < positive]
            total += max(semi) - positive + margin if semi else 0.0
    return torch.tensor(total / (2 * N), dtype=torch.float64)


def sup_con(z0: Tensor, z1: Tensor, tau: float) -> Tensor:
    s, _ = pairs(z0, z1, tau)
    labels = LABELS.repeat(2)
    total = 0.0
    for i in range(2 * N):
        others = [j for j in range(2 * N) if j != i]
        log_p = s[i] - s[i, others].logsumexp(0)
        total += -float(log_p[[j for j in others if labels[j] == labels[i]]].mean())
    return torch.tensor(total / (2 * N), dtype=torch.float64)


def barlow(z0: Tensor, z1: Tensor, weight: float) -> Tensor:
    a, b = (F.batch_norm(z.double(), None, None, training=True) for z in (z0, z1))
    c = a.T @ b / N
    on = torch.eye(D, dtype=torch.bool)
    return ((1 - c[on]) ** 2).sum() + weight * (c[~on] ** 2).sum()


def vicreg(z0: Tensor, z1: Tensor) -> Tensor:
    z0, z1 = z0.double(), z1.double()
    total = 25.0 * F.mse_loss(z0, z1)
    for z in (z0, z1):
        total = total + 25.0 * torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = torch.cov(z.T)
        total = total + (covariance**2).fill_diagonal_(0).sum() / D
    return total


def bootstrap(p0: Tensor, p1: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
    """Squared distances of unit vectors, summed over both orders."""
    return ((unit(p0) - unit(t1)) ** 2).sum(1).mean() + ((unit(p1) - unit(t0)) ** 2).sum(1).mean()


def v3(p0: Tensor, p1: Tensor, t0: Tensor, t1: Tensor, tau: float) -> Tensor:
    rows = torch.arange(N)
    both = [F.cross_entropy(unit(p) @ unit(t).T / tau, rows) for p, t in ((p0, t1), (p1, t0))]
    return 2 * tau * (both[0] + both[1])


def lejepa(views: list[Tensor], weight: float) -> Tensor:
    """The integral over both halves by the trapezoidal rule, along the directions of step 3."""
    z = torch.stack(views).double()
    agreement = sum(((each - z.mean(0)) ** 2).mean() for each in z) / len(z)
    a = torch.randn(D, 256, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)  # the same knots, on both sides
    phi = torch.exp(-(t**2) / 2)
    total = 0.0
    for each in z:
        for direction in (a / a.norm(dim=0)).T:
            found = torch.exp(1j * t[:, None] * (each @ direction)).mean(1)
            total += float(torch.trapezoid((found - phi).abs() ** 2 * phi, t)) * N
    return (1 - weight) * agreement + weight * total / (256 * len(z))


def dino(logits: list[Tensor], centre: Tensor, tau: float) -> Tensor:
    """Cross-entropy of every student's view with the targets of both large views, but of its own."""
    *students, first, second = (each.double() for each in logits)
    terms = []
    for i, target in enumerate((first, second)):
        p = ((target - centre) / tau).softmax(1)
        terms += [F.cross_entropy(student / 0.1, p) for v, student in enumerate(students) if v != i]
    return torch.stack(terms).mean()


CASES: dict[str, tuple[int, Any]] = {
    "simclr": (2, lambda z: nt_xent(*z, 0.5)),
    "simclr-dots": (2, lambda z: nt_xent(*z, 2.0, normalize=False)),
    "simclr-dcl": (2, lambda z: dcl(*z, 0.5)),
    "simclr-nt-logistic": (2, lambda z: nt_logistic(*z, 0.5)),
    "simclr-margin": (2, lambda z: semi_hard_margin(*z, 0.8)),
    "dcl": (2, lambda z: dcl(*z, 0.1)),
    "supcon": (2, lambda z: sup_con(*z, 0.1)),
    "barlow": (2, lambda z: barlow(*z, 5e-3)),
    "vicreg": (2, lambda z: vicreg(*z)),
    "byol": (4, lambda z: bootstrap(*z)),
    "simsiam": (4, lambda z: bootstrap(*z) / 4 - 1),
    "lejepa": (2, lambda z: lejepa(z, 0.02)),
    "dino": (6, lambda z: dino(z, torch.zeros(D), 0.04)),
    "dino-large": (4, lambda z: dino(z, torch.zeros(D), 0.04)),
    "moco-v3": (4, lambda z: v3(*z, 0.2)),
}


@pytest.mark.parametrize("variant", CASES)
def test_the_loss_is_its_formula(variant: str) -> None:
    count, formula = CASES[variant]
    embeddings = inputs(count)
    found, exact = float(loss_of(build(variant), embeddings).detach()), float(formula(embeddings))
    assert found == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("variant", ["moco-v1", "moco-v2", "moco-symmetric"])
def test_the_loss_of_moco_is_cross_entropy_with_the_queue_before_this_step(variant: str) -> None:
    method = build(variant)
    assert isinstance(method, MoCo)
    tau = 0.07 if variant == "moco-v1" else 0.1
    embeddings = inputs(4 if variant == "moco-symmetric" else 2)
    queue, exact = method.ring.keys.double(), []
    assert queue.shape == (64, D)
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(64, dtype=torch.float64))
    for q, k in zip(embeddings[::2], embeddings[1::2], strict=True):
        positive = (unit(q) * unit(k)).sum(1, keepdim=True)
        logits = torch.cat([positive, unit(q) @ queue.T], dim=1) / tau
        exact.append(F.cross_entropy(logits, torch.zeros(N, dtype=torch.long)))
    assert float(loss_of(method, embeddings)) == pytest.approx(float(torch.stack(exact).mean()), rel=1e-6)
    before = method.ring.keys.clone()
    method.after_step(3, TOTAL)
    pushed = torch.cat([unit(k) for k in embeddings[1::2]])
    start = 3 * len(pushed) % 64
    torch.testing.assert_close(method.ring.keys[start : start + len(pushed)], pushed.float())
    before[start : start + len(pushed)] = pushed.float()
    torch.testing.assert_close(method.ring.keys, before)


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    for variant, (count, _) in {**CASES, "moco-v2": (2, None)}.items():
        loss = loss_of(build(variant), [z.bfloat16() for z in inputs(count)])
        assert loss.dtype == torch.float32 and bool(loss.isfinite()), variant


def test_barlow_twins_and_dcl_agree_with_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    z0, z1 = inputs(2)
    theirs = {"barlow": lightly.BarlowTwinsLoss(lambda_param=5e-3), "dcl": lightly.DCLLoss(temperature=0.1)}
    theirs["vicreg"] = lightly.VICRegLoss()
    for variant, criterion in theirs.items():
        assert float(loss_of(build(variant), [z0, z1])) == pytest.approx(float(criterion(z0, z1)), rel=1e-5)
