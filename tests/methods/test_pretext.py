"""The pretext tasks and the autoencoder: their losses from single images, and what they draw from the pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import config_of, make_tiny
from torch import Tensor, nn

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.data import Batch
from fastclr.methods import AutoencoderOptions, Context, ContextOptions, Facts, Jigsaw, JigsawOptions, ViewPlan
from fastclr.methods.draws import uniforms
from fastclr.methods.jigsaw import far_orders
from fastclr.methods.patches import PatchOptions, cut_patches
from fastclr.methods.pretext import OneView

N = 6
FACTS = Facts(images=64, labelled=64, classes=4, world_size=1, batch_size=N)
BATCH = Batch(torch.zeros(N, 4, 4, 3, dtype=torch.uint8), torch.arange(N), torch.zeros(N, dtype=torch.long))
TASKS = ["rotation", "jigsaw", "context"]


def build(variant: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return make_tiny(config_of(variant, head_bn=False, **changes), FACTS).double()


def views(size: int = 32) -> Tensor:
    return torch.rand(1, N, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def surprise(logits: Tensor, answer: int) -> float:
    return float(torch.logsumexp(logits, 0) - logits[answer])


def patches_of(method: Any, image: Tensor, grid: int) -> list[Tensor]:
    """The features of every patch, cut by numpy where the drawn places are."""
    cell = 32 // grid
    places = (uniforms(image[None], 2 * grid**2)[0].numpy() * (cell - method.side + 1)).astype(int)
    found = []
    for c in range(grid**2):
        top, left = c // grid * cell + places[c], c % grid * cell + places[grid**2 + c]
        patch = image.numpy()[:, top : top + method.side, left : left + method.side]
        found.append(method.encoder(torch.tensor(np.ascontiguousarray(patch))[None])[0])
    return found


def rotation_by_hand(method: Any, image: Tensor) -> float:
    turned = [torch.tensor(np.rot90(image.numpy(), k, (1, 2)).copy())[None] for k in range(4)]
    return float(np.mean([surprise(method.classifier(method.encoder(x))[0], k) for k, x in enumerate(turned)]))


def jigsaw_by_hand(method: Any, image: Tensor) -> float:
    z = [method.head(h).clamp_min(0) for h in patches_of(method, image, 3)]
    rows = [torch.cat([z[c] for c in order]) for order in method.orders.tolist()]
    return float(np.mean([surprise(method.classifier(row), s) for s, row in enumerate(rows)]))


def context_by_hand(method: Any, image: Tensor) -> float:
    h = patches_of(method, image, 3)
    pairs = [torch.cat([h[4], h[c]]) for c in (0, 1, 2, 3, 5, 6, 7, 8)]
    return float(np.mean([surprise(method.classifier(pair), k) for k, pair in enumerate(pairs)]))


BY_HAND = {"rotation": rotation_by_hand, "jigsaw": jigsaw_by_hand, "context": context_by_hand}


@pytest.mark.parametrize("variant", TASKS)
def test_the_loss_is_cross_entropy_of_every_task_done_by_hand(variant: str) -> None:
    method = build(variant)
    with torch.no_grad():
        loss, sums = method.loss(method(views())[1], BATCH, 0, 1)
        exact = [BY_HAND[variant](method, image) for image in views()[0]]
    assert float(loss) == pytest.approx(np.mean(exact), rel=1e-6)
    assert 0 <= float(sums["task_accuracy"]) <= 1 and not sums["task_accuracy"].requires_grad


@pytest.mark.parametrize("variant", TASKS)
def test_right_answers_cost_nothing_and_guesses_the_logarithm_of_their_number(variant: str) -> None:
    method = build(variant)
    kinds = method(views())[1][0].shape[1]
    for logits, cost, right in (
        (100 * torch.eye(kinds), 0, 1),
        (torch.zeros(kinds, kinds), math.log(kinds), 1 / kinds),
    ):
        loss, sums = method.loss([logits.expand(N, -1, -1).bfloat16()], BATCH, 0, 1)
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(cost, rel=1e-6, abs=1e-6)
        assert float(sums["task_accuracy"]) == pytest.approx(right)


@pytest.mark.parametrize("noise", [0.0, 0.25])
@pytest.mark.parametrize("size", [6, 17, 32])
def test_the_autoencoder_is_judged_by_the_squared_error_of_the_whole_image(noise: float, size: int) -> None:
    method = build("autoencoder", options=AutoencoderOptions(noise=noise), augment=AugmentConfig.cifar(size)).eval()
    images = views(size)
    with torch.no_grad():
        h, embeddings = method(images)
        loss, _ = method.loss(embeddings, BATCH, 0, 1)
        kept = (uniforms(images[0], size**2) >= noise).reshape(N, 1, size, size)
        features = method.encoder(images[0] * kept)
        drawn = method.decoder(method.head(features))[..., :size, :size]
    torch.testing.assert_close(h, features)
    assert drawn.shape == images[0].shape
    assert float(loss) == pytest.approx(float(((drawn - images[0]) ** 2).sum() / images.numel()), rel=1e-6)


@pytest.mark.parametrize("variant", [*TASKS, "autoencoder", "denoising"])
def test_every_embedding_is_of_its_own_image_alone(variant: str) -> None:
    method = build(variant).eval()
    with torch.no_grad():
        h, embeddings = method(views())
        apart = [method(views()[:, i : i + 1]) for i in range(N)]
    assert len(h) == N
    torch.testing.assert_close(h, torch.cat([each[0] for each in apart]))
    for k, embedding in enumerate(embeddings):
        torch.testing.assert_close(embedding, torch.cat([each[1][k] for each in apart]))


def test_patches_lie_in_their_cells_anywhere_with_views_of_any_layout() -> None:
    images = torch.arange(3 * 32 * 32.0).reshape(1, 3, 32, 32).repeat(400, 1, 1, 1)
    images += torch.arange(400.0)[:, None, None, None] / 1024  # other pixels, other places
    patches = cut_patches(images, 3, 8)
    assert patches.shape == (400, 9, 3, 8, 8)
    assert torch.equal(cut_patches(images.contiguous(memory_format=torch.channels_last), 3, 8), patches)
    corners = (patches[:, :, 0, 0, 0] - images[:, 0, 0, :1]).round().long()
    cells = torch.arange(9)
    shifts = torch.stack([corners // 32 - cells // 3 * 10, corners % 32 - cells % 3 * 10])
    assert shifts.min() == 0 and shifts.max() == 2
    assert torch.bincount(shifts.flatten(), minlength=3).min() > 2200  # of 7200, three places: 2400 each
    exact = images[7, :, 10 + shifts[0, 7, 5] :, 20 + shifts[1, 7, 5] :][:, :8, :8]
    assert torch.equal(patches[7, 5], exact)


def test_draws_are_uniform_and_a_function_of_the_view_on_any_side_of_a_batch() -> None:
    augment = SimCLRAugment(AugmentConfig.cifar(32), 2, seed=3)
    pictures = torch.randint(256, (50, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, second = augment(pictures, torch.arange(50), 0)
    draws = uniforms(first, 400)
    assert draws.shape == (50, 400) and draws.min() >= 0 and draws.max() < 1
    assert torch.equal(uniforms(first[20:], 400), draws[20:])
    assert torch.equal(uniforms(augment(pictures[9:10], torch.tensor([9]), 0)[0], 400), draws[9:10])
    later = augment(pictures, torch.arange(50), 1)[0]
    others = [
        uniforms(second, 400),
        uniforms(later, 400),
        draws.roll(1, 0),
        draws.roll(1, 1),
    ]  # view, epoch, image, place
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([draws.flatten(), other.flatten()]))[0, 1])) < 0.03
    counts = torch.histc(draws, 20, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 50  # chi-square, 19 degrees of freedom: p 1e-4


def test_orders_are_permutations_that_differ_in_many_places() -> None:
    for count, cells, apart in ((24, 4, 2), (100, 9, 6)):
        orders = far_orders(count, cells)
        assert torch.equal(orders.sort(dim=1).values, torch.arange(cells).expand(count, -1))
        differ = (orders[:, None] != orders[None]).sum(2)
        assert int((differ + cells * torch.eye(count, dtype=torch.long)).min()) >= apart


def test_what_does_not_suit_patches_is_refused_with_what_would() -> None:
    with pytest.raises(ValueError, match="needs views of at least 12 px, for cells of 4 px, got 11"):
        build("jigsaw", augment=AugmentConfig.cifar(11))
    with pytest.raises(ValueError, match="2 to 24"):
        config_of("jigsaw", options=JigsawOptions(grid=2))
    for options in (ContextOptions(patch=0.0), ContextOptions(gray_p=1.5), ContextOptions(hidden=0)):
        with pytest.raises(ValueError, match="must be"):
            config_of("context", options=options)
    with pytest.raises(ValueError, match="must be"):
        config_of("autoencoder", options=AutoencoderOptions(noise=1.0))

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 32 * 32, 8)

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.linear(x.flatten(1))
            return features

    plan = ViewPlan(AugmentConfig.cifar(32), 1)
    cases: tuple[tuple[type[OneView], PatchOptions], ...] = ((Jigsaw, JigsawOptions()), (Context, ContextOptions()))
    for method, options in cases:
        with pytest.raises(ValueError, match=f"{method.title} shows patches of 8 px .* which does not take them"):
            method(Fixed(), nn.Identity(), plan, options)
