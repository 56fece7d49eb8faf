"""PIRL: the loss against its formulas, the patches in their order, and the bank that remembers every image."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from method_cases import config_of, make_tiny
from scipy import special
from torch import Tensor
from torch.nn import functional as F

from fastclr.data import Batch
from fastclr.losses.nce import NCELoss, log_mean_exp
from fastclr.methods import METHODS, Facts, PIRLOptions
from fastclr.methods.image_bank import ImageBank
from fastclr.methods.patches import cut_patches, shuffled_patches

N, D, NEGATIVES = 6, 8, 32
IDS = torch.tensor([40, 3, 12, 77, 5, 9])
FACTS = Facts(images=20, labelled=20, classes=4, world_size=1, batch_size=N, ids=torch.arange(20) * 7 % 80)


def build(variant: str = "pirl", **changes: Any) -> Any:
    torch.manual_seed(0)
    facts = dataclasses.replace(FACTS, ids=torch.cat([IDS, torch.arange(100, 114)]))
    return make_tiny(config_of(variant, **changes), facts)


def batch_of() -> Batch:
    return Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), IDS, torch.zeros(N, dtype=torch.long))


def embeddings() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(N, D, generator=generator, requires_grad=True) for _ in range(2)]


def rows_of(method: Any) -> tuple[Tensor, Tensor]:
    """Each image's row, found by its id, and the negatives of step 3."""
    rows, places = method.bank.rows.double(), method.bank.ids.tolist()
    drawn = torch.randint(len(rows), (NEGATIVES,), generator=torch.Generator().manual_seed(3))
    return rows[[places.index(i) for i in IDS.tolist()]], rows[drawn]


def nce(z: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """The probabilities themselves, with Z = n E and noise of probability 1/n."""
    n, k = 20, NEGATIVES
    kappa, order = 1 / 0.07, D / 2 - 1
    mean = special.gamma(order + 1) * (2 / kappa) ** order * special.iv(order, kappa)
    z = F.normalize(z.double(), dim=1)
    h_own = ((z * own).sum(1) / 0.07).exp() / (n * mean)
    h_others = (z @ others.T / 0.07).exp() / (n * mean)
    loss: Tensor = -(h_own / (h_own + k / n)).log() - (k / n / (h_others + k / n)).log().sum(1)
    return loss.mean()


def info_nce(z: Tensor, own: Tensor, others: Tensor) -> Tensor:
    z = F.normalize(z.double(), dim=1)
    logits = torch.cat([(z * own).sum(1, keepdim=True), z @ others.T], dim=1) / 0.07
    return F.cross_entropy(logits, torch.zeros(N, dtype=torch.long))


@pytest.mark.parametrize(("variant", "formula"), [("pirl", nce), ("pirl-info-nce", info_nce)])
def test_the_loss_and_its_gradient_are_the_formula(variant: str, formula: Any) -> None:
    method, z = build(variant), embeddings()
    weight = method.options.weight
    loss, sums = method.loss(z, batch_of(), 3, 10)
    own, others = rows_of(method)
    exact = weight * formula(z[0], own, others) + (1 - weight) * formula(z[1], own, others)
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-6)
    for found, right in zip(torch.autograd.grad(loss, z), torch.autograd.grad(exact, z), strict=True):
        torch.testing.assert_close(found.double(), right.double(), rtol=1e-5, atol=1e-7)
    assert float(sums["image_loss"]) == pytest.approx(float(formula(z[1].detach(), own, others)), rel=1e-6)
    half = method.loss([each.bfloat16() for each in z], batch_of(), 3, 10)[0]
    assert half.dtype == torch.float32 and float(half.detach()) == pytest.approx(float(exact.detach()), rel=2e-2)


