from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastclr.evaluate import alignment, diagnostics, effective_rank, spectrum, uniformity


def cloud(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) @ torch.randn(width, width, generator=generator)


def test_spectrum_is_that_of_numpys_covariance() -> None:
    features = cloud(300, 12) + 5
    expected = np.linalg.eigvalsh(np.cov(features.double().numpy(), rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(spectrum(features).numpy(), expected, rtol=1e-9)


def test_spectrum_by_hand() -> None:
    # variances 4 and 1 along the axes, nothing along the third
    features = torch.tensor([[2.0, 1.0, 3.0], [-2.0, 1.0, 3.0], [2.0, -1.0, 3.0], [-2.0, -1.0, 3.0]])
    assert spectrum(features).tolist() == pytest.approx([4.0, 1.0, 0.0], abs=1e-12)


def test_effective_rank_is_the_entropy_of_numpys_singular_values() -> None:
    features = cloud(100, 12)
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(features) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5.0)
    assert effective_rank(torch.ones(7, 5)) == pytest.approx(1.0)  # collapsed to a point
    assert effective_rank(torch.randn(50, 1) @ torch.randn(1, 64)) == pytest.approx(1.0, abs=1e-3)  # and to a line
    assert effective_rank(torch.zeros(7, 5)) == 0.0
    # singular values 3 and 1: shares 3/4 and 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)
    assert effective_rank(1e6 * torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)


def test_alignment_by_hand() -> None:
    z0 = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    z1 = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])  # angles 0, 90 and 180 degrees
    assert alignment(z0, z1) == pytest.approx((0 + 2 + 4) / 3)
    assert alignment(z0, z1, power=1) == pytest.approx((0 + math.sqrt(2) + 2) / 3)
    assert alignment(z0, 7 * z0) == 0.0


def test_uniformity_by_hand_and_by_pdist(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])  # squared distances 2, 4, 2
    assert uniformity(z) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0.0, abs=1e-12)
    rows = cloud(53, 6)
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    for t in (0.5, 2.0, 500.0):
        expected = float(torch.pdist(unit).square().mul(-t).logsumexp(0)) - math.log(53 * 52 / 2)
        for block in (1, 4, 13, 52, 53, 2048):
            monkeypatch.setattr(diagnostics, "BLOCK", block)
            assert uniformity(rows, t=t) == pytest.approx(expected, rel=1e-9), (t, block)


def test_blocks_do_not_change_spectrum_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    features = cloud(50, 6) + 3
    expected, rank = spectrum(features), effective_rank(features)
    monkeypatch.setattr(diagnostics, "BLOCK", 7)
    torch.testing.assert_close(spectrum(features), expected, rtol=1e-9, atol=1e-12)
    assert effective_rank(features) == pytest.approx(rank)


@pytest.mark.parametrize("bad", [torch.zeros(5), torch.zeros(0, 3), torch.zeros(4, 3, dtype=torch.int64)])
def test_wrong_shapes_and_dtypes_are_refused(bad: Tensor) -> None:
    for function in (spectrum, effective_rank, uniformity):
        with pytest.raises(ValueError, match=r"must be float \[N, F\]"):
            function(bad)


def test_what_makes_no_sense_is_refused() -> None:
    good = torch.ones(3, 2)
    with pytest.raises(ValueError, match="must be finite"):
        effective_rank(good / 0)
    with pytest.raises(ValueError, match="the same shape"):
        alignment(good, good[:2])
    with pytest.raises(ValueError, match="N of at least 2"):
        uniformity(good[:1])
    for call in (lambda: uniformity(good, t=0), lambda: alignment(good, good, power=-1)):
        with pytest.raises(ValueError, match="must be a positive number"):
            call()
