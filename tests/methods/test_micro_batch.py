"""Micro-batches: the gradient of every method, a few images at a time, is that of the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from method_cases import VARIANTS, config_of, make_tiny, tiny_encoder
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.data import Batch
from fastclr.losses import cached_step
from fastclr.methods import METHODS, Facts, Method, MoCoOptions, Supervised, ViewPlan
from fastclr.methods.supervised import Classifier
from fastclr.training.step import embed_views

N = 8
FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=N)
BATCH = Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), torch.arange(N), torch.arange(N) % 3)


def build(variant: str) -> Method:
    torch.manual_seed(0)
    if variant == "supervised":
        network = Classifier(tiny_encoder(bn=False), nn.Sequential(), nn.Linear(8, 4))
        method: Method = Supervised(network, ViewPlan(AugmentConfig.cifar(32), 1)).double()
    else:
        method = make_tiny(config_of(variant), FACTS).double()
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # which would see micro-batches
            module.eval()
    return method


def views_of(method: Method) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(N, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(method.views.count)]


@pytest.mark.parametrize("micro", [3, 8])
@pytest.mark.parametrize("variant", [*VARIANTS, "supervised"])
def test_the_gradient_a_few_images_at_a_time_is_that_of_all(variant: str, micro: int) -> None:
    gradients = []
    for whole in (True, False):
        method = build(variant)

        def loss_of(*embeddings: Tensor, method: Method = method) -> tuple[Tensor, dict[str, Tensor]]:
            return method.loss(embeddings, BATCH, 3, 10)

        if whole:
            embeddings: Sequence[Tensor] = method(views_of(method))[1]
            loss_of(*embeddings)[0].backward()
        else:
            cached_step(method, views_of(method), loss_of, micro, embed=partial(embed_views, method.views.count))
        gradients.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    direct, cached = gradients
    assert direct.keys() == cached.keys() and any(float(g.abs().max()) > 1e-6 for g in direct.values())
    for name, gradient in direct.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def test_no_method_is_left_out() -> None:
    """But for those of captions, which have tests of their own."""
    tested = {name for name, _ in VARIANTS.values()} | {"supervised"}
    assert tested == {name for name, method in METHODS.items() if not method.uses_texts}


def test_parts_of_a_batch_must_be_parts_of_every_micro_batch() -> None:
    options = MoCoOptions(queue=64, bn_splits=4)
    for micro, last in ((6, "6 and 2"), (2, "2"), (16, "16")):
        config = config_of("moco-v2", options=options, micro_batch=micro, batch_size=32)
        facts = dataclasses.replace(FACTS, batch_size=32)
        if micro == 16:
            METHODS["moco-v2"].build(config, facts)
            continue
        with pytest.raises(ValueError, match=f"bn_splits must divide the images of every micro-batch, {last}, got 4"):
            METHODS["moco-v2"].build(config, facts)
