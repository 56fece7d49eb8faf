from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from evaluate_cases import blobs
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.evaluate import OnlineProbe
from fastclr.losses import nt_xent
from fastclr.methods.model import EncoderHead, build_model
from fastclr.training.config import PretrainConfig


def encoder_after_a_step(config: PretrainConfig, probe: OnlineProbe | None) -> tuple[EncoderHead, dict[str, Tensor]]:
    """Train two steps, alongside the probe if there is one; return the model and the last gradients."""
    torch.manual_seed(0)
    model = build_model(config)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(2):
        views = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        h = model.encoder(views)
        loss = nt_xent(*model.head(h).chunk(2), 0.5)
        if probe is not None:
            probe.step(h, (torch.arange(8) % 3).repeat(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_encoder_learns_bit_for_bit_the_same_with_and_without_the_probe(tiny: PretrainConfig) -> None:
    config = dataclasses.replace(tiny, width=0.125)
    plain, expected = encoder_after_a_step(config, None)
    probe = OnlineProbe(64, 3)
    watched, gradients = encoder_after_a_step(config, probe)
    assert gradients.keys() == expected.keys() and len(gradients) > 20
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], tensor), name
    assert probe.linear.weight.abs().max() > 0  # it did learn


def test_a_step_is_adam_on_the_labelled_images() -> None:
    probe = OnlineProbe(8, 3, lr=0.05)
    linear = nn.Linear(8, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.Adam(linear.parameters(), 0.05)
    for step in range(5):
        h, labels = blobs(40, step, 1.0)
        labels[step::4] = -1
        known = labels >= 0
        logits = linear(h[known])
        loss = F.cross_entropy(logits, labels[known])
        accuracy = (logits.argmax(dim=1) == labels[known]).double().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = probe.step(h, labels)
        assert float(found.loss) == pytest.approx(loss.item(), rel=1e-5)
        assert float(found.accuracy) == pytest.approx(float(accuracy), rel=1e-6)
        assert int(found.labelled) == int(known.sum())
    torch.testing.assert_close(probe.linear.weight, linear.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(probe.linear.bias, linear.bias, atol=1e-5, rtol=1e-5)


def test_no_gradient_reaches_the_features() -> None:
    h = torch.randn(6, 8, requires_grad=True)
    assert OnlineProbe(8, 3)(h).requires_grad
    OnlineProbe(8, 3)(h).sum().backward()
    assert h.grad is None


def test_without_labels_nothing_is_counted_and_nothing_breaks() -> None:
    probe = OnlineProbe(8, 3)
    found = probe.step(torch.randn(4, 8), torch.full((4,), -1))
    assert [float(x) for x in found] == [0.0, 0.0, 0.0]
    assert not probe.linear.weight.any()


def test_it_works_under_autocast_and_no_grad() -> None:
    h, labels = blobs(40, 0, 0.3)
    expected = OnlineProbe(8, 3)
    inside = OnlineProbe(8, 3)
    expected.step(h.bfloat16(), labels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside.step(h.bfloat16(), labels)
    assert torch.equal(inside.linear.weight, expected.linear.weight)


def test_a_restored_probe_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, stopped = OnlineProbe(8, 3), OnlineProbe(8, 3)
    for step in range(3):
        whole.step(*blobs(20, step, 1.0))
        stopped.step(*blobs(20, step, 1.0))
    torch.save(stopped.state_dict(), tmp_path / "probe.pt")
    again = OnlineProbe(8, 3)
    again.load_state_dict(torch.load(tmp_path / "probe.pt", weights_only=True))
    copied = copy.deepcopy(stopped)
    for step in range(3, 6):
        for probe in (whole, again, copied):
            probe.step(*blobs(20, step, 1.0))
    assert torch.equal(again.linear.weight, whole.linear.weight)
    assert torch.equal(copied.linear.weight, whole.linear.weight)


def test_it_learns_what_is_separable() -> None:
    probe = OnlineProbe(8, 3, lr=0.05)
    accuracies = [float(probe.step(*blobs(64, step, 0.2)).accuracy) for step in range(60)]
    assert accuracies[0] < 0.6 and accuracies[-1] > 0.98


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineProbe(0, 3), "features must be at least 1"),
        (lambda: OnlineProbe(8, 1), "at least 2 classes, got 1"),
        (lambda: OnlineProbe(8, 3, lr=0), "lr must be a positive number"),
        (lambda: OnlineProbe(8, 3).step(torch.zeros(4, 8), torch.zeros(2, dtype=torch.int64)), "h and labels must be"),
        (lambda: OnlineProbe(8, 3).step(torch.zeros(4, 8), torch.zeros(4)), "int64"),
    ],
)
def test_bad_input_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_accuracy_is_that_of_the_largest_logit() -> None:
    from sklearn.metrics import accuracy_score

    probe = OnlineProbe(8, 3)
    with torch.no_grad():
        probe.linear.weight.normal_(generator=torch.Generator().manual_seed(1))
    h, labels = blobs(40, 0, 1.0)
    labels[::5] = -1
    answers = (h.double() @ probe.linear.weight.detach().double().T).argmax(dim=1)
    assert probe.accuracy(h, labels) == pytest.approx(accuracy_score(labels.numpy(), answers.numpy()))
    for rows, classes in ((h[:0], labels[:0]), (h, labels[1:])):
        with pytest.raises(ValueError, match="features and labels must be"):
            probe.accuracy(rows, classes)
