"""Drop-ins of Gram losses, SigLIP and NT-Xent over labels, against the installed library or its formula."""

from __future__ import annotations

import pytest
import torch
from lightly import loss as lightly_loss
from loss_cases import make_views, relative_error
from pytorch_metric_learning import distances, losses, reducers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor
from torch.nn import functional as F

from fastclr.bench.memory import peak_bytes
from fastclr.compat import barlow_loss_func, lightly, open_clip, pytorch_metric_learning, vicreg_loss_func


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor], limit: float = 1e-12) -> None:
    """Value and gradients."""
    assert relative_error(ours.detach(), theirs.detach()) <= limit
    for mine, other in zip(*(torch.autograd.grad(loss, leaves) for loss in (ours, theirs)), strict=True):
        assert relative_error(mine, other) <= limit


def test_a_temperature_that_is_learnt() -> None:
    rows, labels = make_views("random", 12, 20, torch.float64)[0].requires_grad_(), torch.arange(12) % 4
    tau = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    for name in ("NTXentLoss", "SupConLoss"):
        ours, theirs = (getattr(module, name)(tau)(rows, labels) for module in (pytorch_metric_learning, losses))
        same(ours, theirs, [rows, tau])


@pytest.mark.parametrize("gather", [False, True])
def test_lightly(gather: bool) -> None:
    leaves = [view.requires_grad_() for view in make_views("random", 12, 20, torch.float64)]
    for name, options in (("BarlowTwinsLoss", (0.02, gather)), ("VICRegLoss", (2.0, 3.0, 4.0, gather, 0.01))):
        ours, theirs = (getattr(module, name)(*options) for module in (lightly, lightly_loss))
        same(ours(*leaves), theirs(*leaves), leaves)
        assert {key: value for key, value in vars(theirs).items() if not key.startswith("_")}.items() <= vars(
            ours
        ).items()


def test_lightly_vicreg_of_maps() -> None:
    leaves = [view.view(6, 2, 3, 5).detach().requires_grad_() for view in make_views("random", 6, 30, torch.float64)]
    same(lightly.VICRegLoss()(*leaves), lightly_loss.VICRegLoss()(*leaves), leaves)
    with pytest.raises(ValueError, match="at least two rows"):
        lightly.VICRegLoss()(torch.randn(1, 2, 3), torch.randn(1, 2, 3))


def solo_barlow(z1: Tensor, z2: Tensor, lamb: float, scale_loss: float) -> Tensor:
    """scale_loss times the squared distance of the correlation from the identity, lamb off the diagonal."""
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False).to(z1)
    correlation = torch.einsum("bi,bj->ij", norm(z1), norm(z2)) / len(z1)
    identity = torch.eye(z1.shape[1], dtype=z1.dtype)
    return scale_loss * ((correlation - identity) ** 2 * (identity + lamb * (1 - identity))).sum()


def solo_vicreg(z1: Tensor, z2: Tensor, sim: float, var: float, cov: float) -> Tensor:
    loss = sim * F.mse_loss(z1, z2)
    for z in (z1, z2):
        matrix = torch.cov(z.T)
        off = matrix[~torch.eye(z.shape[1], dtype=torch.bool)]
        loss = loss + var * torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() + cov * off.square().sum() / z.shape[1]
    return loss


def test_solo_learn() -> None:
    leaves = [view.requires_grad_() for view in make_views("random", 12, 20, torch.float64)]
    same(barlow_loss_func(*leaves), solo_barlow(*leaves, 5e-3, 0.025), leaves)
    same(barlow_loss_func(*leaves, 0.1, 2.0), solo_barlow(*leaves, 0.1, 2.0), leaves)
    same(vicreg_loss_func(*leaves), solo_vicreg(*leaves, 25.0, 25.0, 1.0), leaves)
    same(vicreg_loss_func(*leaves, 1.0, 2.0, 3.0), solo_vicreg(*leaves, 1.0, 2.0, 3.0), leaves)


