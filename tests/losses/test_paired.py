"""The CPU's way of CLIP and ranking: its operators, that it is taken, and what it needs."""

from __future__ import annotations

import pytest
import torch
from loss_cases import make_views
from torch import Tensor

from fastclr import CLIPLoss, InfoNCELoss, MultipleNegativesLoss
from fastclr.bench.memory import peak_bytes
from fastclr.losses import paired_op, row_loss, tiles


def views(count: int, dim: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [view.requires_grad_() for view in make_views("random", count, dim, dtype)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_opcheck(dtype: torch.dtype, normalize: bool) -> None:
    first, second = (view.detach() for view in views(6, 4, dtype))
    how = (torch.tensor(-3.0, dtype=torch.float64), normalize, "fixed", "auto")
    torch.library.opcheck(paired_op.clip_fwd, (first, second, *how))
    own, rows, columns, *kept = paired_op.clip_fwd(first, second, *how)
    torch.library.opcheck(paired_op.clip_bwd, ([own, own, own], rows, columns, *kept, *how))
    for grads in (False, True):
        torch.library.opcheck(paired_op.ranking, (first, [second, second[:2]], *how, grads))


@pytest.mark.parametrize("tau", [-0.2, 0.002, 0.3])
@pytest.mark.parametrize("normalize", [True, False])
def test_same_as_the_general_operator(tau: float, normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)
    monkeypatch.setattr(row_loss, "FEWEST_STRIPE_ROWS", 0)
    leaves = [*views(41, 6), torch.tensor(tau, dtype=torch.float64, requires_grad=True)]
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(row_loss.Comparison, "_at_once", lambda *_: False)
        for kind in (CLIPLoss, InfoNCELoss, MultipleNegativesLoss):
            loss = kind(leaves[2], normalize=normalize)(*leaves[:2])
            found.append((loss, *torch.autograd.grad(loss, leaves)))
    for mine, other in zip(found[:3], found[3:], strict=True):
        for got, expected in zip(mine, other, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_gradients_of_a_second_backward_are_the_same() -> None:
    a, b = views(9, 4)
    for loss in (CLIPLoss()(a, b), InfoNCELoss()(a, b)):
        first = torch.autograd.grad(loss, (a, b), retain_graph=True)
        second = torch.autograd.grad(loss, (a, b))
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_one_side_alone() -> None:
    a, b = views(9, 4)
    for kind in (CLIPLoss, InfoNCELoss, MultipleNegativesLoss):
        both = torch.autograd.grad(kind()(a, b), (a, b))
        for index, inputs in enumerate(((a, b.detach()), (a.detach(), b))):
            (found,) = torch.autograd.grad(kind()(*inputs), (a, b)[index])
            torch.testing.assert_close(found, both[index])
        assert not kind()(a.detach(), b.detach()).requires_grad


def test_memory_is_rows_gradients_and_a_few_tiles() -> None:
    rows = [torch.randn(2048, 256, requires_grad=True) for _ in range(3)]
    sides = 2048 * 256 * 4
    assert peak_bytes(lambda: CLIPLoss()(*rows[:2]).backward()) < 4 * sides + 3 * tiles.CPU_TILE_BYTES
    for row in rows:
        row.grad = None
    assert peak_bytes(lambda: MultipleNegativesLoss()(*rows).backward()) < 6 * sides + 9 * tiles.CPU_TILE_BYTES
