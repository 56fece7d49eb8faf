"""The drop-ins of the row-softmax losses against the installed library, or its formula where it is not installed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightly.loss
import pytest
import pytorch_metric_learning.losses as metric_learning
import torch
from loss_cases import make_views, relative_error
from pytorch_metric_learning.losses import CrossBatchMemory, SelfSupervisedLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor
from torch.nn import functional

from fastclr import compat
from fastclr.losses import tiles


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 1e-12) -> None:
    """Assert equal values and equal gradients of all floating inputs."""
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
    found, expected = ours(*leaves), theirs(*leaves)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    wanted = [x for x in leaves if x.requires_grad]
    for mine, other in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert relative_error(mine, other) <= 10 * tolerance


def unit(count: int = 24, dim: int = 8, seed: int = 0) -> list[Tensor]:
    return [functional.normalize(z, dim=1) for z in make_views("random", count, dim, torch.float64, seed)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 16 * 16 * 8)


def open_clip_formula(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    logits, own = scale * images @ texts.T, torch.arange(len(images))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


@pytest.mark.parametrize("normalised", [True, False])
def test_open_clip(normalised: bool) -> None:
    images, texts = unit() if normalised else make_views("random", 24, 8, torch.float64)
    scale = torch.tensor(14.0, dtype=torch.float64)
    loss = compat.open_clip.ClipLoss()
    same(loss, open_clip_formula, images, texts, scale)
    assert loss(images, texts, scale, logit_bias=-3.0, output_dict=True) == {
        "contrastive_loss": loss(images, texts, scale)
    }


def test_open_clip_original_gradient_is_a_share() -> None:
    images, texts = (x.requires_grad_() for x in unit())
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss, part = compat.open_clip.ClipLoss(), compat.open_clip.ClipLoss(world_size=1, original_gradient=True)
    part.share = 0.25
    exact, share = (torch.autograd.grad(x(images, texts, scale), (images, texts, scale)) for x in (loss, part))
    torch.testing.assert_close(share[0], exact[0] / 4)
    torch.testing.assert_close(share[1], exact[1] / 4)
    torch.testing.assert_close(share[2], exact[2])
    with pytest.raises(ValueError, match="original_gradient"):
        compat.open_clip.ClipLoss(local_loss=True, world_size=2, original_gradient=True)


def supcontrast_formula(features: Tensor, labels: Tensor | None, tau: float, base: float) -> Tensor:
    """The code of SupContrast for contrast_mode "all", with its mean over all anchors."""
    n, views = features.shape[:2]
    labels = torch.arange(n) if labels is None else labels
    mask = (labels[:, None] == labels).double().repeat(views, views)
    rows = torch.cat(features.flatten(2).unbind(1))
    logits = rows @ rows.T / tau
    logits = logits - logits.max(1, keepdim=True).values.detach()
    away = 1 - torch.eye(n * views, dtype=torch.float64)
    mask = mask * away
    log_prob = logits - ((logits.exp() * away).sum(1, keepdim=True)).log()
    pairs = mask.sum(1)
    pairs = torch.where(pairs < 1e-6, 1.0, pairs)
    return (-(tau / base) * (mask * log_prob).sum(1) / pairs).mean()


@pytest.mark.parametrize("labels", [None, torch.arange(12) % 4, torch.arange(12) % 5 - 1])
def test_supcontrast(labels: Tensor | None) -> None:
    features = torch.stack(unit(12), dim=1)
    loss = compat.supcontrast.SupConLoss(0.2)
    same(lambda x: loss(x, labels), lambda x: supcontrast_formula(x, labels, 0.2, 0.07), features)
    single = torch.arange(12) // 3
    single[0] = 77
    same(lambda x: loss(x, single), lambda x: supcontrast_formula(x, single, 0.2, 0.07), features[:, :1].clone())


@pytest.mark.parametrize(
    "labels", [torch.arange(30) % 4, torch.arange(30) // 2, torch.arange(30), torch.zeros(30), torch.arange(30) % 3 - 1]
)
@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_pytorch_metric_learning_with_labels(name: str, labels: Tensor) -> None:
    rows = make_views("random", 30, 8, torch.float64)[0].requires_grad_()
    ours, theirs = getattr(compat.pytorch_metric_learning, name)(0.3), getattr(metric_learning, name)(0.3)
    same(lambda x: ours(x, labels.long()), lambda x: theirs(x, labels.long()), rows, tolerance=1e-9)


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_pytorch_metric_learning_wrappers(name: str) -> None:
    ours, theirs = getattr(compat.pytorch_metric_learning, name)(0.3), getattr(metric_learning, name)(0.3)
    z0, z1 = make_views("random", 16, 8, torch.float64)
    same(SelfSupervisedLoss(ours), SelfSupervisedLoss(theirs), z0, z1, tolerance=1e-9)
    same(
        *(lambda x, loss=loss: DistributedLossWrapper(loss)(x, torch.arange(16) % 4) for loss in (ours, theirs)),
        z0,
        tolerance=1e-9,
    )
    labels = torch.arange(16) % 5
    memories = [CrossBatchMemory(loss, 8, memory_size=24) for loss in (ours, theirs)]
    for memory in memories:
        memory(z1.detach(), labels)
    same(*(lambda x, memory=memory: memory(x, labels) for memory in memories), z0, tolerance=1e-9)
    # reference embeddings, whose labels are the same tensor or another
    for others in (labels, labels.clone()):
        same(
            *(lambda x, loss=loss, ys=others: loss(x, labels, ref_emb=z1, ref_labels=ys) for loss in (ours, theirs)),
            z0,
            tolerance=1e-9,
        )
    pairs = MultiSimilarityMiner()(z0, labels)
    same(lambda x: ours(x, labels, pairs), lambda x: theirs(x, labels, pairs), z0, tolerance=1e-9)


@pytest.mark.parametrize("name", ["DCLLoss", "DCLWLoss"])
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_lightly_dcl(name: str) -> None:
    views = make_views("random", 24, 8, torch.float64)
    same(getattr(compat.lightly, name)(0.2), getattr(lightly.loss, name)(0.2), *views)


def test_lightly_dcl_with_weights() -> None:
    def weights(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().sum(1)

    views = make_views("random", 24, 8, torch.float64)
    same(compat.lightly.DCLLoss(0.2, weights), lightly.loss.DCLLoss(0.2, weights), *views)


def test_lightly_bank_of_a_plain_number() -> None:
    """As in older versions; newer ones want the length too."""
    losses = []
    for kind, size in ((compat.lightly.NTXentLoss, 16), (lightly.loss.NTXentLoss, (16, 4))):
        torch.manual_seed(3)
        loss = kind(0.3, memory_bank_size=size)
        steps = [[z.requires_grad_() for z in make_views("random", 6, 4, seed=step)] for step in range(4)]
        losses.append(torch.stack([loss(*views) for views in steps]))
    torch.testing.assert_close(*losses)


def info_nce_formula(q: Tensor, p: Tensor, n: Tensor | None, tau: float, reduction: str) -> Tensor:
    """The code of info-nce-pytorch."""
    q, p = functional.normalize(q, dim=-1), functional.normalize(p, dim=-1)
    if n is None:
        return functional.cross_entropy(q @ p.T / tau, torch.arange(len(q)), reduction=reduction)
    n = functional.normalize(n, dim=-1)
    negative = q @ n.T if n.dim() == 2 else (q[:, None] @ n.transpose(1, 2)).squeeze(1)
    logits = torch.cat([(q * p).sum(1, keepdim=True), negative], dim=1) / tau
    return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long), reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [None, (9, 8), (24, 3, 8)])
def test_info_nce_pytorch(shape: tuple[int, ...] | None, reduction: str) -> None:
    q, p = make_views("random", 24, 8, torch.float64)
    inputs = (
        [q, p] if shape is None else [q, p, make_views("far", math.prod(shape[:-1]), 8, torch.float64)[0].view(shape)]
    )
    mode = "paired" if shape is not None and len(shape) == 3 else "unpaired"
    same(
        lambda *x: compat.info_nce_pytorch.info_nce(*x, temperature=0.2, reduction=reduction, negative_mode=mode),
        lambda *x: info_nce_formula(x[0], x[1], x[2] if len(x) == 3 else None, 0.2, reduction),
        *inputs,
    )
    if mode == "paired":
        with pytest.raises(ValueError, match="2 dimensions"):
            compat.info_nce_pytorch.InfoNCE()(*inputs)


def ranking_formula(
    embeddings: list[Tensor],
    scale: float,
    directions: tuple[str, ...],
    joint: bool,
    mode: str | None = None,
    strength: float = 0.0,
) -> Tensor:
    """The library's loss: dense matrices of cosines, -inf for what is left out, penalties without gradient."""
    q, p, *hard = (functional.normalize(x, dim=1) for x in embeddings)
    n, itself = len(q), torch.eye(len(q), dtype=torch.bool)
    documents = torch.cat([p, *hard])
    matrices = {
        "query_to_doc": q @ documents.T,
        "query_to_query": (q @ q.T).masked_fill(itself, -math.inf),
        "doc_to_query": (q @ p.T).T,
        "doc_to_doc": (p @ documents.T).masked_fill(itself.repeat(1, len(documents) // n), -math.inf),
    }
    own_documents = itself.repeat(1, len(documents) // n)
    positives = torch.arange(len(documents)) < n
    harder = {
        None: torch.zeros_like(own_documents),
        "in_batch_negatives": ~own_documents,
        "hard_negatives": own_documents & ~positives,
        "all_negatives": ~(own_documents & positives),
    }[mode]
    penalty = strength * matrices["query_to_doc"].detach() * harder
    chosen = [scale * matrices[name] + (penalty if name == "query_to_doc" else 0.0) for name in directions]
    own = scale * (q * p).sum(1)
    if joint:
        return (torch.cat(chosen, dim=1).logsumexp(1) - own).mean()
    return (sum(matrix.logsumexp(1) for matrix in chosen) / len(chosen) - own).mean()


@pytest.mark.parametrize(
    "directions",
    [
        ("query_to_doc",),
        ("query_to_doc", "query_to_query", "doc_to_doc"),
        ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
    ],
)
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("hard", [0, 2])
def test_sentence_transformers(directions: tuple[str, ...], joint: bool, hard: int) -> None:
    embeddings = [*make_views("random", 21, 8, torch.float64), *make_views("far", 21, 8, torch.float64, 5)][: 2 + hard]
    mode = "joint" if joint else "per_direction"
    if not joint and "query_to_query" in directions:
        with pytest.raises(ValueError, match="positive pair"):
            compat.sentence_transformers.MultipleNegativesRankingLoss(None, directions=directions, partition_mode=mode)
        return
    kind = compat.sentence_transformers.MultipleNegativesRankingLoss
    loss = kind(None, directions=directions, partition_mode=mode)
    same(
        lambda *x: loss.compute_loss_from_embeddings(list(x)),
        lambda *x: ranking_formula(list(x), 20.0, directions, joint),
        *embeddings,
    )


@pytest.mark.parametrize("mode", ["in_batch_negatives", "hard_negatives", "all_negatives"])
@pytest.mark.parametrize("directions", [("query_to_doc",), ("query_to_doc", "doc_to_query", "doc_to_doc")])
@pytest.mark.parametrize("hard", [0, 2])
def test_sentence_transformers_hardness(directions: tuple[str, ...], mode: str, hard: int) -> None:
    embeddings = [*make_views("random", 21, 8, torch.float64), *make_views("far", 21, 8, torch.float64, 5)][: 2 + hard]
    kind = compat.sentence_transformers.MultipleNegativesRankingLoss
    loss = kind(None, directions=directions, hardness_mode=mode, hardness_strength=7.0)
    same(
        lambda *x: loss.compute_loss_from_embeddings(list(x)),
        lambda *x: ranking_formula(list(x), 20.0, directions, True, mode, 7.0),
        *embeddings,
    )


def test_sentence_transformers_cached() -> None:
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.most = torch.nn.Linear(8, 5).double(), 0

        def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
            assert features["prompt"] == "query: " and len(features["mask"]) == len(features["x"])
            self.most = max(self.most, len(features["x"]))
            dropped = torch.nn.functional.dropout(features["x"], 0.3, self.training)
            return {"sentence_embedding": self.layer(dropped) * features["mask"][:, None]}

    columns = [
        {"prompt": "query: ", "x": x, "mask": 1.0 + (x[:, 0] > 0)} for x in make_views("random", 13, 8, torch.float64)
    ]
    module = compat.sentence_transformers
    found = []
    for kind, options in (
        ("MultipleNegativesRankingLoss", {}),
        ("CachedMultipleNegativesRankingLoss", {"mini_batch_size": 4}),
    ):
        encoder = Encoder().eval()
        loss = getattr(module, kind)(encoder, scale=10.0, directions=("query_to_doc", "doc_to_query"), **options)
        value = loss(columns, None)
        value.backward()
        found.append((value.detach(), encoder.layer.weight.grad))
        assert encoder.most == options.get("mini_batch_size", 13)
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-15)
    # dropout draws the same numbers again: the gradient is that of the value
    encoder = Encoder().train()
    loss = module.CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=4)

    def value_at(weight: Tensor) -> Tensor:
        torch.manual_seed(7)
        encoder.layer.weight.data.copy_(weight)
        return loss(columns, None)

    weight, step = encoder.layer.weight.detach().clone(), torch.zeros(5, 8, dtype=torch.float64)
    step[2, 3] = 1e-6
    value_at(weight).backward()
    slope = (value_at(weight + step) - value_at(weight - step)) / 2e-6
    torch.testing.assert_close(encoder.layer.weight.grad[2, 3], slope.detach(), rtol=1e-6, atol=1e-9)
    assert loss.get_config_dict()["mini_batch_size"] == 4
    with torch.no_grad():
        assert not loss(columns, None).requires_grad
    for options in ({"mini_batch_size": 0}, {"mini_batch_num_tokens": 100}):
        with pytest.raises(ValueError, match="mini_batch"):
            module.CachedMultipleNegativesRankingLoss(encoder, **options)
    with pytest.raises(ValueError, match="one row a text"):
        loss([{"pixel_values": columns[0]["x"]}] * 2)


def test_sentence_transformers_calls_its_model() -> None:
    class Encoder(torch.nn.Module):
        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"sentence_embedding": features["x"] * 2.0}

    columns = [{"x": x} for x in make_views("random", 6, 8)]
    loss = compat.sentence_transformers.MultipleNegativesRankingLoss(Encoder(), scale=10.0)
    found = loss(columns, None)
    torch.testing.assert_close(found, ranking_formula([c["x"] for c in columns], 10.0, ("query_to_doc",), True))
    assert loss.temperature == pytest.approx(0.1) and loss.get_config_dict()["scale"] == 10.0
    # slices of Matryoshka embeddings
    sliced = loss.compute_loss_from_embeddings([c["x"][:, :5] for c in columns])
    torch.testing.assert_close(sliced, ranking_formula([c["x"][:, :5] for c in columns], 10.0, ("query_to_doc",), True))
    for options in (
        {"similarity_fct": torch.dot},
        {"directions": ("doc_to_doc",)},
        {"partition_mode": "both"},
        {"hardness_mode": "all"},
        {"hardness_strength": -1.0},
        {"scale": 0.0},
    ):
        with pytest.raises(ValueError):
            compat.sentence_transformers.MultipleNegativesRankingLoss(None, **options)
    with pytest.raises(ValueError, match="at least 2"):
        loss.compute_loss_from_embeddings([columns[0]["x"]])


def test_other_losses_are_refused() -> None:
    rows = torch.randn(6, 4)
    for call in (
        lambda: compat.open_clip.ClipLoss(use_horovod=True),
        lambda: compat.supcontrast.SupConLoss(contrast_mode="one"),
        lambda: compat.supcontrast.SupConLoss()(rows),
        lambda: compat.supcontrast.SupConLoss()(rows[:, None], mask=torch.eye(6)),
        lambda: compat.info_nce_pytorch.InfoNCE(negative_mode="both"),
        lambda: compat.lightly.NTXentLoss(memory_bank_size=-1),
        lambda: compat.lightly.DCLLoss(weight_fn=torch.dot, gather_distributed=True),
        lambda: compat.pytorch_metric_learning.NTXentLoss()(rows),
        lambda: compat.pytorch_metric_learning.SupConLoss(0.0),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(AttributeError, match="torchvision"):
        compat.torchvision  # noqa: B018
