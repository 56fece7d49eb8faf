"""DINO, and views of several sizes: schedules, centre, prototypes, encoders that take small views and that do not."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import config_of, make_tiny
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr import SimCLRAugment
from fastclr.augment import AugmentConfig
from fastclr.data import Batch, make_shapes
from fastclr.methods import DINO, METHODS, DINOOptions, Facts, LeJEPAOptions
from fastclr.methods.base import ViewPlan, by_size
from fastclr.methods.model import build_model
from fastclr.training.build import build
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import train_in
from fastclr.training.method_presets import with_method
from fastclr.training.optim import Schedule, build_optimizer
from fastclr.training.presets import PRESETS
from fastclr.training.step import train_step

FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=16)
BATCH = Batch(torch.zeros(16, 4, 4, 3, dtype=torch.uint8), torch.arange(16), torch.arange(16) % 3)
SMALL = {"epochs": 2, "batch_size": 16, "head_hidden": 16, "head_dim": 8, "device": "cpu", "amp": "off", "knn_every": 0}
DATA = dataclasses.replace(make_shapes(train=32, test=8), test=None)


def tiny(**options: Any) -> DINO:
    torch.manual_seed(0)
    chosen = DINOOptions(**{"prototypes": 8, "local_views": 2, **options})
    made = make_tiny(config_of("dino", options=chosen), FACTS)
    assert isinstance(made, DINO)
    return made


def logits(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 8, generator=generator) for _ in range(count)]


def test_views_of_several_sizes_are_those_that_each_size_alone_would_have() -> None:
    large, small = AugmentConfig.cifar(32), AugmentConfig(12, blur_p=0.0)
    plan = ViewPlan((large, large, small, small, small), 5)
    images = make_shapes(train=6, test=1).train
    groups = plan.augmenter(7, channels_last=True)(images.images, images.ids, 3)
    assert [tuple(group.shape) for group in groups] == [(2, 6, 3, 32, 32), (3, 6, 3, 12, 12)]
    for config, first, found in ((large, 0, groups[0]), (small, 2, groups[1])):
        for index, view in enumerate(found):  # a function of (seed, epoch, id, number of the view)
            alone = SimCLRAugment(config, 1, seed=7, first_view=first + index)
            assert torch.equal(alone(images.images[2:5], images.ids[2:5], 3)[0], view[2:5])
    assert plan.nbytes == 4 * 3 * (2 * 32**2 + 3 * 12**2)
    alike = ViewPlan(large, 2)
    assert isinstance(alike.augmenter(7, channels_last=True), SimCLRAugment) and alike.nbytes == 4 * 3 * 2 * 32**2
    views = [torch.zeros(2, 3, s, s) for s in (8, 8, 4, 4, 4)]
    assert [len(run) for run in by_size(views)] == [2, 3] and len(by_size(torch.zeros(2, 2, 3, 4, 4))) == 1


def test_the_memory_of_a_step_counts_the_views_of_the_method() -> None:
    config = PretrainConfig(augment=AugmentConfig.cifar(32))
    counts = {"simclr": 2, "lejepa": 4, "rotation": 1, "supervised": 1}
    for name, count in counts.items():
        changes = {"options": LeJEPAOptions(views=4)} if name == "lejepa" else {}
        plan = METHODS[name].plan(with_method(config, name, **changes))
        assert plan.nbytes == count * 4 * 3 * 32**2, name
    dino = METHODS["dino"].plan(with_method(config, "dino", options=DINOOptions(local_views=6)))
    assert dino.nbytes == 4 * 3 * (2 * 32**2 + 6 * 12**2)


def test_large_and_small_views_share_the_area_of_the_image() -> None:
    augment = AugmentConfig(224, crop_scale=(0.08, 1.0), blur_p=1.0)
    first, second, *small = DINOOptions(second_blur_p=0.1, local_blur_p=0.5).pair(augment)
    assert (first.crop_scale, second.crop_scale, first.size) == ((0.4, 1.0), (0.4, 1.0), 224)
    assert (first.blur_p, second.blur_p, second.solarize_p) == (1.0, 0.1, 0.2)
    assert len(small) == 8 and small[0].size == 96 and small[0].crop_scale == (0.05, 0.4) and small[0].blur_p == 0.5
    assert DINOOptions(local_views=0).pair(augment)[0].crop_scale == (0.08, 1.0)
    for bad in ({"local_views": -1}, {"crop_split": 0.01}, {"local_size": 0}, {"prototypes": 1}, {"momentum": 2.0}):
        with pytest.raises(ValueError, match=next(iter(bad)) if "split" not in str(bad) else "local_least"):
            with_method(PretrainConfig(), "dino", options=DINOOptions(**bad))  # type: ignore[arg-type]


def test_the_loss_is_lightlys_and_the_centre_follows_the_targets() -> None:
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.DINOLoss(output_dim=8, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    method = tiny()
    for step in range(3):
        embeddings = [each * (1 + step) for each in logits(6)]
        loss, sums = method.loss(embeddings, BATCH, step, 10)
        expected = theirs(embeddings[4:], embeddings[:4], epoch=2)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        assert 0 < float(sums["target_entropy"]) < math.log(8)
        method.after_step(step, 10)
        assert method.centre.value.flatten().tolist() == pytest.approx(theirs.center.flatten().tolist(), rel=1e-5)


def test_schedules_are_functions_of_the_step() -> None:
    method = tiny(temperature=0.07, temperature_epochs=3)
    method.epoch_steps = 4
    found = [method.temperature(step) for step in range(16)]
    assert found == pytest.approx([0.04] * 4 + [0.055] * 4 + [0.07] * 8)
    config = with_method(PretrainConfig(), "dino", weight_decay=0.04, weight_decay_end=0.4, epochs=5, lr=0.1)
    groups = method.groups("adamw")
    optimizer = build_optimizer(dataclasses.replace(config, optimizer="adamw"), groups)
    schedule = Schedule(config, optimizer, 4, groups)
    for step in range(20):
        schedule.step_update(step)
        expected = 0.4 - 0.36 * (1 + math.cos(math.pi * step / 20)) / 2
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == pytest.approx([expected if group.decay else 0.0 for group in groups])
    assert sum(group.decay for group in groups) == 1


def test_prototypes_have_length_one_and_stay_as_they_are_in_the_first_epoch() -> None:
    method = tiny()
    z = torch.randn(5, 8)
    expected = F.normalize(z.double()) @ F.normalize(method.prototypes.weight.double()).T
    torch.testing.assert_close(method.prototypes(z), expected.float())
    config = config_of("dino", data="shapes", options=method.options, batch_size=8, epochs=2)
    training = build(config, data=DATA, make=lambda c, f: make_counted(c, f))
    found = []
    for epoch in range(2):
        for batch in itertools.islice(training.loader.epoch(epoch), 4):
            made: Any = training.method
            before = F.normalize(made.prototypes.weight.detach())
            train_step(training, batch)
            found.append(float((F.normalize(made.prototypes.weight.detach()) - before).abs().max()) > 1e-6)
    assert found == [False] * 4 + [True] * 4  # neither momentum nor weight decay turns them


def make_counted(config: PretrainConfig, facts: Facts) -> DINO:
    made = make_tiny(config, facts)
    assert isinstance(made, DINO)
    made.epoch_steps = facts.images // facts.batch_size
    return made


def test_a_vit_takes_small_views_and_is_exported_for_large_ones(tmp_path: Path) -> None:
    options = DINOOptions(prototypes=8, local_views=2)
    config = with_method(PretrainConfig(), "dino", options=options, **SMALL)
    config = dataclasses.replace(config, encoder="test_vit", patch_size=4, augment=AugmentConfig.cifar(32))
    ended = train_in(tmp_path / "run", config, progress=False, data=DATA)
    plain = build_model(dataclasses.replace(config, options=DINOOptions(prototypes=8, local_views=0))).encoder
    trained = ended.run.load_encoder()
    plain.load_state_dict(trained.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), trained.eval()(images))


class Flat(nn.Module):
    """An encoder for 32 px alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images)
        return found


