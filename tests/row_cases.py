"""The row-softmax losses beside the same losses written plainly, dense and in the dtype of their inputs, per row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from loss_cases import make_views
from torch import Tensor
from torch.nn import functional

from fastclr import BLIPLoss, CLIPLoss, DCLLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss, SupConLoss


def unit(rows: Tensor, normalize: bool) -> Tensor:
    return functional.normalize(rows, dim=-1) if normalize else rows


def labels_of(count: int) -> Tensor:
    """Few classes, one of them with a single row, and two rows without a label."""
    labels = torch.arange(count) * 7 % 5
    labels[0] = 99
    labels[1:3] = -1
    return labels


def without_equal_ids(s: Tensor, by_ids: bool) -> Tensor:
    """-inf where another column has the id of the row, three rows an id."""
    own = torch.arange(len(s))
    ids = own // 3
    return s.masked_fill((ids[:, None] == ids) & (own[:, None] != own), -math.inf) if by_ids else s


def plain_clip(a: Tensor, b: Tensor, tau: Tensor, normalize: bool, by_ids: bool = False) -> Tensor:
    s = without_equal_ids(unit(a, normalize) @ unit(b, normalize).T / tau, by_ids)
    own = torch.arange(len(s))
    return sum(functional.cross_entropy(logits, own, reduction="none") for logits in (s, s.T)) / 2


def plain_info_nce(a: Tensor, b: Tensor, tau: Tensor, normalize: bool, by_ids: bool = False) -> Tensor:
    s = without_equal_ids(unit(a, normalize) @ unit(b, normalize).T / tau, by_ids)
    return functional.cross_entropy(s, torch.arange(len(s)), reduction="none")


def without_likely_positives(s: Tensor, tau: Tensor) -> Tensor:
    """-inf where another column is more similar than the row's positive, its own column, by a cosine of 0.2."""
    return s.masked_fill(s > (s.diagonal() + 0.2 / tau).detach()[:, None], -math.inf)


