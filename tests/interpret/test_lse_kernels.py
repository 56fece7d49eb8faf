"""The kernels of ``lse`` in Triton's interpreter against the specification in float64."""

from __future__ import annotations

import math

import pytest
import torch
from bf16 import mend
from row_cases import CASES

from fastclr import DebiasedNTXentLoss
from fastclr.kernels import lse_bwd, lse_fwd
from fastclr.kernels.tile_table import Tile
from fastclr.losses import lse_reference

TILE = Tile(block_m=16, block_n=32, block_d=32, num_warps=4, block_out=64)
TALL = Tile(block_m=32, block_n=16, block_d=64, num_warps=4, block_out=64)
KINDS = ("nothing", "self", "pair", "equal", "other")


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)


@pytest.mark.parametrize("exclude", KINDS)
@pytest.mark.parametrize("columns", [None, 50])
@pytest.mark.parametrize(
    ("width", "value", "shift", "precision", "tile", "splits", "limited"),
    [
        (20, 4.0, "fixed", "ieee", TILE, None, False),
        (40, -4.0, "runtime", "ieee", TILE, 2, False),
        (33, 900.0, "online", "ieee", TALL, 2, False),
        (16, 900.0, "runtime", "ieee", TILE, None, True),
        (24, 5.0, "fixed", "bf16", TALL, None, True),
        (24, 5.0, "fixed", "fp16", TILE, 2, False),
    ],
)
def test_kernels_follow_the_specification(
    exclude: str,
    columns: int | None,
    width: int,
    value: float,
    shift: str,
    precision: str,
    tile: Tile,
    splits: int | None,
    limited: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mend(monkeypatch)
    if (columns is None and limited) or (columns is not None and exclude == "pair"):
        pytest.skip("no such call")
    q, k = unit(36, width, 0), None if columns is None else unit(columns, width, 1)
    rounding = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    # the tiles' rounding of the rows is not what is tested here
    exact = [x.to(rounding).double().requires_grad_() for x in (q, q if k is None else k)]
    if k is None:
        exact[1] = exact[0]
    scale = torch.tensor(value, dtype=torch.float64)
    ids = (torch.arange(36) % 4, torch.arange(columns or 36) % 4) if exclude in ("equal", "other") else (None, None)
    limit = torch.linspace(0, abs(value) / 2, 36, dtype=torch.float64) + 1e-3 if limited else None
    both = k is not None
    truth = lse_reference.lse(*exact, scale, *ids, limit, exclude)[: 1 + both]
    pairs = (q, k, scale, *ids, limit)
    found = lse_fwd(*pairs, exclude, 0, both, shift, precision, False, tile=tile, splits=splits)
    error = 3e-6 * (1 + abs(value))
    for mine, other in zip(found, truth, strict=False):
        torch.testing.assert_close(mine.double(), other.detach(), rtol=0, atol=error)
    grads = [torch.linspace(-1e-6, 2e-6, len(x), dtype=torch.float64) for x in truth]
    total = sum((x.masked_fill(x == -math.inf, 0.0) * g).sum() for x, g in zip(truth, grads, strict=True))
    expected = torch.autograd.grad(total, exact[: 1 + both])
    terms = (found[0], grads[0], *((found[1], grads[1]) if both else (None, None)))
    wanted = "both" if both else "q"
    computed = lse_bwd(*pairs, *terms, exclude, 0, wanted, shift, precision, tile=tile, splits=splits)
    tolerance = error if precision == "ieee" else 2e-2 if precision == "bf16" else 2e-3
    for mine, other in zip(computed, expected, strict=False):
        assert (mine - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("wanted", ["q", "k"])
def test_one_sided_gradients_of_a_rank(wanted: str) -> None:
    """Row terms alone, for this rank's rows or columns among those of three ranks."""
    rows, columns = unit(60, 20, 0), unit(60, 20, 1)
    exact = [x.double().requires_grad_() for x in (rows, columns)]
    scale = torch.tensor(6.0)
    truth, _ = lse_reference.lse(*exact, scale.double(), None, None, None, "self")
    grad = torch.linspace(0, 1, 60, dtype=torch.float64)
    expected = torch.autograd.grad((truth * grad).sum(), exact)[wanted == "k"][20:40]
    own = slice(20, 40)
    if wanted == "q":
        found, _ = lse_fwd(
            rows[own], columns, scale, None, None, None, "self", 20, False, "fixed", "ieee", True, tile=TILE
        )
        torch.testing.assert_close(found.double(), truth[own].detach(), rtol=1e-6, atol=1e-6)
        pairs, terms, offset = (rows[own], columns), (found, grad[own]), 20
    else:
        pairs, terms, offset = (rows, columns[own]), (truth.detach(), grad), -20
    computed = lse_bwd(
        *pairs, scale, None, None, None, *terms, None, None, "self", offset, wanted, "fixed", "ieee", tile=TILE
    )[wanted == "k"]
    assert (computed - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss through the operator with impl="triton", learnable temperature included."""
    mend(monkeypatch)
    case = CASES[name]
    inputs = case.make_inputs("random", 21, 24, dtype)
    results = []
    for impl in ("triton", "reference"):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        tau = torch.tensor(0.3, requires_grad=True)
        loss = case.ours(*leaves, tau=tau, impl=impl)
        loss.backward()
        results.append((loss, tau.grad, torch.cat([x.grad.float().flatten() for x in leaves])))
    half = 1.0 if dtype == torch.float32 else 3e3
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() <= 5e-6 * half * other.norm()


def test_a_factor_on_the_scale_keeps_exponents_in_range() -> None:
    """Hard negatives multiply the scale; at a low temperature what kept the exponents in range does so no more."""
    rows = 0.05 * unit(16, 24, 1) + unit(1, 24, 2)
    results = []
    for impl in ("triton", "reference"):
        leaves = [x.clone().to(torch.float64 if impl == "reference" else torch.float32) for x in (rows, rows.flip(0))]
        leaves = [x.requires_grad_() for x in leaves]
        loss = DebiasedNTXentLoss(0.05, hardness=4.0, impl=impl)(*leaves)
        results.append((loss.detach().double(), *(x.double() for x in torch.autograd.grad(loss, leaves))))
    for mine, other in zip(*results, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()


def test_nothing_to_compare_with() -> None:
    pairs = (unit(5, 16, 0), torch.empty(0, 16), torch.tensor(2.0), None, None, None)
    rows, columns = lse_fwd(*pairs, "nothing", 0, True, "fixed", "ieee", True)
    assert (rows == -math.inf).all() and columns.shape == (0,)
    dq, dk = lse_bwd(*pairs, rows, torch.ones(5), None, None, "nothing", 0, "both", "fixed", "ieee")
    assert dq.shape == (5, 16) and not dq.any() and dk.shape == (0, 16)