@pytest.mark.parametrize("dim", [1, 2, 8, 128, 2048])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5, 3.0])
def test_the_mean_over_random_vectors_is_a_bessel_function(temperature: float, dim: int) -> None:
    kappa, order = 1 / temperature, dim / 2 - 1
    if dim == 2048:  # beyond the range of the Bessel function: a narrow Gaussian
        if temperature >= 0.07:
            assert log_mean_exp(temperature, dim) == pytest.approx(kappa**2 / 2 / dim, rel=0.05)
        return
    exact = math.lgamma(order + 1) + order * math.log(2 / kappa) + math.log(special.ive(order, kappa)) + kappa
    assert log_mean_exp(temperature, dim) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_rows_of_a_loss_and_bad_temperatures() -> None:
    q, p, k = torch.randn(3, 4, D, dtype=torch.float64)
    rows = NCELoss(0.07, D, reduction="none")(q, p, k)
    assert rows.shape == (4,)
    torch.testing.assert_close(rows.mean(), NCELoss(0.07, D)(q, p, k))
    with pytest.raises(ValueError, match=r"temperature must be at least 0\.001 and dim at least 1, got 0\.0001 and 8"):
        NCELoss(1e-4, D)
    for options in (PIRLOptions(temperature=1e-4), PIRLOptions(grid=4), PIRLOptions(loss="x"), PIRLOptions(weight=2)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must be"):
            config_of("pirl", options=options)


def test_rows_move_towards_their_image_and_no_other() -> None:
    bank = ImageBank(torch.tensor([9, 2, 4, 30]), D).double()
    before = bank.rows.clone()
    slots = bank.slots(torch.tensor([30, 4]))
    assert slots.tolist() == [3, 1]
    z = torch.randn(2, D, dtype=torch.float64) * 5
    bank.move(slots, z, 0.7)
    for row, each in zip((3, 1), z, strict=True):
        mixed = 0.7 * before[row] + 0.3 * each / each.norm()
        torch.testing.assert_close(bank.rows[row], mixed / mixed.norm())
    assert torch.equal(bank.rows[[0, 2]], before[[0, 2]])
    assert set(bank.state_dict()) == {"ids", "rows"}


def test_only_the_image_branch_is_remembered() -> None:
    method, z = build(), embeddings()
    own, _ = rows_of(method)
    method.loss(z, batch_of(), 3, 10)
    torch.testing.assert_close(rows_of(method)[0], own)  # after scoring, not before
    method.after_step(3, 10)
    mixed = 0.5 * own + 0.5 * F.normalize(z[1].detach().double(), dim=1)
    torch.testing.assert_close(rows_of(method)[0], F.normalize(mixed, dim=1), rtol=1e-5, atol=1e-6)


def test_patches_come_in_an_order_of_their_image_alone() -> None:
    method = build(head_bn=False).double().eval()
    views = torch.rand(2, N, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cut = cut_patches(views[1], 2, method.side)
    shuffled = shuffled_patches(cut)
    orders = set()
    with torch.no_grad():
        h, (patches, image) = method(views)
        torch.testing.assert_close(h, method.encoder(views[0]))
        torch.testing.assert_close(image, method.head(h))
        for i in range(N):
            order = [next(k for k in range(4) if torch.equal(each, cut[i, k])) for each in shuffled[i]]
            assert sorted(order) == [0, 1, 2, 3]
            orders.add(tuple(order))
            each = torch.cat([method.patch_head(method.encoder(cut[i, k : k + 1])) for k in order], dim=1)
            torch.testing.assert_close(patches[i : i + 1], method.joint_head(each))
            assert torch.equal(shuffled_patches(cut[i : i + 1])[0], shuffled[i])
    assert len(orders) > 1
    first, second = method.views.config
    assert first.crop_scale == config_of("pirl").augment.crop_scale and second.crop_scale == (0.6, 1.0)


def test_a_large_bank_is_said_to_be_large() -> None:
    with pytest.warns(UserWarning, match=r"1281167 rows of 128 values take 0\.7 GB in each process and .* checkpoint"):
        METHODS["pirl"].check(config_of("pirl", head_dim=128), dataclasses.replace(FACTS, images=1281167))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="PIRL needs a projection head"):
        METHODS["pirl"].build(config_of("pirl", head="none"), FACTS)
