"""The kernel of ``softplus_pairs`` in Triton's interpreter against the specification in float64."""

from __future__ import annotations

import math

import pytest
import torch
from bf16 import mend

from fastclr import MarginTripletLoss, NTLogisticLoss, SigLIPLoss
from fastclr.kernels import softplus_pairs
from fastclr.kernels.tile_table import Tile
from fastclr.losses import positive_pairs, softplus_reference

TILE = Tile(block_m=16, block_n=32, block_d=32, num_warps=4, block_out=64)
TALL = Tile(block_m=32, block_n=16, block_d=64, num_warps=4, block_out=64)
INCLUDES = ("all", "others", "negatives", "same_id", "same_id_others")
ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def adversarial(count: int, width: int, seed: int) -> torch.Tensor:
    """Rows of unit length: some of them equal, opposite or of a single feature."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator)
    rows[1::7] = rows[0]
    rows[2::7] = -rows[0]
    rows[3::7] = torch.eye(width)[0]
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("include", INCLUDES)
@pytest.mark.parametrize(
    ("count", "width", "value", "precision", "tile", "splits", "activation", "per_row"),
    [
        (38, 20, 0.1, "ieee", TILE, None, "softplus", True),
        (38, 40, -10.0, "ieee", TILE, 2, "softplus", False),
        (51, 33, 1000.0, "ieee", TALL, 2, "softplus", True),
        (51, 16, 1.0, "ieee", TALL, None, "hinge", True),
        (50, 24, 10.0, "bf16", TALL, None, "softplus", False),
        (50, 24, 10.0, "fp16", TILE, 2, "softplus", True),
    ],
)
def test_kernel_follows_the_specification(
    include: str,
    count: int,
    width: int,
    value: float,
    precision: str,
    tile: Tile,
    splits: int | None,
    activation: str,
    per_row: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Value, slopes and both gradients, plain and weighted: odd numbers of rows, 1/tau from 0.1 to 1,000."""
    mend(monkeypatch)
    if include == "negatives":
        count += count % 2
    columns = count if include in ("others", "negatives") else 50
    q, k = adversarial(count, width, 0), adversarial(columns, width, 1)
    if include == "negatives":
        k = q
    exact = [x.to(ROUNDED.get(precision, torch.float32)).double().requires_grad_() for x in (q, k)]
    scale = torch.tensor(value, dtype=torch.float64)
    # the hinge has no gradient at 0, which whole numbers would give between rows that are equal or opposite
    bias = (
        torch.linspace(-0.97 * abs(value), 0.9, count, dtype=torch.float64)
        if per_row
        else torch.tensor(-value).double()
    )
    bias.requires_grad_()
    ids = (torch.arange(count) % 4, torch.arange(columns) % 4) if "id" in include else None
    rows = softplus_reference.softplus_pairs(exact[0], exact[1], scale, bias, include, ids, activation)
    half = 1.0 if precision == "ieee" else 2e3 if precision == "fp16" else 2e4
    error = max(1e-6, 4 * torch.finfo(torch.float32).eps * abs(value))
    pairs = (q, k, scale, bias.detach(), *(ids or (None, None)))
    for weight in (None, torch.linspace(-1e-6, 2e-6, count, dtype=torch.float64)):
        grads = torch.autograd.grad(rows, [*exact, bias], torch.ones_like(rows) if weight is None else weight, True)
        found = softplus_pairs(*pairs, weight, include, 0, False, activation, precision, 2, tile=tile, splits=splits)
        assert (found[0] - rows).norm() <= error * rows.norm()
        for mine, other in zip(found[2:], grads, strict=False):
            assert (mine * scale - other).norm() <= error * half * max(1e-30, float(other.norm()))
        slope = found[1] if per_row else found[1].sum()
        assert (slope - grads[2]).norm() <= error * half * grads[2].norm()
    alone = softplus_pairs(*pairs, None, include, 0, False, activation, precision, 0, tile=tile, splits=splits)
    torch.testing.assert_close(alone[0], found[0])
    assert [x.numel() for x in alone[1:]] == [0, 0, 0]


