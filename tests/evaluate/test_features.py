from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from evaluate_cases import Net
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.augment.fixed_view import evaluation_params
from fastclr.augment.images import RaggedImages
from fastclr.data import Batch, ImageDataset, Order, ResidentLoader, Splits, make_shapes
from fastclr.evaluate import Features, extract_features, features, frozen, state_hash
from fastclr.methods.head_layers import feature_module
from fastclr.methods.heads import build_head
from fastclr.methods.model import EncoderHead, build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features

CIFAR = AugmentConfig.cifar(32)


def random_images(count: int) -> Tensor:
    return torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_extraction_leaves_the_encoder_and_its_modes_alone() -> None:
    encoder = Net()
    encoder[2].eval()  # a mode that a plain .train() afterwards would lose
    before, modes = state_hash(encoder), [m.training for m in encoder.modules()]
    images = random_images(10)
    found = extract_features(encoder, images, CIFAR, batch_size=4)
    assert state_hash(encoder) == before and [m.training for m in encoder.modules()] == modes
    assert not found.features.requires_grad
    expected = encoder.eval()(images.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(found.features, expected.detach(), atol=1e-5, rtol=1e-5)
    assert found.ids.tolist() == list(range(10)) and found.labels.tolist() == [-1] * 10


def test_extraction_from_a_loader_keeps_rows_labels_and_ids_together() -> None:
    data = make_shapes(train=30, test=6).train
    labels = data.labels.clone()
    labels[::3] = -1
    data = dataclasses.replace(data, labels=labels, ids=data.ids + 100)
    loader = ResidentLoader(data, Order(8, shuffle=False, drop_last=False))
    found = extract_features(nn.Flatten(), loader.epoch(0), AugmentConfig.cifar(data.images.shape[1]))
    assert found.labels.tolist() == labels.tolist() and found.ids.tolist() == data.ids.tolist()
    expected = data.images.permute(0, 3, 1, 2).flatten(1) / 255
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=0)
    shuffled = extract_features(nn.Flatten(), ResidentLoader(data, Order(8, drop_last=False)).epoch(0), CIFAR)
    order = shuffled.ids.argsort()
    torch.testing.assert_close(shuffled.features[order], found.features)
    assert shuffled.labels[order].tolist() == labels.tolist()


def test_features_that_outgrow_the_device_end_up_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(10)
    expected = extract_features(nn.Flatten(), images, CIFAR, batch_size=3)
    asked = []
    monkeypatch.setattr(features, "has_room", lambda device, count: asked.append(count) or len(asked) < 2)
    found = extract_features(nn.Flatten(), images, CIFAR, batch_size=3)
    assert asked == [2 * 3 * 3072 * 4, 2 * 6 * 3072 * 4]  # not asked again once the CPU took over
    assert torch.equal(found.features, expected.features) and torch.equal(found.ids, expected.ids)


def test_extraction_refuses_nothing_and_what_is_not_finite() -> None:
    empty: Iterator[Batch] = iter(())
    with pytest.raises(ValueError, match="no image"):
        extract_features(Net(), empty, CIFAR)
    broken = Net()
    with torch.no_grad():
        broken[0].weight[0] = float("nan")
    with pytest.raises(FloatingPointError, match="must be finite"):
        extract_features(broken, random_images(4), CIFAR)
    with pytest.raises(ValueError, match=r"features \[N, F\], got shape \(4, 3, 32, 32\)"):
        extract_features(nn.Identity(), random_images(4), CIFAR)


def test_frozen_catches_an_evaluation_that_updates_batch_norm() -> None:
    encoder = Net()
    with pytest.raises(RuntimeError, match="must stay unchanged"), frozen(encoder):
        encoder.train()
        encoder(torch.randn(4, 3, 8, 8))
    assert encoder.training


def test_frozen_catches_training_mode_that_moves_nothing() -> None:
    encoder = Net().eval()
    with pytest.raises(RuntimeError, match="but '2' was switched to training mode"), frozen(encoder):
        encoder[2].train()  # dropout: random features, and nothing that a hash could see
        encoder(torch.randn(4, 3, 8, 8))
    assert not encoder[2].training


def test_frozen_refuses_batch_norm_that_looks_at_the_batch_even_in_evaluation() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="batch norm '1' keeps no running statistics"), frozen(encoder):
        pass


def test_frozen_computes_no_gradients_and_lets_errors_through() -> None:
    encoder = Net()
    with frozen(encoder):
        assert not encoder(torch.randn(2, 3, 8, 8)).requires_grad
    with pytest.raises(KeyError), frozen(encoder):
        raise KeyError("inside")
    assert encoder.training


def test_large_images_are_cropped_to_the_centre_as_torchvision_does() -> None:
    from torchvision.transforms.v2 import functional as TF

    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(256, (h, w, 3), dtype=torch.uint8, generator=generator) for h, w in [(80, 64), (64, 100)]]
    lengths = torch.tensor([p.numel() for p in pictures])
    ragged = RaggedImages(
        torch.cat([p.flatten() for p in pictures]),
        lengths.cumsum(0) - lengths,
        torch.tensor([p.shape[:2] for p in pictures]),
    )
    config = AugmentConfig(48, blur_p=0.0)
    ours = extract_features(nn.Flatten(), ragged, config).features
    for picture, feature in zip(pictures, ours, strict=True):
        centre = TF.center_crop(picture.permute(2, 0, 1).float() / 255, [56, 56])  # 87.5% of the shorter side
        expected = TF.resize(centre, [48, 48], antialias=True)
        torch.testing.assert_close(feature.view(3, 48, 48), expected, atol=5e-5, rtol=0)


