"""BiGAN: who learns from which part of the loss, by separate backward passes, and the loss by its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_cases import config_of, make_tiny
from torch import Tensor
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.data import Batch
from fastclr.methods import Facts, GANOptions
from fastclr.methods.draws import uniforms

N = 6
FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=N)
BATCH = Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), torch.arange(N), torch.zeros(N, dtype=torch.long))


def build(**changes: Any) -> Any:
    torch.manual_seed(0)
    return make_tiny(config_of("gan", **changes), FACTS).double()


def views(size: int = 32) -> Tensor:
    return torch.rand(1, N, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cost(logits: Tensor, answer: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, answer))


@pytest.mark.parametrize("size", [6, 17, 32])
def test_one_backward_is_the_two_of_the_game(size: int) -> None:
    method = build(augment=AugmentConfig.cifar(size))
    images = views(size)[0]
    loss, sums = method.loss(method(views(size))[1], BATCH, 0, 1)
    loss.backward()
    z = method.head(method.encoder(images))
    u = 2 * uniforms(images, z.shape[1]).double() - 1
    drawn, judge = method.generator(u)[..., :size, :size], method.discriminator
    assert drawn.shape == images.shape and float(u.min()) < -0.5 < 0.5 < float(u.max())
    judged = cost(judge(images, z.detach()), 1) + cost(judge(drawn.detach(), u), 0)
    fooled = cost(judge(images, z), 0) + cost(judge(drawn, u), 1)
    assert float(loss.detach()) == pytest.approx(float((judged + fooled).detach()), rel=1e-9)
    assert float(sums["discriminator_loss"]) == pytest.approx(float(judged.detach()), rel=1e-9)
    players = [p for part in (method.encoder, method.head, method.generator) for p in part.parameters()]
    for part, value in ((list(judge.parameters()), judged), (players, fooled)):
        for parameter, exact in zip(part, torch.autograd.grad(value, part, retain_graph=True), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, exact, rtol=1e-9, atol=1e-12)


def test_the_loss_of_single_precision_logits_and_the_share_that_is_told() -> None:
    method = build()
    logits = torch.randn(N, 4, generator=torch.Generator().manual_seed(2))
    wide = logits.double()
    exact = sum(cost(wide[:, k], answer) for k, answer in enumerate((1.0, 0.0, 0.0, 1.0)))
    for given, tolerance in ((logits, 1e-6), (logits.bfloat16(), 2e-2)):
        loss, sums = method.loss([given], BATCH, 0, 1)
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(exact), rel=tolerance)
    right = sum(float(row[0] > 0) + float(row[1] < 0) for row in logits) / (2 * N)
    assert float(sums["task_accuracy"]) == pytest.approx(right)


def test_every_logit_is_of_its_own_image_alone() -> None:
    method = build().eval()
    with torch.no_grad():
        h, (logits,) = method(views())
        apart = [method(views()[:, i : i + 1]) for i in range(N)]
    torch.testing.assert_close(h, torch.cat([each[0] for each in apart]))
    torch.testing.assert_close(logits, torch.cat([each[1][0] for each in apart]))
    assert torch.equal(logits[:, :2], logits[:, 2:])


def test_widths_are_checked() -> None:
    for options in (GANOptions(hidden=0), GANOptions(generator_width=0), GANOptions(discriminator_width=5000)):
        with pytest.raises(ValueError, match="must be 1 to 4096"):
            config_of("gan", options=options)
