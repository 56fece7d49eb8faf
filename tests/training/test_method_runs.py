"""Whole runs of every method: stop and resume, kills, bfloat16, torch.compile, loaders, and the watch for collapse."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from method_cases import VARIANTS, config_of, make_tiny
from tiny_run import TIMES

from fastclr.data import make_shapes
from fastclr.evaluate import effective_rank
from fastclr.methods import METHODS, MoCoOptions
from fastclr.training import loop
from fastclr.training.health import Health, find_collapse
from fastclr.training.loop import Ended, pretrain_in, train_in
from fastclr.training.stopping import Interrupted

DATA = dataclasses.replace(make_shapes(train=48, test=8), test=None)
STEPS = 12  # four epochs of three: a ring of 64 keys goes round three times
pytestmark = pytest.mark.filterwarnings("ignore:batch norm can leak")


def run(folder: Path, variant: str, *, resume: bool = False, **changes: Any) -> Ended:
    config = config_of(variant, data="shapes", batch_size=16, epochs=4, **changes)
    return train_in(folder, config, resume=resume, progress=False, data=DATA, make=make_tiny)


def log_of(ended: Ended) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in ended.run.metrics.read()]


def assert_same(ended: Ended, whole: Ended) -> None:
    for name, value in whole.training.method.state_dict().items():
        assert torch.equal(ended.training.method.state_dict()[name], value), name
    assert log_of(ended) == log_of(whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_is_stopped_again_and_again_ends_bit_identical(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", variant)
    stops = random.Random(variant).sample(range(1, STEPS), 5)
    done = itertools.count(1)

    def stopping(training: Any, batch: Any) -> None:
        step(training, batch)
        if next(done) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", stopping)
    for attempt in range(5):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", variant, resume=attempt > 0)
    assert_same(run(tmp_path / "parts", variant, resume=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["moco-v2", "byol", "barlow-lars", "pirl", "dino", "lejepa-views", "gan"])
def test_a_run_that_is_killed_at_random_steps_ends_bit_identical(variant: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", variant)
    kills = sorted(random.Random(variant).sample(range(2, STEPS), 5))
    for kill in kills:
        child = os.fork()
        if child == 0:
            step = loop.train_step

            def dying(training: Any, batch: Any, last: int = kill, step: Any = step) -> None:
                step(training, batch)
                if training.step == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            loop.train_step = dying
            run(tmp_path / "parts", variant, resume=(tmp_path / "parts" / "config.json").exists(), checkpoint_every=1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    parts = run(tmp_path / "parts", variant, resume=True, checkpoint_every=1)
    assert_same(parts, whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_trains_and_the_log_tells_of_the_embeddings(variant: str, tmp_path: Path) -> None:
    ended = run(tmp_path / "run", variant, amp="bf16")
    records = [r for r in log_of(ended) if r["kind"] == "train"]
    for record in records:
        assert math.isfinite(record["train/loss"])
        if METHODS[VARIANTS[variant][0]].cause:
            assert 0 < record["health/std"] <= 1.0001 and 1 <= record["health/rankme"] <= 8.0001
    assert {p.dtype for p in ended.training.method.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["simclr", "byol", "simsiam", "moco-v2", "moco-split", "jigsaw", "cpc", "gan"])
def test_compiled_methods_have_the_same_curve(variant: str, tmp_path: Path) -> None:
    name = "moco-v2" if variant == "moco-split" else variant
    changes = {"options": MoCoOptions(queue=64, bn_splits=2)} if variant == "moco-split" else {}
    curves = []
    for mode in ("off", "default"):
        ended = run(tmp_path / mode, name, compile=mode, log_every=1, **changes)
        curves.append([r["train/loss"] for r in log_of(ended)])
        torch._dynamo.reset()
    assert len(curves[0]) == STEPS
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


@pytest.mark.slow
def test_the_three_loaders_give_one_run(tmp_path: Path, pictures: Path) -> None:
    found = []
    for loader in ("resident", "torch", "dali"):
        options = MoCoOptions(queue=64)
        config = config_of("moco-v2", data=str(pictures), batch_size=16, epochs=1, loader=loader, options=options)
        pretrain_in(tmp_path / loader, dataclasses.replace(config, width=0.125), progress=False)
        found.append(torch.load(next((tmp_path / loader / "checkpoints").glob("*.pt")), weights_only=True)["method"])
    for name, value in found[0].items():
        assert all(torch.equal(other[name], value) for other in found[1:]), name


def test_the_numbers_of_the_log_are_their_formulas() -> None:
    torch.manual_seed(0)
    z = torch.randn(20, 6) + 1.0
    health = Health(watched=True)
    unit = z.double() / z.double().norm(dim=1, keepdim=True)
    spread = ((unit - unit.mean(0)) ** 2).mean(0).sqrt().mean() * math.sqrt(6)
    assert float(health.observe(z)["embedding_std"]) == pytest.approx(float(spread), rel=1e-6)
    assert health.scalars() == {"embedding_rank": pytest.approx(effective_rank(unit), rel=1e-5)}
    assert health.scalars() == {}  # only steps since the last record count
    wide = torch.randn(6, 20)
    health.observe(wide)
    rank = effective_rank(wide / wide.norm(dim=1, keepdim=True))
    assert health.scalars()["embedding_rank"] == pytest.approx(rank, rel=1e-5)
    assert float(health.observe(torch.ones(8, 4))["embedding_std"]) == 0.0
    even = torch.randn(4000, 64)
    assert float(health.observe(even)["embedding_std"]) == pytest.approx(1.0, abs=0.01)
    assert Health(watched=False).observe(z) == {}


def test_collapse_is_low_deviation_for_a_hundred_steps() -> None:
    records = [{"kind": "train", "step": step, "health/std": 0.5} for step in (10, 20)]
    low = [{"kind": "train", "step": step, "health/std": 0.09} for step in range(30, 130, 10)]
    assert find_collapse([], "") is None and find_collapse(records, "") is None
    assert find_collapse(records + low[:-1], "") is None
    found = find_collapse(records + low, "Usual: a cause.")
    assert found == (
        "the embeddings have collapsed: for 100 steps their standard deviation is below 0.1 of that of evenly spread "
        "ones. Usual: a cause."
    )
    back = [{"kind": "train", "step": 130, "health/std": 0.11}, {"kind": "eval", "step": 130, "eval/knn_top1": 0.5}]
    assert find_collapse(records + low + back, "") is None
    assert find_collapse([{"kind": "train", "step": 200, "train/loss": 1.0}], "") is None  # it is not watched


def test_every_method_that_compares_embeddings_names_the_usual_cause_of_collapse() -> None:
    # from the images: one answer cannot serve all
    told = {"supervised", "rotation", "jigsaw", "context", "autoencoder", "gan"}
    assert {name for name, method in METHODS.items() if not method.cause} == told
