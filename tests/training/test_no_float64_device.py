"""A device without float64, as mps is: played by the CPU and a mode that refuses float64 of what lies there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastclr import device
from fastclr.evaluate import Features, knn_scores, lbfgs_probe, precomputed_probe
from fastclr.evaluate.diagnostics import alignment, effective_rank, spectrum, uniformity
from fastclr.methods import METHODS
from fastclr.training.build import build
from fastclr.training.config import PretrainConfig
from fastclr.training.method_presets import with_method
from fastclr.training.step import read_totals, train_step


class Device(TorchDispatchMode):
    """Tensors that are given to it and what is computed from them lie on the device, until `Tensor.cpu` fetches them.

    With `everything`, all tensors lie there.
    """

    def __init__(self, *tensors: Tensor, everything: bool = False) -> None:
        super().__init__()
        self.everything, self.there = everything, [tensor.untyped_storage() for tensor in tensors]
        self.places = {storage.data_ptr() for storage in self.there}

    def holds(self, value: Any) -> bool:
        return isinstance(value, Tensor) and (self.everything or value.untyped_storage().data_ptr() in self.places)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = any(map(self.holds, tree_leaves((args, kwargs))))
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and (inside or self.everything):
                drawn = func is torch.ops.aten.randn.generator  # by a generator of the CPU, and moved then
                if value.dtype == torch.float64 and value.dim() and not drawn:
                    raise TypeError(f"this device has no float64, which {func} returns")
                self.there.append(value.untyped_storage())  # kept, so that its place is not used again
                self.places.add(self.there[-1].data_ptr())
        return result


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has no float64, and `cpu` makes a copy elsewhere, which has."""
    monkeypatch.setattr(device, "has_float64", lambda kind: False)
    monkeypatch.setattr("fastclr.evaluate.features.has_float64", lambda kind: False)
    monkeypatch.setattr(Tensor, "cpu", lambda self: torch.from_numpy(self.detach().numpy().copy()))


def features() -> Features:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(120, 10, generator=generator)
    labels = torch.arange(120) % 3
    rows[:, :3] += 1.5 * torch.nn.functional.one_hot(labels, 3)
    return Features(rows[:90], labels[:90], rows[90:], labels[90:])


def evaluated(found: Features, z0: Tensor, z1: Tensor) -> list[Any]:
    scores = knn_scores(found, [1, 5])
    probes = [lbfgs_probe(found), precomputed_probe(found, epochs=3)]
    numbers = [scores[1].top1, scores[5].top1, *(probe.scores.top1 for probe in probes)]
    return [*numbers, alignment(z0, z1), uniformity(z0), effective_rank(z0), *spectrum(z0).tolist()]


def test_evaluations_are_those_of_the_cpu(without: None, request: pytest.FixtureRequest) -> None:
    found = features()
    z0, z1 = found.train[:40].clone(), found.train[40:80].clone()
    plain = evaluated(found, z0, z1)
    assert plain[0] > 0.5
    with pytest.raises(TypeError, match="this device has no float64"), Device(z0):
        z0.double()
    with Device(found.train, found.train_labels, found.test, found.test_labels, z0, z1):
        there = evaluated(found, z0, z1)
    assert there[:4] == plain[:4] and there == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if not each.uses_texts])
def test_training_steps_need_none(method: str, tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses that are logged agree with those of a device that has it."""
    plain = method in ("supervised", "cpc")  # of which an online probe has no use, or no features
    config = dataclasses.replace(with_method(tiny, method), online_probe=not plain, amp="off", batch_size=32)
    logged = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(device, "has_float64", lambda kind: False)
        training = build(config)
        batches = list(training.loader.epoch(0))[:2]
        done = [training.augment(batch.images, batch.ids, 0) for batch in batches]  # on the CPU in any case
        monkeypatch.setattr(training, "augment", lambda *_, views=done: views.pop(0))
        with Device(everything=patched):
            for batch in batches:
                train_step(training, batch)
        logged.append(read_totals(training)["train/loss"])
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


def test_what_is_said_of_a_device_that_is_not_there() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="device 'mps' does not exist: torch finds no Apple GPU"):
        device.resolve_device("mps")
    assert not device.uses_bf16("auto", torch.device("mps"))