def plain_clip_filtered(a: Tensor, b: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    s, own = without_equal_ids(unit(a, normalize) @ unit(b, normalize).T / tau, True), torch.arange(len(a))
    sides = (without_likely_positives(logits, tau) for logits in (s, s.T))
    return sum(functional.cross_entropy(logits, own, reduction="none") for logits in sides) / 2


def plain_info_nce_filtered(a: Tensor, b: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    s = without_likely_positives(unit(a, normalize) @ unit(b, normalize).T / tau, tau)
    return functional.cross_entropy(s, torch.arange(len(s)), reduction="none")


def plain_info_nce_negatives_filtered(a: Tensor, b: Tensor, n: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    """Negatives ``[K, D]`` or ``[N, K, D]``."""
    a, b, n = (unit(x, normalize) for x in (a, b, n))
    own = (a * b).sum(1, keepdim=True) / tau
    s = (a @ n.T if n.dim() == 2 else torch.einsum("nd,nkd->nk", a, n)) / tau
    s = torch.cat([own, s.masked_fill(s > (own + 0.2 / tau).detach(), -math.inf)], dim=1)
    return functional.cross_entropy(s, torch.zeros(len(s), dtype=torch.long), reduction="none")


def plain_info_nce_set(a: Tensor, b: Tensor, n: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    a, b, n = (unit(x, normalize) for x in (a, b, n))
    s = torch.cat([(a * b).sum(1, keepdim=True), a @ n.T], dim=1) / tau
    return functional.cross_entropy(s, torch.zeros(len(s), dtype=torch.long), reduction="none")


def plain_info_nce_own(a: Tensor, b: Tensor, n: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    a, b, n = (unit(x, normalize) for x in (a, b, n))
    s = torch.cat([(a * b).sum(1, keepdim=True), torch.einsum("nd,nkd->nk", a, n)], dim=1) / tau
    return functional.cross_entropy(s, torch.zeros(len(s), dtype=torch.long), reduction="none")


def plain_sup_con(a: Tensor, tau: Tensor, normalize: bool, inner: bool = False) -> Tensor:
    z, labels = unit(a, normalize), labels_of(len(a))
    itself = torch.eye(len(z), dtype=torch.bool)
    s = (z @ z.T / tau).masked_fill(itself, -math.inf)
    positive = (labels[:, None] == labels) & (labels != -1) & ~itself
    some = positive.any(1)
    total = s.logsumexp(1)
    if inner:
        masked = s.masked_fill(~positive, -math.inf)
        # rows without a positive are left out before the logarithm, whose gradient would be NaN
        found = total[some] - masked[some].logsumexp(1) + positive[some].sum(1).to(z.dtype).log()
    else:
        found = total[some] - s.masked_fill(~positive, 0.0)[some].sum(1) / positive[some].sum(1)
    return torch.zeros_like(total).index_put((some.nonzero()[:, 0],), found.to(total.dtype))


def plain_dcl(a: Tensor, b: Tensor, tau: Tensor, normalize: bool, sigma: float = 0.0) -> Tensor:
    z = torch.cat([unit(a, normalize), unit(b, normalize)])
    s, n = z @ z.T / tau, len(a)
    own = torch.arange(2 * n)
    positive = s[own, own.roll(n)]
    out = (own[:, None] - own) % n == 0
    weight = 1.0
    if sigma:
        weight = 2 - n * ((z[:n] * z[n:]).sum(1).detach() / sigma).softmax(0).repeat(2)
    return s.masked_fill(out, -math.inf).logsumexp(1) - weight * positive


def plain_debiased(a: Tensor, b: Tensor, tau: Tensor, normalize: bool, prior: float = 0.1, beta: float = 0.0) -> Tensor:
    """As in the papers' code, in sums of exponentials, without a logarithm before the last."""
    z = torch.cat([unit(a, normalize), unit(b, normalize)])
    n = len(a)
    cosine, own = z @ z.T, torch.arange(2 * n)
    keep = (own[:, None] - own) % n != 0
    e = (cosine / tau).exp()
    count = 2 * n - 2
    negative = (e * keep).sum(1)
    if beta:
        tilt = (beta * cosine / tau).exp() * keep
        negative = count * (tilt * e).sum(1) / tilt.sum(1)
    positive = e[own, own.roll(n)]
    estimate = ((negative - prior * count * positive) / (1 - prior)).maximum(count * (-1 / tau).exp())
    return torch.log1p(estimate / positive)


def plain_multiple(a: Tensor, b: Tensor, n: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    a, b, n = (unit(x, normalize) for x in (a, b, n))
    return functional.cross_entropy(a @ torch.cat([b, n]).T / tau, torch.arange(len(a)), reduction="none")


def plain_multiple_filtered(a: Tensor, b: Tensor, n: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    """Equal ids and likely positives left out, queries and documents among themselves too."""
    a, b, n = (unit(x, normalize) for x in (a, b, n))
    ids = torch.arange(len(a)) // 3
    other_ids = torch.arange(len(n)) // 2
    own = (a * b).sum(1) / tau
    limit = (own + 0.2 / tau).detach()[:, None]
    qd, qn, qq, dd = (left @ right.T / tau for left, right in ((a, b), (a, n), (a, a), (b, b)))
    same = ids[:, None] == ids
    parts = [
        own[:, None],
        qd.masked_fill(same | (qd > limit), -math.inf),
        qn.masked_fill((ids[:, None] == other_ids) | (qn > limit), -math.inf),
        qq.masked_fill(same, -math.inf),
        dd.masked_fill(same, -math.inf),
    ]
    return torch.cat(parts, dim=1).logsumexp(1) - own


def momentum(inputs: list[Tensor]) -> dict[str, Tensor]:
    """Momentum features and queues: other features of both sides, by exact operations, for BLIP."""
    a, b = (x.detach() for x in inputs)
    features = {"momentum_image": a.flip(1), "momentum_text": b.flip(1)}
    return features | {"image_queue": b.flip(0), "text_queue": a.roll(1, 1)}


def momentum_ids(inputs: list[Tensor]) -> dict[str, Tensor]:
    count = len(inputs[0])
    return momentum(inputs) | {"ids": torch.arange(count) // 3, "queue_ids": torch.arange(count) // 2 - 1}


def plain_blip(a: Tensor, b: Tensor, tau: Tensor, normalize: bool, by_ids: bool = False) -> Tensor:
    """Cross-entropies between soft targets and dense logits; targets and keys are constants."""
    m = {name: unit(x, normalize) for name, x in momentum([a, b]).items()}
    own = torch.arange(len(a))
    ids, others = (own // 3, own // 2 - 1) if by_ids else (own, own + len(a))
    others = torch.where(others == -1, 10**6 + own, others)
    hard = (ids[:, None] == torch.cat([ids, others])).to(a.dtype)
    total = 0.0
    for rows, side, other in ((a, "image", "text"), (b, "text", "image")):
        keys = torch.cat([m[f"momentum_{other}"], m[f"{other}_queue"]])
        soft = (m[f"momentum_{side}"] @ keys.T / tau.detach()).softmax(1)
        target = 0.4 * soft + 0.6 * hard / hard.sum(1, keepdim=True)
        total = total - (target * (unit(rows, normalize) @ keys.T / tau).log_softmax(1)).sum(1)
    return total / 2


@dataclass(frozen=True)
class RowCase:
    """A loss and its plain formula; ``extra`` is the shape of the negatives for n rows of d features."""

    kind: type
    plain: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    inputs: int = 2
    extra: Callable[[int, int], tuple[int, ...]] | None = None
    smallest: int = 1
    arguments: Callable[[list[Tensor]], dict[str, Tensor]] = lambda inputs: {}
    """Arguments beside the rows."""

    def make_inputs(self, kind: str, n: int, d: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
        inputs = list(make_views(kind, n, d, dtype, seed))[: self.inputs]
        if self.extra is not None:
            shape = self.extra(n, d)
            inputs.append(make_views(kind, math.prod(shape[:-1]), d, dtype, seed + 1)[0].reshape(shape))
        return inputs

    def ours(self, *inputs: Tensor, tau: float | Tensor, **options: Any) -> Tensor:
        loss = self.kind(tau, **self.options, **options)
        return loss(*inputs, **self.arguments(list(inputs)))


def sup_con_labels(inputs: list[Tensor]) -> dict[str, Tensor]:
    return {"labels": labels_of(len(inputs[0]))}


def ids(inputs: list[Tensor]) -> dict[str, Tensor]:
    return {"ids": torch.arange(len(inputs[0])) // 3, "negative_ids": torch.arange(len(inputs[2])) // 2}


def triples(inputs: list[Tensor]) -> dict[str, Tensor]:
    return {"ids": torch.arange(len(inputs[0])) // 3}


CASES = {
    "clip": RowCase(CLIPLoss, plain_clip),
    "clip by id": RowCase(CLIPLoss, lambda *args: plain_clip(*args, by_ids=True), arguments=triples),
    "info_nce": RowCase(InfoNCELoss, plain_info_nce),
    "info_nce by id": RowCase(InfoNCELoss, lambda *args: plain_info_nce(*args, by_ids=True), arguments=triples),
    "info_nce set": RowCase(InfoNCELoss, plain_info_nce_set, extra=lambda n, d: (2 * n + 3, d)),
    "info_nce own": RowCase(InfoNCELoss, plain_info_nce_own, extra=lambda n, d: (n, 4, d)),
    "clip filtered": RowCase(CLIPLoss, plain_clip_filtered, {"margin": 0.2}, arguments=triples),
    "info_nce filtered": RowCase(InfoNCELoss, plain_info_nce_filtered, {"margin": 0.2}),
    "info_nce set filtered": RowCase(
        InfoNCELoss, plain_info_nce_negatives_filtered, {"margin": 0.2}, extra=lambda n, d: (2 * n + 3, d)
    ),
    "info_nce own filtered": RowCase(
        InfoNCELoss, plain_info_nce_negatives_filtered, {"margin": 0.2}, extra=lambda n, d: (n, 4, d)
    ),
    "blip": RowCase(BLIPLoss, plain_blip, arguments=momentum),
    "blip by id": RowCase(BLIPLoss, lambda *args: plain_blip(*args, by_ids=True), arguments=momentum_ids),
    "sup_con out": RowCase(SupConLoss, plain_sup_con, inputs=1, smallest=3, arguments=sup_con_labels),
    "sup_con in": RowCase(
        SupConLoss,
        lambda *args: plain_sup_con(*args, inner=True),
        {"form": "in"},
        inputs=1,
        smallest=3,
        arguments=sup_con_labels,
    ),
    "dcl": RowCase(DCLLoss, plain_dcl, smallest=2),
    "dclw": RowCase(DCLLoss, lambda *args: plain_dcl(*args, sigma=0.5), {"weighting": "mises_fisher"}, smallest=2),
    "debiased": RowCase(DebiasedNTXentLoss, plain_debiased, smallest=2),
    "hard": RowCase(DebiasedNTXentLoss, lambda *args: plain_debiased(*args, beta=1.0), {"hardness": 1.0}, smallest=2),
    "multiple": RowCase(MultipleNegativesLoss, plain_multiple, extra=lambda n, d: (n + 5, d)),
    "multiple filtered": RowCase(
        MultipleNegativesLoss,
        plain_multiple_filtered,
        {"margin": 0.2, "query_query": True, "document_document": True},
        extra=lambda n, d: (n + 5, d),
        arguments=ids,
    ),
}
