"""The pieces that methods share: twin, ring, shuffling, groups of the optimiser, views, warnings."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import pytest
import torch
from method_cases import VARIANTS, config_of, make_tiny
from tiny_run import TINY
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.data.batch import Batch
from fastclr.methods import METHODS, BLIPOptions, BYOLOptions, Facts, MoCoOptions, SimCLROptions, SimSiamOptions
from fastclr.methods.heads import build_head
from fastclr.methods.key_ring import KeyRing
from fastclr.methods.one_branch import OneBranch
from fastclr.methods.shuffle_bn import in_parts, shuffled
from fastclr.methods.twin import MomentumTwin, ramped_momentum
from fastclr.training.method_presets import with_method
from fastclr.training.optim import Schedule, build_optimizer, peak_lr
from fastclr.training.presets import PRESETS

FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=16)


def test_the_twin_follows_by_its_formula_and_never_has_a_gradient() -> None:
    networks = [nn.Linear(3, 4), nn.BatchNorm1d(4)]
    twin = MomentumTwin(*networks)
    exact = [p.detach().double() for network in networks for p in network.parameters()]
    for step in range(5):
        with torch.no_grad():
            for network in networks:
                for p in network.parameters():
                    p.add_(torch.randn_like(p))
        twin.follow(*networks, momentum=0.9 + 0.01 * step)
        moved = [p.detach().double() for network in networks for p in network.parameters()]
        exact = [(0.9 + 0.01 * step) * t + (0.1 - 0.01 * step) * w for t, w in zip(exact, moved, strict=True)]
    for ours, theirs in zip(twin.parameters(), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    images = torch.randn(8, 3)
    before = networks[1].running_mean.clone()
    assert not twin(images).requires_grad and not any(p.requires_grad for p in twin.parameters())
    assert torch.equal(networks[1].running_mean, before)  # the twin has statistics of its own


def test_the_momentum_rises_from_its_start_to_one() -> None:
    found = [ramped_momentum(0.99, step, 100) for step in (0, 50, 100)]
    assert found == pytest.approx([0.99, 1 - 0.01 / 2, 1.0], abs=1e-15)
    assert ramped_momentum(0.996, 25, 100) == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2)


def test_the_ring_holds_the_last_keys_and_its_place_is_a_function_of_the_step() -> None:
    ring, kept = KeyRing(12, 5), [torch.randn(4, 5) for _ in range(7)]
    for step, keys in enumerate(kept):
        ring.push(keys, step)
    unit = [keys / keys.norm(dim=1, keepdim=True) for keys in kept]
    torch.testing.assert_close(ring.keys, torch.cat([unit[6], unit[4], unit[5]]))
    assert list(ring.state_dict()) == ["keys"]  # nothing else is needed to resume


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_shuffling_changes_what_batch_norm_sees_and_not_the_order(parts: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 5)
    assert torch.equal(shuffled(lambda x: 2 * x, images, parts), 2 * images)
    norm = nn.BatchNorm1d(5)
    plain, other = in_parts(norm, images, parts), shuffled(norm, images, parts)
    whole = (images - images.mean(0)) / (images.var(0, correction=0) + 1e-5).sqrt()
    if parts == 1:
        torch.testing.assert_close(plain, whole)
        torch.testing.assert_close(other, whole)
    else:
        assert not torch.allclose(plain, other, atol=1e-2) and not torch.allclose(plain, whole, atol=1e-2)
        torch.testing.assert_close(plain[: 8 // parts].mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="multiple of the 3 bn_splits, got 8"):
        in_parts(norm, images, 3)


def groups_of(variant: str, **changes: Any) -> tuple[nn.Module, Any, torch.optim.Optimizer, list[Any]]:
    config = config_of(variant, batch_size=256, **changes)
    torch.manual_seed(0)
    method = make_tiny(config, FACTS)
    groups = method.groups(config.optimizer)
    return method, config, build_optimizer(config, groups), groups


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_trained_parameter_is_in_one_group_and_no_twin(variant: str, optimizer: str) -> None:
    method, _, found, _ = groups_of(variant, optimizer=optimizer, lr=1e-3)
    ours = [p for group in found.param_groups for p in group["params"]]
    trained = [p for p in method.parameters() if p.requires_grad]
    assert len(ours) == len(set(map(id, ours))) and set(map(id, ours)) == set(map(id, trained))


def test_the_predictor_of_simsiam_keeps_its_rate() -> None:
    for constant in (True, False):
        method, config, optimizer, groups = groups_of("simsiam", options=SimSiamOptions(constant_rate=constant))
        schedule = Schedule(config, optimizer, 10, groups)
        predictor = {id(p) for p in method.predictor.parameters()}
        for step in (0, 29):
            schedule.step_update(step)
            for group in optimizer.param_groups:
                inside = {id(p) in predictor for p in group["params"]}
                cosine = peak_lr(config) * (1 + math.cos(math.pi * step / 30)) / 2
                expected = peak_lr(config) if constant and inside == {True} else cosine
                assert len(inside) <= 1 or not constant
                assert group["lr"] == pytest.approx(expected)


def test_barlow_twins_has_its_own_rate_for_biases_under_lars() -> None:
    method, config, optimizer, _ = groups_of("barlow-lars", lr=0.2)
    rates = {p: (g["lr"], g["adapt"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for p in method.parameters():
        expected = (0.2, True, config.weight_decay) if p.ndim > 1 else (0.0048, False, 0.0)
        assert rates[p] == pytest.approx(expected)


@pytest.mark.parametrize("variant", ["barlow-lars", "simsiam", "simclr-dcl", "dino"])
def test_the_rate_that_is_logged_is_that_of_the_schedule(variant: str) -> None:
    _, config, optimizer, groups = groups_of(variant)
    schedule = Schedule(config, optimizer, 10, groups)
    for step in (0, 29):
        schedule.step_update(step)
        assert schedule.rate == pytest.approx(peak_lr(config) * (1 + math.cos(math.pi * step / 30)) / 2)


@pytest.mark.filterwarnings("ignore:batch norm can leak")
def test_batch_norm_sees_queries_in_the_parts_that_it_sees_keys_in() -> None:
    options = MoCoOptions(queue=64, bn_splits=4, shuffle=False)
    torch.manual_seed(0)
    method: Any = make_tiny(config_of("moco-v2", options=options, head_bn=True), FACTS)
    images = torch.rand(16, 3, 32, 32)
    torch.testing.assert_close(method.query(images)[1], method.key(images))  # the twin starts as a copy


@pytest.mark.parametrize(
    ("preset", "variant", "rate"),
    [("cifar10-byol", "byol", 0.06 / 128), ("cifar10-moco-v2", "moco-symmetric", 0.06 / 512)],
)
def test_presets_take_the_step_of_their_sources(preset: str, variant: str, rate: float) -> None:
    """Where a loss is a multiple of the source's, so are rate and decay: SGD then does the same."""
    config, theirs = PRESETS[preset], 0.0
    peak, batch = rate * config.batch_size, Batch(torch.zeros(16, 4, 4, 3, dtype=torch.uint8), *[torch.arange(16)] * 2)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(16, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)]
    method: Any = make_tiny(config_of(variant), FACTS).double()
    found = torch.autograd.grad(method.loss(rows, batch, 0, 10)[0], rows[:1])[0]
    q0, q1, t0, t1 = (F.normalize(row, dim=1) for row in rows)
    if config.method == "byol":  # lightly: the mean of two negative cosines
        theirs = -0.5 * ((q0 * t1).sum(1).mean() + (q1 * t0).sum(1).mean())
    else:  # the authors' notebook: loss_12 + loss_21, rows being a query and its key, twice
        for q, k in ((q0, q1), (t0, t1)):
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.ring.keys.T], dim=1) / 0.1
            theirs = theirs + F.cross_entropy(logits, torch.zeros(16, dtype=torch.int64))
    expected = torch.autograd.grad(theirs, rows[:1])[0]
    torch.testing.assert_close(peak_lr(config) * found, peak * expected, rtol=1e-5, atol=1e-8)
    assert peak_lr(config) * config.weight_decay == pytest.approx(peak * 5e-4)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if issubclass(method, OneBranch)])
