"""The profile: its stages add up to the loop's step, its percentiles match NumPy's, its advice follows its numbers."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastclr.cli import main
from fastclr.methods import SimCLROptions
from fastclr.training.build import Training, build
from fastclr.training.config import PretrainConfig
from fastclr.training.presets import PRESETS
from fastclr.training.profile import (
    STAGES,
    Profile,
    Spread,
    StageClock,
    count_syncs,
    describe_data,
    profile_training,
    synthetic_data,
    whole_and_staged_step,
)
from fastclr.training.profile_table import advice, format_profile

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"amp": "bf16"},
        {"head": "none", "optimizer": "adamw", "lr": 1e-3},
        {"options": SimCLROptions(learnable_temperature=True), "clip_grad": 0.01, "channels_last": False},
    ],
    ids=["plain", "bf16", "no head", "temperature and clipping"],
)
def test_the_stages_are_the_step_of_the_loop(tiny: PretrainConfig, changes: dict[str, Any]) -> None:
    one, other = (build(dataclasses.replace(tiny, **changes)) for _ in range(2))
    whole, staged = whole_and_staged_step(one)[0], whole_and_staged_step(other)[1]
    start = [p.clone() for p in one.method.parameters()]
    for training in (one, other):
        training.method.train()
    for batch in [*one.loader.epoch(0)][:3]:
        whole(batch)
        staged(batch, StageClock(CPU))
    for (name, found), expected in zip(
        other.method.state_dict().items(), one.method.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name
    assert other.totals.sum_over(other.world) == one.totals.sum_over(one.world)
    assert other.step == one.step == 3
    assert not all(torch.equal(a, b) for a, b in zip(start, one.method.parameters(), strict=True))


def test_stages_of_a_compiled_model_are_compiled(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []

    def fake(module: torch.nn.Module, mode: str) -> torch.nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: compiled.append(module))
    training = build(dataclasses.replace(tiny, compile="default"))
    whole_and_staged_step(training)
    assert compiled == [training.method, training.method.encoder, training.method.head]


def test_clock_adds_up_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 3.5, 3.75])
    monkeypatch.setattr("fastclr.training.profile.time.perf_counter", lambda: next(times))
    clock = StageClock(CPU)
    for stage in ("copy", "step", "copy"):
        clock.mark(stage)
    assert clock.read() == {"copy": 750.0, "step": 2000.0}


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_spread_is_that_of_numpy(count: int) -> None:
    values = np.random.default_rng(0).exponential(size=count)
    found = Spread.of(values.tolist())
    assert (found.p20, found.median, found.p80) == pytest.approx(np.percentile(values, [20, 50, 80]))


def test_measured_numbers_belong_together(tiny: PretrainConfig) -> None:
    p = profile_training(tiny, steps=4)
    assert tuple(p.stages) == STAGES
    assert all(spread.p20 <= spread.median <= spread.p80 and spread.median > 0 for spread in p.stages.values())
    assert sum(spread.p20 for spread in p.stages.values()) <= p.stage_sum.p80
    assert p.images_per_s == pytest.approx(1000 * 32 / p.step.median)
    encoder = p.stages["encoder forward"].median + p.stages["encoder backward"].median
    assert p.encoder_share == pytest.approx(encoder / p.stage_sum.median)
    assert p.peak_memory > 50 * 2**20 and p.host_syncs is None
    assert "128 images of" in p.data


def test_time_goes_to_the_stage_that_takes_it(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that stands still but for the networks, and for each of them by another amount."""
    now = [0.0]

    def takes(seconds: float) -> Callable[..., None]:
        def pass_time(*_: Any) -> None:
            now[0] += seconds

        return pass_time

    def watched(config: PretrainConfig, **more: Any) -> Training:
        training = build(config, **more)
        for module, forward, backward in ((training.method.encoder, 8.0, 4.0), (training.method.head, 2.0, 1.0)):
            module.register_forward_hook(takes(forward))
            next(module.parameters()).register_post_accumulate_grad_hook(takes(backward))
        return training

    monkeypatch.setattr("fastclr.training.profile.build", watched)
    monkeypatch.setattr("fastclr.training.profile.time.perf_counter", lambda: now[0])
    p = profile_training(tiny, steps=3)
    taken = {name: spread.median for name, spread in p.stages.items() if spread.median}
    assert taken == {
        "encoder forward": 8000.0,
        "encoder backward": 4000.0,
        "head forward": 2000.0,
        "head backward": 1000.0,
    }
    assert p.step.median == p.stage_sum.median == 15000.0 and p.encoder_share == 12 / 15