def test_an_encoder_that_cannot_take_small_views_is_refused_before_images_are_read(tmp_path: Path) -> None:
    config = with_method(PretrainConfig(), "dino", data="shapes", options=DINOOptions(prototypes=8), **SMALL)
    config = dataclasses.replace(config, augment=AugmentConfig.cifar(32))
    own = dataclasses.replace(config, encoder="<m.Flat>", given=Flat())
    vit = dataclasses.replace(config, encoder="test_vit", patch_size=16)
    for refused, said in ((own, "views of 12 px beside those of 32 px.*local_views 0"), (vit, "patch size 16")):
        with pytest.raises(ValueError, match=said):
            train_in(tmp_path / "run", refused, progress=False)
    assert not (tmp_path / "run").exists()
    alone = dataclasses.replace(own, options=DINOOptions(prototypes=8, local_views=0))
    build_model(alone)


def test_presets_have_the_constants_of_their_sources() -> None:
    vit: Any = PRESETS["imagenet-dino"]
    assert (vit.options.prototypes, vit.options.momentum, vit.options.local_views) == (65536, 0.996, 8)
    assert (vit.lr, vit.weight_decay, vit.weight_decay_end, vit.batch_size) == (5e-4, 0.04, 0.4, 512)
    assert (vit.head_activation, vit.head_bn, vit.head_layers, vit.head_dim) == ("gelu", False, 3, 256)
    cifar: Any = PRESETS["cifar10-dino"]
    assert (cifar.options.prototypes, cifar.options.momentum, cifar.lr) == (2048, 0.99, 0.12)