def test_every_method_makes_views_of_any_number_of_channels(name: str, channels: int) -> None:
    config = config_of(name, augment=AugmentConfig.cifar(32).with_channels(channels))
    plan = METHODS[name].plan(config)
    assert {view.channels for view in plan.each} == {channels} and {view.gray_p for view in plan.each} == {0.0}


@pytest.mark.parametrize("value", [-0.5, 0.0, math.inf, math.nan])
def test_temperatures_are_positive_numbers(value: float) -> None:
    tried = 0
    for name, method in METHODS.items():
        for field in dataclasses.fields(method.Options):
            if field.name in ("temperature", "warmup_temperature", "student_temperature"):
                tried += 1
                config = with_method(TINY, name)
                with pytest.raises(ValueError, match=rf"{field.name} must be .*, got {value}"):
                    dataclasses.replace(config, options=method.Options(**{field.name: value}))
    assert tried > 12
    with pytest.raises(ValueError, match=r"temperature must be from 0\.001 to 0\.5, got 0\.9"):  # where it is kept
        dataclasses.replace(with_method(TINY, "blip-itc"), options=BLIPOptions(temperature=0.9))


def test_the_second_view_has_its_own_blur_and_solarisation() -> None:
    config = config_of("byol", options=BYOLOptions(second_blur_p=0.1, second_solarize_p=1.0))
    views = make_tiny(config, FACTS).views
    augment = SimCLRAugment(views.config, views.count)
    params = augment.params(torch.arange(50), 0, (32, 32))
    assert not bool(params.solarize[0].any()) and bool(params.solarize[1].all())
    assert int((params.blur_sigma[0] > 0).sum()) == 0 and 0 < int((params.blur_sigma[1] > 0).sum()) < 20
    same = make_tiny(config_of("simclr"), FACTS).views
    assert same.config == config_of("simclr").augment


