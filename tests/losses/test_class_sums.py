"""Sums of rows by class: the order that CUDA needs to be deterministic, against a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastclr.losses.class_sums import class_sizes, class_sums, number_classes, ordered_sums


@pytest.mark.parametrize("classes", [[0], [2, 0, 2, 1, 2], [3, 3, 3, 3], [0, 1, 2]])
def test_sums_and_gradients_of_a_loop(classes: list[int]) -> None:
    rows = torch.randn(len(classes), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers, weight = torch.tensor(classes), torch.randn(len(classes), 3, dtype=torch.float64)

    def looped(x: Tensor) -> Tensor:
        none = torch.zeros(3, dtype=x.dtype)
        found = [[x[i] for i, c in enumerate(classes) if c == k] for k in range(len(classes))]
        return torch.stack([sum(members, none) for members in found])

    for compute in (lambda x: class_sums(x, numbers, False), lambda x: ordered_sums(x, numbers), looped):
        leaf = rows.clone().requires_grad_()
        sums = compute(leaf)
        torch.testing.assert_close(sums, looped(rows), rtol=1e-14, atol=1e-14)
        (gradient,) = torch.autograd.grad(sums, leaf, weight)
        torch.testing.assert_close(gradient, weight[numbers], rtol=0, atol=0)
    assert class_sizes(numbers).tolist() == [classes.count(k) for k in range(len(classes))]


def test_each_label_of_minus_one_is_a_class() -> None:
    numbers = number_classes(torch.tensor([7, -1, 7, -1, 3])).tolist()
    assert numbers[0] == numbers[2] and len(set(numbers)) == 4 and max(numbers) < 5