def test_synthetic_images_have_the_sizes_of_the_preset() -> None:
    small = synthetic_data(dataclasses.replace(PRESETS["cifar10"], batch_size=8))
    assert isinstance(small.train.images, torch.Tensor) and small.train.images.shape == (32, 32, 32, 3)
    assert 100 < small.train.images.float().mean() < 155
    config = dataclasses.replace(PRESETS["imagenet"], batch_size=64)
    photos = synthetic_data(config).train
    sizes = photos.images.sizes
    assert len(photos) == 256 and int(sizes.min(dim=1).values.min()) == int(sizes.min(dim=1).values.max()) == 256
    assert len(set(map(tuple, sizes.tolist()))) == 6
    ends = photos.images.offsets + 3 * sizes.prod(dim=1)
    assert int(ends.max()) == len(photos.images.data)
    assert "reading files is not measured (give --data PATH)" in describe_data(config, photos)


def test_command_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-size", "16", "--width", "0.125", "--device", "cpu", "--steps", "2"]
    assert main(["profile", "--preset", "cifar10", *options]) == 0
    text = capsys.readouterr().out
    assert "64 random images of 32x32 in memory" in text
    for name in (*STAGES, "sum of the stages", "step of the loop", "loop overhead"):
        assert f"\n{name} " in text
    assert main(["profile", "--preset", "cifar10", *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["batch_size"] == 16 and record["steps"] == 2
    assert set(record["stages"]["head forward"]) == {"median", "p20", "p80"}
    assert record["advice"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "cifar11"], "demo, cifar10"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--data", "no/such/place"], "no/such/place"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_one_of_several_processes_is_refused(tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        profile_training(tiny, steps=1)


def test_waits_are_counted_from_the_warnings_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        for text in ("called a synchronizing CUDA operation", "another", "called a synchronizing CUDA operation"):
            warnings.warn(text, stacklevel=1)

    assert count_syncs(step) == 2
    assert modes == ["warn", 0]


def spread(median: float) -> Spread:
    return Spread(median, median, median)


GOOD = Profile(
    encoder="resnet18 x1",
    parameters=11_000_000,
    device="cuda:0",
    device_name="a GPU",
    autocast=True,
    data="64 images",
    batch_size=512,
    steps=20,
    stages={name: spread(40.0 if name.startswith("encoder") else 2.5) for name in STAGES},
    stage_sum=spread(100.0),
    step=spread(101.0),
    overhead=spread(1.0),
    encoder_share=0.8,
    images_per_s=5069.0,
    peak_memory=8 * 2**30,
    device_memory=80 * 2**30,
    host_ms=30.0,
    host_syncs=0,
    loader="torch",
    augment_device="cuda:0",
    native_augmentation=True,
    bf16_available=True,
    cuda_available=True,
    channels_last=True,
    convolutional=True,
    threads=1,
    torch="2",
    fastclr="0",
)


def changed(**changes: Any) -> Profile:
    return dataclasses.replace(GOOD, **changes)


def test_nothing_to_change_is_not_mentioned() -> None:
    assert advice(GOOD) == []
    text = format_profile(GOOD)
    assert "what to change" not in text
    assert "the encoder is 80.0% of a step" in text and "waits for the GPU 0 times" in text
    assert "loop overhead             1.00          [1.00, 1.00]     1.0%" in text


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (changed(stages=GOOD.stages | {"loading": spread(10.0)}), None),
        (changed(stages=GOOD.stages | {"loading": spread(12.0)}), "waits 12% of its time for the torch loader"),
        (changed(augment_device="cpu"), "computed on the CPU and copied, 5% of a step"),
        (changed(native_augmentation=False), "slow reference implementation"),
        (changed(device="cpu", augment_device="cpu", autocast=False, host_ms=None), "--device cuda"),
        (changed(autocast=False), "--amp bf16"),
        (changed(autocast=False, bf16_available=False), None),
        (changed(channels_last=False), "--channels-last"),
        (changed(channels_last=False, convolutional=False), None),
        (changed(host_ms=89.0), None),
        (changed(host_ms=95.0), r"larger --batch-size costs little time (about 4608 would fit into memory)"),
        (changed(host_ms=95.0, peak_memory=50 * 2**30), "larger --batch-size costs little time"),
    ],
)
def test_every_rule_speaks_at_its_numbers_and_only_then(profile: Profile, expected: str | None) -> None:
    found = advice(profile)
    assert len(found) == (expected is not None)
    if expected is not None:
        assert expected in found[0]
        assert f"  - {found[0]}" in format_profile(profile)


def test_on_a_cpu_without_gpu_there_is_nothing_to_buy() -> None:
    on_cpu = changed(
        device="cpu", augment_device="cpu", cuda_available=False, host_ms=None, device_memory=None, host_syncs=None
    )
    assert advice(dataclasses.replace(on_cpu, autocast=False, channels_last=False)) == []
    assert "GiB (of the process)" in format_profile(on_cpu)