@pytest.mark.parametrize("last", ["scale", "plain", "none", "bias"])
def test_the_end_of_a_head(last: str) -> None:
    head = build_head("mlp", 6, 4, 2, 5, True, last)
    end = [m for m in head if not isinstance(m, nn.ReLU)][2:]
    assert [type(m) for m in end] == [nn.Linear, *([nn.BatchNorm1d] if last in ("scale", "plain") else [])]
    assert (end[0].bias is not None) == (last == "bias")
    trained = [p for p in end[-1].parameters() if p.requires_grad]
    assert len(trained) == {"scale": 1, "plain": 0, "none": 1, "bias": 2}[last]


def test_a_queue_that_the_batch_does_not_divide_is_refused_with_the_nearest_sizes() -> None:
    facts = dataclasses.replace(FACTS, batch_size=256)
    for options, message in [
        (MoCoOptions(queue=1000), "multiple of the 256 keys of a step, such as 768 or 1024, got 1000"),
        (MoCoOptions(queue=100), "such as 256, got 100"),
        (MoCoOptions(queue=1280, symmetric=True), "multiple of the 512 keys of a step, such as 1024 or 1536, got 1280"),
        (MoCoOptions(queue=1024, bn_splits=3), "bn_splits must divide the 256 images of a process, got 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            METHODS["moco-v2"].build(config_of("moco-v2", options=options), facts)


def test_what_rarely_works_is_warned_of_and_what_works_is_not() -> None:
    for processes in (1, 2):  # synchronised batch norm is that of one process
        with pytest.warns(UserWarning, match="batch norm can leak"):
            METHODS["moco-v2"].build(config_of("moco-v2"), dataclasses.replace(FACTS, world_size=processes))
    with pytest.warns(UserWarning, match=r"BYOL collapses with AdamW .* got a peak of 0\.2"):
        METHODS["byol"].build(config_of("byol"), dataclasses.replace(FACTS, optimizer="adamw", lr=0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        METHODS["moco-v2"].build(config_of("moco-v2", options=MoCoOptions(queue=64, bn_splits=4)), FACTS)
        METHODS["moco-v2"].build(config_of("moco-v2", sync_bn=False), dataclasses.replace(FACTS, world_size=2))
        METHODS["moco-v2"].build(config_of("moco-v2", norm="layer", encoder="resnet10t"), FACTS)  # the head has none
        METHODS["byol"].build(config_of("byol"), dataclasses.replace(FACTS, optimizer="adamw", lr=1e-3))


def test_what_a_method_cannot_do_without_is_asked_for_before_anything_is_built() -> None:
    with pytest.raises(ValueError, match="SupCon needs labels of at least 2 classes, got 0 labelled"):
        METHODS["supcon"].build(config_of("supcon"), dataclasses.replace(FACTS, labelled=0, classes=0))
    for name, title in (("byol", "BYOL"), ("moco-v2", "MoCo v2"), ("simsiam", "SimSiam")):
        with pytest.raises(ValueError, match=f"{title} needs a projection head"):
            METHODS[name].build(config_of(name, head="none"), dataclasses.replace(FACTS, world_size=2))
    for options, message in [
        ({"loss": "triplet"}, "loss must be one of"),
        ({"loss": "margin", "learnable_temperature": True}, "learnable_temperature must be off with margin"),
        ({"semi_hard": True}, "semi_hard must be off with nt-xent and dcl, got True"),
    ]:
        with pytest.raises(ValueError, match=message):
            config_of("simclr", options=SimCLROptions(**options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_of_whole_views_and_targets_have_no_gradient(variant: str) -> None:
    method = make_tiny(config_of(variant), FACTS)
    views = [torch.randn(16, 3, view.size, view.size) for view in method.views.each]
    h, embeddings = method(torch.stack(views) if len({len(view[0, 0]) for view in views}) == 1 else views)
    assert h.shape[1] == 8 and len(h) in (16, 16 * method.views.count)
    targets = {"moco-symmetric": [1, 3], "byol": [2, 3], "simsiam": [2, 3], "moco-v3": [2, 3]}
    targets |= {"autoencoder": [1], "denoising": [1], "cpc": [2], "dino": [4, 5], "dino-large": [2, 3]}
    fixed = targets.get(variant, [1] if variant.startswith("moco") else [])
    assert [i for i, z in enumerate(embeddings) if not z.requires_grad] == fixed
    assert all(len(z) == 16 for z in embeddings)
    others = ("rotation", "jigsaw", "context", "autoencoder", "denoising", "cpc", "gan")  # answers, images, patches
    if variant not in others:
        assert all(z.shape == (16, 8) for z in embeddings)
    apart = set(method.names_apart())
    state: dict[str, Tensor] = method.state_dict()
    assert ("twin" in method.evaluated) == any(isinstance(m, MomentumTwin) for m in method.modules())
    assert {n for n in state if n.startswith(("twin.", "ring.", "bank.", "centre.", "criterion."))} == apart