def open_clip_formula(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """-sum log sigmoid(labels * logits) / N with labels 1 on the diagonal and -1 elsewhere."""
    logits = scale * image @ text.T
    logits = logits if bias is None else logits + bias
    labels = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(image)


def test_open_clip() -> None:
    views = [F.normalize(view, dim=1).requires_grad_() for view in make_views("random", 14, 6, torch.float64)]
    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (8.0, -4.0)]
    loss_of = open_clip.SigLipLoss(rank=0, world_size=1)
    same(loss_of(*views, *numbers), open_clip_formula(*views, *numbers), [*views, *numbers])
    same(loss_of(*views, numbers[0], None), open_clip_formula(*views, numbers[0], None), [*views, numbers[0]])
    found = loss_of(views[0], views[1], *numbers, output_dict=True)
    assert list(found) == ["contrastive_loss"] and torch.equal(found["contrastive_loss"], loss_of(*views, *numbers))
    with pytest.raises(ValueError, match="dist_impl must be"):
        open_clip.SigLipLoss(dist_impl="ring")


LABELS = {
    "views": torch.arange(12).repeat(2),
    "classes": torch.arange(24) % 5,
    "uneven": torch.tensor([0] * 11 + [1] * 7 + [2, 3, 4, 4, 5, 6]),
    "one class": torch.zeros(24, dtype=torch.int64),
    "no positives": torch.arange(24),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_metric_learning_with_any_labels(kind: str, dtype: torch.dtype) -> None:
    rows = torch.cat(make_views("random", 12, 8, dtype)).requires_grad_()
    ours, theirs = (module.NTXentLoss(0.1) for module in (pytorch_metric_learning, losses))
    values = [loss_of(rows, LABELS[kind]) for loss_of in (ours, theirs)]
    if kind in ("one class", "no positives"):
        assert float(values[0]) == float(values[1]) == 0
    else:
        same(*values, [rows], 1e-12 if dtype == torch.float64 else 4e-6)


def test_metric_learning_with_reference_rows() -> None:
    rows, refs = (view.requires_grad_() for view in make_views("random", 12, 8, torch.float64))
    labels, others = torch.arange(12) % 3, torch.arange(12) % 4
    ours, theirs = (module.NTXentLoss(0.2) for module in (pytorch_metric_learning, losses))
    arguments = {"ref_emb": refs, "ref_labels": others}
    same(ours(rows, labels, **arguments), theirs(rows, labels, **arguments), [rows, refs])


def test_metric_learning_wrappers_and_options() -> None:
    rows = torch.cat(make_views("random", 12, 8, torch.float64)).requires_grad_()
    labels = LABELS["classes"]
    pairs = (torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7]), torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]))
    kinds = (pytorch_metric_learning.NTXentLoss, losses.NTXentLoss)
    for make in (
        lambda kind: losses.SelfSupervisedLoss(kind(0.1))(rows[:12], rows[12:]),
        lambda kind: losses.SelfSupervisedLoss(kind(0.1), symmetric=False)(rows[:12], rows[12:]),
        lambda kind: losses.CrossBatchMemory(kind(0.1), 8, 64).double()(rows, labels),
        lambda kind: DistributedLossWrapper(kind(0.1))(rows, labels),
        lambda kind: kind(0.1)(rows, labels, pairs),
        lambda kind: kind(0.1, distance=distances.DotProductSimilarity(normalize_embeddings=False))(rows, labels),
        lambda kind: kind(0.1, reducer=reducers.AvgNonZeroReducer())(rows, labels),
    ):
        same(make(kinds[0]), make(kinds[1]), [rows], 1e-10)
    with pytest.raises(ValueError, match="temperature"):
        kinds[0](0.0)


def test_metric_learning_memory() -> None:
    rows = torch.randn(2048, 16, requires_grad=True)
    loss_of, labels = pytorch_metric_learning.NTXentLoss(0.1), torch.arange(2048) // 8
    assert peak_bytes(lambda: loss_of(rows, labels).backward()) <= 12 * 2**20