@pytest.mark.parametrize("s", [-87.0, -20.0, -5.0, -1e-3, 0.0, 1e-3, 5.0, 20.0, 1e38, math.inf, -math.inf, math.nan])
def test_single_logits(s: float) -> None:
    """Tiny values keep their relative accuracy; infinities and NaN arrive."""
    for bias, activation in ((s, "softplus"), (s, "hinge")):
        exact = torch.tensor(bias).double().requires_grad_()
        reference = torch.logaddexp(exact, torch.zeros_like(exact)) if activation == "softplus" else torch.relu(exact)
        found = softplus_pairs(
            torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor(1.0), torch.tensor(bias), None, None, None, "all", 0,
            False, activation, "ieee", 1, tile=TILE,
        )  # fmt: skip
        torch.testing.assert_close(found[0][0].double(), reference.detach(), rtol=1e-5, atol=1e-38, equal_nan=True)
        if s == s:
            slope = torch.autograd.grad(reference, exact)[0]
            torch.testing.assert_close(found[1][0].double(), slope, rtol=1e-5, atol=1e-38)


LOSSES = {
    "siglip": lambda impl: SigLIPLoss(10.0, -5.0, learnable=True, impl=impl),
    "logistic": lambda impl: NTLogisticLoss(0.3, negatives="both_views", learnable_temperature=True, impl=impl),
    "logistic rows": lambda impl: NTLogisticLoss(0.3, learnable_temperature=True, reduction="none", impl=impl),
    "triplet": lambda impl: MarginTripletLoss(0.4, mining="none", impl=impl),
    "mined triplet": lambda impl: MarginTripletLoss(0.4, impl=impl),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss through the operator with impl="triton", its parameters' gradients included."""
    mend(monkeypatch)
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(21, 24, generator=generator)
    views = [(base + torch.randn(21, 24, generator=generator)).to(dtype) for _ in range(2)]
    results = []
    for impl in ("triton", "reference"):
        leaves, loss_of = [x.clone().requires_grad_() for x in views], LOSSES[name](impl)
        loss = loss_of(*leaves)
        (loss * torch.linspace(1, 2, loss.numel()).reshape(loss.shape)).sum().backward()
        grads = [p.grad.flatten() for p in (*leaves, *loss_of.parameters())]
        results.append((loss.detach(), torch.cat(grads[:2]).float(), torch.cat([torch.zeros(1), *grads[2:]])))
    half = 1.0 if dtype == torch.float32 else 3e3
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() <= 5e-6 * half * other.norm()


def test_positive_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """NT-Xent over labels goes through both operators; a row without negatives has the bias -inf."""
    rows, labels = adversarial(23, 16, 0), torch.arange(23) % 5
    results = []
    for impl in ("triton", "blockwise"):
        monkeypatch.setattr(positive_pairs, "select_impl", lambda *_, impl=impl: impl)
        leaf = rows.clone().requires_grad_()
        pairs, _ = positive_pairs.pair_counts(labels, labels, True)
        loss = positive_pairs.nt_xent_of_pairs(leaf, leaf, labels, labels, 0.2, True, pairs)
        lone = positive_pairs.nt_xent_of_pairs(leaf, leaf, 0 * labels, 0 * labels, 0.2, True, 23 * 22)
        (loss + lone).backward()
        results.append((loss.detach(), lone.detach(), leaf.grad))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_rank_among_three() -> None:
    """This rank's rows against all columns, and its columns against all rows with the rows' bias."""
    rows, columns = adversarial(60, 20, 0), adversarial(60, 20, 1)
    exact = [x.double().requires_grad_() for x in (rows, columns)]
    scale, bias = torch.tensor(6.0), torch.linspace(-3, 1, 60)
    truth = softplus_reference.softplus_pairs(*exact, scale.double(), bias.double(), "others")
    dq, dk = torch.autograd.grad(truth.sum(), exact)
    own, rest = slice(20, 40), ("softplus", "ieee", 1)
    loss, _, mine, _ = softplus_pairs(
        rows[own], columns, scale, bias[own], None, None, None, "others", 20, False, *rest, tile=TILE
    )
    torch.testing.assert_close(loss.double(), truth[own].detach(), rtol=1e-6, atol=1e-6)
    assert (mine * scale - dq[own]).norm() <= 1e-6 * dq.norm()
    _, _, mine, _ = softplus_pairs(
        columns[own], rows, scale, bias, None, None, None, "others", 20, True, *rest, tile=TILE
    )
    assert (mine * scale - dk[own]).norm() <= 1e-6 * dk.norm()


def test_nothing_to_compare_with() -> None:
    q, k = adversarial(5, 16, 0), torch.empty(0, 16)
    loss, slope, dq, dk = softplus_pairs(
        q, k, torch.tensor(2.0), torch.tensor(0.0), None, None, None, "all", 0, False, "softplus", "ieee", 2
    )
    assert not loss.any() and not slope.any() and dq.shape == (5, 16) and not dq.any() and dk.shape == (0, 16)
