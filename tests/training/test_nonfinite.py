from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastclr.training.nonfinite import CAUSES, explain_nonfinite


def stages(broken: str | None = None, value: float = math.nan) -> dict[str, Any]:
    """A healthy step, except that one stage and all later ones contain `value`."""
    stages: dict[str, Any] = {
        "parameters": [("encoder.conv1.weight", torch.full((4,), -2.0)), ("encoder.bn.count", torch.tensor(3))],
        "views": torch.rand(2, 3, 4, 4),
        "h": torch.full((2, 8), 30.0),
        "z": torch.ones(2, 4),
        "loss": torch.tensor(1.5),
        "gradients": [("encoder.conv1.weight", torch.zeros(4)), ("head.0.weight", torch.zeros(2))],
    }
    from_here = False
    for name, stage in stages.items():
        from_here = from_here or name == broken
        if from_here:
            tensors = [stage] if isinstance(stage, Tensor) else [t for _, t in stage if t.is_floating_point()]
            for tensor in tensors:
                tensor.view(-1)[0] = value
    return stages


@pytest.mark.parametrize("stage", ["parameters", "views", "h", "z", "loss", "gradients"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_broken_stage_is_found_with_its_cause(stage: str, value: float) -> None:
    text = explain_nonfinite(stages(stage, value))
    first, before, cause = text.splitlines()
    assert first.startswith(f"first non-finite stage: {stage} (")
    assert ("1 NaN" if math.isnan(value) else "1 infinite") in first
    assert cause == f"likely cause: {CAUSES[stage]}"
    order = list(stages())
    for other in order:
        assert (f"{other} (up to" in before) == (order.index(other) < order.index(stage))


def test_names_counts_and_magnitudes() -> None:
    named = stages()
    named["gradients"][1][1][:] = torch.tensor([math.nan, math.inf])
    text = explain_nonfinite(named)
    assert "gradients (head.0.weight: 1 NaN and 1 infinite of 2 values)" in text
    assert "parameters (up to 2)" in text and "h (up to 30)" in text and "loss (up to 1.5)" in text
    many = {"parameters": ((f"w{i}", torch.tensor(math.nan)) for i in range(5))}
    assert "w2: 1 NaN of 1 values; 5 of 5 tensors in all" in explain_nonfinite(many)
    assert "w3" not in explain_nonfinite(many)


def test_nothing_is_changed_and_nothing_found_is_said() -> None:
    named = stages()
    copies = {name: stage.clone() for name, stage in named.items() if isinstance(stage, Tensor)}
    text = explain_nonfinite({**named, "empty": torch.empty(0), "ids": torch.tensor([1])})
    assert text.startswith("everything that was checked is finite: parameters (up to 2), views")
    assert all(torch.equal(named[name], copy) for name, copy in copies.items())
    assert explain_nonfinite({}) == "everything that was checked is finite: nothing"


def test_history_gives_the_last_good_step() -> None:
    records = [
        {"kind": "train", "step": 10 * i, "train/loss": 1.0 / i, "train/lr": i / 100, "train/grad_norm": 10.0**i}
        for i in range(1, 8)
    ]
    records.append({"kind": "eval", "step": 70, "eval/knn_top1": 0.5})
    records.append({"kind": "train", "step": 80, "train/loss": math.nan, "train/lr": 0.08})
    lines = explain_nonfinite(stages("h"), records).splitlines()
    assert lines[3:] == [
        "last logged step with a finite loss: 70 (loss 0.1429)",
        "lr of the last records: 0.04, 0.05, 0.06, 0.07, 0.08",
        "grad_norm of the last records: 1e+04, 1e+05, 1e+06, 1e+07",
    ]
    assert explain_nonfinite({}, records[-1:]).endswith("no step with a finite loss was logged")


def test_a_model_that_diverges_is_explained() -> None:
    """A learning rate of 1e30: the weights are finite, but their products are not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    for _ in range(3):
        h = model[:2](torch.ones(2, 4))
        z = model[2](h)
        loss = z.square().mean()
        optimizer.zero_grad()
        loss.backward()
        found = {
            "parameters": list(model.named_parameters()),
            "h": h,
            "z": z,
            "loss": loss,
            "gradients": [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None],
        }
        if not bool(loss.isfinite()):
            break
        optimizer.step()
    text = explain_nonfinite(found)
    assert text.startswith("first non-finite stage: z (4 infinite of 4 values)")
    assert "likely cause: training has diverged, parameters first: lower lr" in text


@pytest.mark.parametrize("wrong", [3.0, ["x"], [("name", 3.0)], [torch.ones(2)]])
def test_other_values_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="h must be a tensor or pairs of a name and a tensor, got"):
        explain_nonfinite({"h": wrong})
