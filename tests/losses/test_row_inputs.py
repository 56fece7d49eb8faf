"""What a caller of the row-softmax losses can get wrong: one clear error, before anything is computed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastclr import CLIPLoss, DCLLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss, NTXentLoss, SupConLoss
from fastclr.losses.row_inputs import log_add, softplus

ROWS = torch.randn(6, 4)
LOSSES = (CLIPLoss, DCLLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss, SupConLoss)


@pytest.mark.parametrize("kind", [CLIPLoss, DCLLoss, DebiasedNTXentLoss, InfoNCELoss, MultipleNegativesLoss])
@pytest.mark.parametrize(
    ("second", "error", "words"),
    [
        (torch.randn(5, 4), ValueError, r"\[6, 4\].*\[5, 4\]"),
        (torch.randn(6, 3), ValueError, r"\[6, 3\]"),
        (torch.randn(6, 4).double(), TypeError, "float64"),
        (torch.ones(6, 4, dtype=torch.long), TypeError, "int64"),
        (torch.randn(6, 4).to_sparse(), TypeError, "sparse"),
        (torch.randn(6, 4, device="meta"), ValueError, "device"),
        ([[1.0]], TypeError, "list"),
    ],
)
def test_second_rows(kind: type, second: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        kind()(ROWS, second)


@pytest.mark.parametrize("kind", LOSSES)
def test_options(kind: type) -> None:
    for options, error, words in (
        ({"temperature": 0.0}, ValueError, "got 0.0"),
        ({"temperature": math.nan}, ValueError, "nan"),
        ({"temperature": torch.tensor(0.0)}, ValueError, "got 0.0"),
        ({"temperature": torch.ones(2)}, ValueError, r"\[2\]"),
        ({"temperature": "0.1"}, TypeError, "str"),
        ({"temperature": -0.1, "learnable_temperature": True}, ValueError, "positive"),
        ({"reduction": "max"}, ValueError, "'max'"),
        ({"precision": "fp8"}, ValueError, "'fp8'"),
        ({"impl": "cuda"}, ValueError, "'cuda'"),
        ({"process_group": object()}, ValueError, "gather_distributed"),
        ({"gather_distributed": True, "reduction": "none"}, ValueError, "reduction='none'"),
        ({"gather_distributed": True, "impl": "reference"}, ValueError, "impl='reference'"),
    ):
        with pytest.raises(error, match=words):
            kind(**options)


def test_gathering_needs_a_process_group() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        CLIPLoss(gather_distributed=True)(ROWS, ROWS)


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        (0.0, ValueError, "got 0.0"),
        (math.nan, ValueError, "nan"),
        (torch.tensor(math.nan), ValueError, "nan"),
        (torch.tensor(3), ValueError, "int64"),
        (torch.ones(2), ValueError, r"\[2\]"),
        (torch.tensor(3.0, device="meta"), ValueError, "meta"),
        ("10", TypeError, "str"),
        (True, TypeError, "bool"),
    ],
)
def test_scale(scale: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CLIPLoss()(ROWS, ROWS, scale)


@pytest.mark.parametrize(
    ("features", "labels", "error", "words"),
    [
        (ROWS, torch.arange(5), ValueError, r"\[6\].*\[5\]"),
        (ROWS, torch.arange(6.0), TypeError, "float32"),
        (ROWS, [0, 1], TypeError, "list"),
        (ROWS, None, ValueError, r"\[N, V, D\]"),
        (ROWS[None, None], torch.arange(1), ValueError, r"\[1, 1, 6, 4\]"),
        (torch.randn(6, 0, 4), torch.arange(6), ValueError, r"\[6, 0, 4\]"),
        (ROWS, torch.arange(6, device="meta"), ValueError, "meta"),
    ],
)
def test_sup_con(features: torch.Tensor, labels: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        SupConLoss()(features, labels)
    with pytest.raises(ValueError, match="'middle'"):
        SupConLoss(form="middle")


def test_negatives_and_ids() -> None:
    for negatives, error, words in (
        (torch.randn(5, 3), ValueError, r"\[5, 3\]"),
        (torch.randn(5, 2, 4), ValueError, r"\[6, K, D\].*\[5, 2, 4\]"),
        (torch.randn(4), ValueError, r"\[4\]"),
        (torch.randn(5, 4).half(), TypeError, "float16"),
        (3, TypeError, "int"),
    ):
        with pytest.raises(error, match=words):
            InfoNCELoss()(ROWS, ROWS, negatives)
    for kind in (CLIPLoss, InfoNCELoss):
        with pytest.raises(ValueError, match=r"\[6\].*\[5\]"):
            kind()(ROWS, ROWS, ids=torch.arange(5))
        with pytest.raises(TypeError, match="float32"):
            kind()(ROWS, ROWS, ids=torch.arange(6.0))
    with pytest.raises(ValueError, match="without negatives"):
        InfoNCELoss()(ROWS, ROWS, ROWS, ids=torch.arange(6))
    loss, hard = MultipleNegativesLoss(), torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"\[6\].*\[5\]"):
        loss(ROWS, ROWS, ids=torch.arange(5))
    with pytest.raises(TypeError, match="float32"):
        loss(ROWS, ROWS, ids=torch.arange(6.0))
    with pytest.raises(ValueError, match="need ids"):
        loss(ROWS, ROWS, hard, negative_ids=torch.arange(3))
    with pytest.raises(ValueError, match=r"\[3\].*\[2\]"):
        loss(ROWS, ROWS, hard, torch.arange(6), torch.arange(2))


def test_numbers_of_single_losses() -> None:
    with pytest.raises(ValueError, match="one pair"):
        DCLLoss()(ROWS[:1], ROWS[:1])
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        DebiasedNTXentLoss(prior=1.0)
    with pytest.raises(ValueError, match="at least 0"):
        DebiasedNTXentLoss(hardness=-1.0)
    with pytest.raises(ValueError, match="sigma"):
        DCLLoss(sigma=0.0)


def test_temperature_can_be_set_and_is_checked() -> None:
    loss = CLIPLoss(0.1)
    loss.temperature = np.float32(0.25)
    assert loss.temperature == 0.25 and loss(ROWS, ROWS) == CLIPLoss(0.25)(ROWS, ROWS)
    loss.temperature = torch.tensor(0.5, requires_grad=True)
    loss(ROWS, ROWS.flip(0)).backward()
    assert loss.temperature.grad is not None
    with pytest.raises(ValueError, match=r"got 0\.0"):
        loss.temperature = 0.0
    assert loss.temperature == 0.5


def test_learnable_temperature() -> None:
    loss = SupConLoss(0.2, learnable_temperature=True)
    assert list(loss.state_dict()) == ["log_temperature"]
    with torch.no_grad():
        loss.log_temperature.fill_(3.0)
    loss.reset_parameters()
    assert float(loss.temperature) == pytest.approx(0.2)
    loss.temperature = 0.4
    assert float(loss.temperature) == pytest.approx(0.4)
    assert "learnable" in repr(loss) and "temperature=0.1" in repr(CLIPLoss())


def test_memory_bank_refuses_narrow_rows() -> None:
    with pytest.raises(ValueError, match="length 5, got 4"):
        NTXentLoss(memory_bank_size=(8, 5))(ROWS, ROWS)


def test_vectors() -> None:
    x = torch.tensor([-math.inf, -800.0, -30.0, 0.0, 21.0, 800.0], dtype=torch.float64, requires_grad=True)
    softplus(x).sum().backward()
    torch.testing.assert_close(softplus(x).detach(), torch.log1p(x.exp().clamp_max(1e300)).where(x < 700, x).detach())
    torch.testing.assert_close(x.grad, torch.sigmoid(x).detach())
    a = torch.tensor([-math.inf, -math.inf, 1.0, -900.0], requires_grad=True)
    b = torch.tensor([-math.inf, 2.0, 3.0, -901.0], requires_grad=True)
    log_add(a, b).sum().backward()
    torch.testing.assert_close(log_add(a, b), torch.logaddexp(a, b))
    torch.testing.assert_close(a.grad + b.grad, torch.tensor([0.0, 1.0, 1.0, 1.0]))
