"""BLIP's soft targets: the constants among its inputs, its limits, and what a caller can get wrong."""

from __future__ import annotations

import pytest
import torch
from loss_cases import make_views
from torch import Tensor

from fastclr import BLIPLoss, InfoNCELoss
from fastclr.bench.memory import peak_bytes


def batch(count: int = 7, dim: int = 5) -> list[Tensor]:
    """Both modalities, their momentum features and their queues."""
    pairs = [make_views("random", count + seed, dim, torch.float64, seed) for seed in (0, 0, 3)]
    return [x for pair in pairs[:1] for x in pair] + [x.flip(1) for x in pairs[1]] + list(pairs[2])


@pytest.mark.parametrize("by_id", [False, True])
def test_gradient_of_a_constant_target(by_id: bool) -> None:
    image, text, *fixed = batch(4, 3)
    ids = {"ids": torch.tensor([0, 1, 0, -1]), "queue_ids": torch.tensor([0, 5, 5, 1, 9, -1, 7])} if by_id else {}
    leaves = [x.requires_grad_() for x in (image, text)]
    for impl in ("reference", "blockwise"):
        loss = BLIPLoss(0.3, impl=impl)
        assert torch.autograd.gradcheck(lambda a, b, loss=loss: loss(a, b, *fixed, **ids), leaves)
    assert torch.autograd.gradgradcheck(lambda a, b: BLIPLoss(0.3, impl="reference")(a, b, *fixed, **ids), leaves)


def test_keys_have_no_gradient_and_the_temperature_has_its_own() -> None:
    inputs = [x.requires_grad_() for x in batch()]
    tau = torch.nn.Parameter(torch.tensor(0.07, dtype=torch.float64))
    BLIPLoss(tau)(*inputs).backward()
    assert [x.grad is not None for x in inputs] == [True, True, False, False, False, False]
    assert tau.grad is not None and float(tau.grad) != 0


def test_hard_targets_alone_are_info_nce() -> None:
    image, text, m_image, m_text, image_queue, _ = batch()
    hard = InfoNCELoss(0.2, reduction="none")
    expected = (hard(image, m_text) + hard(text, m_image)) / 2
    found = BLIPLoss(0.2, alpha=0.0, reduction="none")
    torch.testing.assert_close(found(image, text, m_image, m_text), expected)
    nothing = image_queue[:0]
    torch.testing.assert_close(found(image, text, m_image, m_text, nothing, nothing), expected)
    one = BLIPLoss(0.2)(image[:1], text[:1], m_image[:1], m_text[:1])
    assert abs(float(one.detach())) < 1e-14
    # ids that are all different change nothing
    ids = {"ids": torch.arange(7), "queue_ids": torch.arange(10) + 7}
    queued = [BLIPLoss(0.2)(*batch(), **options) for options in ({}, ids)]
    torch.testing.assert_close(*queued)


def test_alpha_of_a_call() -> None:
    inputs = batch()
    torch.testing.assert_close(BLIPLoss(alpha=0.1)(*inputs, alpha=0.9), BLIPLoss(alpha=0.9)(*inputs), rtol=0, atol=0)
    # linear in alpha
    ends = [BLIPLoss()(*inputs, alpha=alpha) for alpha in (0.0, 1.0)]
    torch.testing.assert_close(BLIPLoss()(*inputs, alpha=0.25), 0.75 * ends[0] + 0.25 * ends[1])


def test_memory_has_no_matrix_of_the_queue() -> None:
    rows = [torch.randn(512, 32, requires_grad=index < 2) for index in range(4)]
    queues = [torch.randn(16384, 32) for _ in range(2)]
    loss = BLIPLoss()
    assert peak_bytes(lambda: loss(*rows, *queues).backward()) < 16 * 2**20 < 512 * 16384 * 4


def test_bad_input() -> None:
    image, text, m_image, m_text, image_queue, text_queue = batch()
    loss = BLIPLoss()
    for call, error, words in (
        (lambda: loss(image, text, m_image, m_text[:3]), ValueError, r"momentum_text must have the shape"),
        (lambda: loss(image, text, m_image, m_text, image_queue[:, :2]), ValueError, r"image_queue must be \[M, 5\]"),
        (
            lambda: loss(image, text, m_image, m_text, None, text_queue.float()),
            TypeError,
            "text_queue must have the dtype",
        ),
        (lambda: loss(*batch(), ids=torch.arange(7)), ValueError, "queue_ids are needed"),
        (
            lambda: loss(*batch()[:4], ids=torch.arange(7), queue_ids=torch.arange(3)),
            ValueError,
            "queue_ids are needed",
        ),
        (lambda: loss(*batch(), ids=torch.arange(7), queue_ids=torch.arange(3)), ValueError, r"\[10\].*\[3\]"),
        (lambda: loss(*batch(), ids=torch.arange(7.0), queue_ids=torch.arange(10)), TypeError, "ids must be integers"),
        (lambda: loss(*batch(), alpha=1.5), ValueError, r"alpha must be in \[0, 1\]"),
        (lambda: BLIPLoss(alpha=-0.1), ValueError, "alpha"),
        (lambda: BLIPLoss(alpha="0.1"), TypeError, "alpha"),
    ):
        with pytest.raises(error, match=words):
            call()