def test_small_images_are_seen_whole() -> None:
    crop = evaluation_params(torch.tensor([[32, 32]]), 32).packed[0, 0, :4]
    assert crop.tolist() == [0, 0, 32, 32]


@pytest.mark.parametrize("bn", [True, False])
def test_head_layers_are_those_of_the_papers_head(bn: bool) -> None:
    torch.manual_seed(0)
    head = build_head("mlp", 6, 4, 3, 5, bn)
    model = EncoderHead(nn.Flatten(), head).eval()
    images = torch.randn(7, 6)
    found = model.head_features(images)
    assert [f.shape[1] for f in found] == [6, 5, 5, 4]
    assert found[0] is images
    weights = [module for module in head if isinstance(module, nn.Linear)]
    norms = [module for module in head if isinstance(module, nn.BatchNorm1d)] or [nn.Identity()] * 3
    first = norms[0](weights[0](images)).relu()
    second = norms[1](weights[1](first)).relu()
    torch.testing.assert_close(found[1], first)
    torch.testing.assert_close(found[2], second)
    torch.testing.assert_close(found[3], model(images))
    for layer, index in {"h": 0, "0": 0, "1": 1, "2": 2, "3": 3, "z": 3}.items():
        torch.testing.assert_close(feature_module(model, layer)(images), found[index])
    with pytest.raises(
        ValueError, match=r"one of h, z, 0, 1, 2, 3 \(the head has 3 layer\(s\)\), or a stage .*, got '4'"
    ):
        feature_module(model, "4")


def test_without_a_head_z_is_h() -> None:
    model = EncoderHead(nn.Flatten(), build_head("none", 6, 6, 2, 6, False))
    assert feature_module(model, "z") is model.encoder
    with pytest.raises(ValueError, match="got '1'"):
        feature_module(model, "1")


def test_features_of_the_head_are_extracted_under_the_same_guard(tiny: PretrainConfig) -> None:
    model = build_model(tiny)
    data = make_shapes(train=20, test=10)
    found = run_features(feature_module(model, "z"), data, tiny)
    assert found.train.shape == (20, tiny.head_dim)
    assert model.training  # as it was


def partly_labelled(labels: Tensor) -> Splits:
    data = make_shapes(train=len(labels), test=12)
    return Splits(dataclasses.replace(data.train, labels=labels), data.test)


def test_unlabelled_images_take_no_part(tiny: PretrainConfig) -> None:
    labels = torch.arange(16) % 4
    labels[::2] = -1
    data = partly_labelled(labels)
    found = run_features(nn.Flatten(), data, tiny)
    assert found.train_labels.tolist() == labels[1::2].tolist()
    expected = extract_features(nn.Flatten(), data.train.images[1::2], tiny.augment).features
    assert torch.equal(found.train, expected)


def test_no_labels_at_all_are_refused(tiny: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"training images of .* must have labels"):
        run_features(nn.Flatten(), partly_labelled(torch.full((16,), -1)), tiny)
    unlabelled = dataclasses.replace(make_shapes(train=8, test=8).train, labels=torch.full((8,), -1), classes=())
    with pytest.raises(ValueError, match=r"no labelled images to learn the classes from: give a CSV file .* --data"):
        run_features(nn.Flatten(), Splits(unlabelled, None), tiny)
    with pytest.raises(ValueError, match="has no labelled test images"):
        run_features(nn.Flatten(), Splits(make_shapes(train=8, test=8).train, None), tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": torch.zeros(5)}, r"train must be features \[N, F\]"),
        ({"test": torch.zeros(0, 4), "test_labels": torch.zeros(0, dtype=torch.int64)}, "at least one image"),
        ({"test": torch.zeros(3, 5)}, "same number of features, got 4, 5"),
        ({"train_labels": torch.zeros(4, dtype=torch.int64)}, r"train: labels must be int64 \[5\]"),
        ({"test_labels": torch.tensor([0, 1, -1])}, "test: labels must be known"),
    ],
)
def test_features_must_fit_together(change: dict[str, Tensor], message: str) -> None:
    zeros = {n: torch.zeros(n, dtype=torch.int64) for n in (3, 5)}
    parts = {"train": torch.zeros(5, 4), "train_labels": zeros[5], "test": torch.zeros(3, 4), "test_labels": zeros[3]}
    with pytest.raises(ValueError, match=message):
        Features(**{**parts, **change})


def test_images_of_mixed_sizes_pass_through_the_splits(tiny: PretrainConfig) -> None:
    sizes = torch.tensor([[40, 32], [32, 50], [33, 33], [32, 32]])
    lengths = 3 * sizes.prod(dim=1)
    pixels = torch.randint(256, (int(lengths.sum()),), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ragged = RaggedImages(pixels, lengths.cumsum(0) - lengths, sizes)
    labels = torch.tensor([0, -1, 1, 0])
    names = ("a", "b", "c", "d")
    dataset = ImageDataset(ragged, torch.arange(4), labels, ("x", "y"), names, "here")
    found = run_features(nn.Flatten(), Splits(dataset, dataset), tiny)
    expected = extract_features(nn.Flatten(), ragged, tiny.augment).features
    assert torch.equal(found.train, expected[labels >= 0]) and found.test_labels.tolist() == [0, 1, 0]
