from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fastclr.losses import NTXentLoss
from fastclr.methods import parameter_groups
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.lars import LARS
from fastclr.training.optim import Schedule, build_optimizer, peak_lr, warmup_steps

ETA, MOMENTUM = 0.001, 0.9
SHAPES = [(4, 3, 3, 3), (8, 5), (7, 1), (1, 1), (6,), (3, 2)]
EXCLUDED = {4}  # the vector: neither decay nor adaptation
ZERO_WEIGHTS, ZERO_GRADIENTS, STEPS = 2, 3, 50


def rate(step: int) -> float:
    """A warm-up of ten steps to 4.8, then a cosine, so that the rate keeps changing under the velocity."""
    return 4.8 * (step / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * (step - 10) / (STEPS - 10))))


def problem() -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Float32 weights, one of them zero, and the gradients of every step, one of them sometimes zero."""
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape).astype(np.float32) for shape in SHAPES]
    weights[ZERO_WEIGHTS][:] = 0
    gradients = [[random.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(STEPS)]
    for step in (0, 1, 2, 20, 21, 49):
        gradients[step][ZERO_GRADIENTS][:] = 0
    return weights, gradients


def transcription(weight_decay: float, nesterov: bool) -> list[np.ndarray]:
    """The update rule of lars_optimizer.py, tensor by tensor and line by line, in float64."""
    weights, gradients = problem()
    finals = []
    for index, start in enumerate(weights):
        w, v = start.astype(np.float64), np.zeros(start.shape)
        for step in range(STEPS):
            g = gradients[step][index].astype(np.float64)
            trust = 1.0
            if index not in EXCLUDED:
                g = g + weight_decay * w
                w_norm, g_norm = math.sqrt((w * w).sum()), math.sqrt((g * g).sum())
                if w_norm > 0 and g_norm > 0:
                    trust = ETA * w_norm / g_norm
            scaled = rate(step) * trust
            v = MOMENTUM * v + scaled * g
            w = w - (MOMENTUM * v + scaled * g if nesterov else v)
        finals.append(w)
    return finals


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range, *, tensor_lr: bool = False) -> None:
    """Run `steps` steps on the problem."""
    gradients = problem()[1]
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(rate(step), dtype=params[0].dtype) if tensor_lr else rate(step)
        for p, g in zip(params, gradients[step], strict=True):
            p.grad = torch.from_numpy(g.copy()).to(p.dtype)
        optimizer.step()


def parameters(dtype: torch.dtype) -> list[Tensor]:
    return [nn.Parameter(torch.from_numpy(w).to(dtype)) for w in problem()[0]]


def lars(params: list[Tensor], weight_decay: float = 0.0, nesterov: bool = False) -> LARS:
    plain = [p for i, p in enumerate(params) if i in EXCLUDED]
    others = [p for i, p in enumerate(params) if i not in EXCLUDED]
    groups = [{"params": others, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0, "adapt": False}]
    return LARS(groups, lr=1.0, momentum=MOMENTUM, eta=ETA, nesterov=nesterov)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_the_rule_of_the_papers_code(
    dtype: torch.dtype, tolerance: float, weight_decay: float, nesterov: bool
) -> None:
    params = parameters(dtype)
    train(lars(params, weight_decay, nesterov), params, range(STEPS))
    for p, expected in zip(params, transcription(weight_decay, nesterov), strict=True):
        torch.testing.assert_close(p.detach().double(), torch.from_numpy(expected), rtol=tolerance, atol=tolerance)


def test_lars_leaves_gradients_alone_and_skips_what_has_none() -> None:
    used, unused = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.full((3, 2), 2.0)
    LARS([used, unused], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(used.grad, torch.full((3, 2), 2.0))
    assert torch.equal(unused, torch.ones(2, 2)) and not torch.equal(used, torch.ones(3, 2))


def test_lars_goes_on_from_its_state() -> None:
    whole = parameters(torch.float32)
    train(lars(whole, 0.1), whole, range(STEPS))
    params = parameters(torch.float32)
    first = lars(params, 0.1)
    train(first, params, range(20))
    second = lars(params, 0.1)
    second.load_state_dict(first.state_dict())
    train(second, params, range(20, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(params, whole, strict=True))


def test_a_tensor_as_rate_is_the_number_as_rate() -> None:
    numbers, tensors = parameters(torch.float64), parameters(torch.float64)
    train(lars(numbers, 0.1), numbers, range(STEPS))
    train(lars(tensors, 0.1), tensors, range(STEPS), tensor_lr=True)
    torch.testing.assert_close(tensors, numbers, rtol=1e-12, atol=1e-12)


def test_a_step_of_lars_reads_no_value_back() -> None:
    """Fake tensors have no values, so anything that needs one (.item(), a branch on a tensor) raises."""
    with FakeTensorMode():
        params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
        optimizer = LARS([{"params": params[:1]}, {"params": params[1:], "adapt": False}], lr=0.1, weight_decay=0.1)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(0.1)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
        with pytest.raises(DataDependentOutputException):
            params[0].sum().item()


def with_timm(weight_decay: float, steps: int, constant: bool) -> tuple[Tensor, Tensor]:
    """One weight under both optimisers, with the same gradients."""
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)) for _ in range(2))
    optimizers = [
        LARS([ours], lr=1.0, momentum=MOMENTUM, weight_decay=weight_decay, eta=ETA),
        timm.optim.Lars(
            [theirs], lr=1.0, momentum=MOMENTUM, weight_decay=weight_decay, trust_coeff=ETA, eps=0.0, always_adapt=True
        ),
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = grad.clone()
            optimizer.param_groups[0]["lr"] = 4.8 if constant else rate(step)
            optimizer.step()
    return ours.detach(), theirs.detach()


def test_where_timms_lars_agrees_and_where_it_is_another_algorithm() -> None:
    torch.testing.assert_close(*with_timm(0.0, STEPS, constant=True), rtol=1e-12, atol=1e-12)
    ours, theirs = with_timm(0.0, STEPS, constant=False)  # its velocity does not contain the rate
    assert (ours - theirs).norm() > 0.01 * ours.norm()
    ours, theirs = with_timm(1.0, 1, constant=True)  # its trust divides by |g| + wd |w|, not by |g + wd w|
    assert (ours - theirs).norm() > 1e-4 * ours.norm()


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", -1.0), ("lr", math.nan), ("momentum", 1.0), ("weight_decay", -0.1), ("eta", 0.0)],
)
def test_bad_numbers_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .*got {value!r}"):
        LARS([nn.Parameter(torch.ones(2))], **{"lr": 0.1, field: value})
    with pytest.raises(ValueError, match="nesterov must be"):
        LARS([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.0, nesterov=True)


def test_half_precision_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="bfloat16"):
        LARS([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))], lr=0.1)


@pytest.mark.parametrize(
    ("lr", "scaling", "batch_size", "expected"),
    [
        (0.3, "none", 4096, 0.3),
        (0.3, "linear", 4096, 4.8),
        (0.075, "sqrt", 4096, 4.8),  # the two rules of Table B.1 meet at 4096
        (0.3, "linear", 256, 0.3),
        (0.075, "sqrt", 256, 1.2),
        (0.1, "sqrt", 4096, 6.4),
    ],
)
def test_peak_lr(lr: float, scaling: Any, batch_size: int, expected: float) -> None:
    config = PretrainConfig(lr=lr, lr_scaling=scaling, batch_size=batch_size, optimizer="lars")
    assert peak_lr(config) == pytest.approx(expected, rel=1e-12)
    optimizer = build_optimizer(config, parameter_groups(nn.Linear(2, 2), config.optimizer))
    assert {g["lr"] for g in optimizer.param_groups} == {peak_lr(config)}


def names_in(group: dict[str, Any], model: nn.Module) -> set[str]:
    ids = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_lars_excludes_batch_norms_biases_and_the_temperature() -> None:
    config = PretrainConfig(width=0.125, optimizer="lars", weight_decay=1e-6, lars_eta=0.002)
    model, loss = build_model(config), NTXentLoss(0.1, learnable_temperature=True)
    optimizer = build_optimizer(config, parameter_groups(model, config.optimizer, loss))
    assert isinstance(optimizer, LARS)
    (adapted,) = [g for g in optimizer.param_groups if g["adapt"]]
    weights = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert names_in(adapted, model) == weights
    assert adapted["weight_decay"] == 1e-6 and adapted["eta"] == 0.002 and not adapted["nesterov"]
    others = [g for g in optimizer.param_groups if not g["adapt"]]
    assert all(g["weight_decay"] == 0 for g in others)
    left = set().union(*(names_in(g, model) for g in others))
    assert weights | left == {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(p is q for g in others for p in g["params"] for q in loss.parameters())


def test_a_position_embedding_is_not_decayed() -> None:
    config = PretrainConfig(encoder="vit_tiny_patch16_224", patch_size=8, optimizer="adamw", weight_decay=0.1)
    with torch.device("meta"):
        model = build_model(config)
    decayed = set().union(
        *(
            names_in(g, model)
            for g in build_optimizer(config, parameter_groups(model, config.optimizer)).param_groups
            if g["weight_decay"]
        )
    )
    assert "encoder.blocks.0.attn.qkv.weight" in decayed
    assert not decayed & {"encoder.pos_embed", "encoder.cls_token", "encoder.norm.weight", "encoder.patch_embed.bias"}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_fused_optimisers_are_torchs_plain_ones(kind: Any) -> None:
    """Convolutions in channels_last, so that weights and velocities have no contiguous layout."""
    config = PretrainConfig(optimizer=kind, lr=0.1, weight_decay=0.1, nesterov=kind == "sgd")
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    ours.to(memory_format=torch.channels_last)
    fused = build_optimizer(config, parameter_groups(ours, config.optimizer))
    assert all(g["fused"] for g in fused.param_groups)
    if kind == "sgd":
        options: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
        plain: torch.optim.Optimizer = torch.optim.SGD(theirs.parameters(), 0.1, **options, foreach=False)
    else:
        decayed = [p for p in theirs.parameters() if p.dim() > 1]
        undecayed = [p for p in theirs.parameters() if p.dim() <= 1]
        groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
        plain = torch.optim.AdamW(groups, 0.1, foreach=False)
    for seed in range(5):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        for model, optimizer in ((ours, fused), (theirs, plain)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad.copy_(b.grad)  # the same gradients: Adam magnifies the rounding of small ones
        fused.step()
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def paper_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """google-research/simclr, model_util.learning_rate_schedule."""
    if step < warmup:
        return step / warmup * peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize(
    ("options", "warmup"),
    [({"warmup_epochs": 10}, 50), ({"warmup_share": 0.05}, 10), ({}, 0), ({"warmup_epochs": 0.5}, 2)],
)
def test_schedule_is_the_papers(options: dict[str, float], warmup: int) -> None:
    config = PretrainConfig(epochs=40, optimizer="lars", lr=0.075, lr_scaling="sqrt", batch_size=4096, **options)
    assert warmup_steps(config, 5) == warmup
    optimizer = build_optimizer(config, parameter_groups(nn.Linear(2, 2), config.optimizer))
    schedule = Schedule(config, optimizer, steps_per_epoch=5)
    for step in range(200):
        schedule.step_update(step)
        rates = [g["lr"] for g in optimizer.param_groups]
        assert rates == pytest.approx([paper_rate(step, 4.8, warmup, 200)] * len(rates), rel=1e-9, abs=1e-12)
        assert all(type(r) is float for r in rates)


def test_a_step_is_left_after_the_warmup(caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(PretrainConfig(), epochs=1, warmup_share=0.9)
    assert warmup_steps(config, 1) == 0
    optimizer = build_optimizer(config, parameter_groups(nn.Linear(2, 2), config.optimizer))
    schedule, rates = Schedule(config, optimizer, 1), []
    for step in (0, 1):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [pytest.approx(peak_lr(config)), 0.0]
    assert caplog.messages == []  # timm remarks on a cosine of one step, and a toy run is nobody's mistake
