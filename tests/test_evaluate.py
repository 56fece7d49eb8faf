from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig
from fastclr.evaluate import (
    Features,
    evaluation_params,
    extract_features,
    frozen,
    knn_accuracy,
    knn_predict,
    probe_accuracy,
    state_hash,
)
from fastclr.images import RaggedImages


def blobs(count: int, seed: int, noise: float) -> tuple[Tensor, Tensor]:
    """Points around three directions, with their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_plain_knn_is_scikit_learns(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    bank, labels = blobs(300, 0, 1.5)
    queries, _ = blobs(100, 1, 1.5)
    expected = KNeighborsClassifier(k, metric="cosine").fit(bank.numpy(), labels.numpy()).predict(queries.numpy())
    ours = knn_predict(bank, labels, queries, k=k, temperature=None, block=32)
    assert ours.tolist() == expected.tolist()


def test_weighted_knn_is_the_formula() -> None:
    bank, labels = blobs(60, 0, 1.5)
    queries, _ = blobs(20, 1, 1.5)
    k, temperature = 7, 0.1
    for query, predicted in zip(queries, knn_predict(bank, labels, queries, k=k, temperature=temperature), strict=True):
        cosine = torch.cosine_similarity(query.double()[None], bank.double())
        nearest = sorted(range(len(bank)), key=lambda i: -float(cosine[i]))[:k]
        votes = [sum(float((cosine[i] / temperature).exp()) for i in nearest if labels[i] == c) for c in range(3)]
        assert votes[int(predicted)] == pytest.approx(max(votes))


def test_probe_separates_what_is_separable_and_not_noise() -> None:
    assert probe_accuracy(Features(*blobs(300, 0, 0.2), *blobs(100, 1, 0.2))) == 1.0
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(300, 4, generator=generator), torch.randint(4, (300,), generator=generator)]
    assert probe_accuracy(Features(*noise, *(x.flip(0)[:200] for x in [noise[0] * 0 + 1, noise[1]]))) < 0.5


def test_probe_scores_the_test_labels_only() -> None:
    train, (points, truth) = blobs(300, 0, 0.2), blobs(100, 1, 0.2)
    right = probe_accuracy(Features(*train, points, truth))
    assert probe_accuracy(Features(*train, points, (truth + 1) % 3)) == pytest.approx(1 - right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be between 1 and the 30 images"),
        ({"k": 31}, "k must be between 1 and the 30 images"),
        ({"queries": torch.zeros(5, 3)}, "bank and queries must be"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"labels must be int64 \[30\]"),
        ({"labels": torch.full((30,), -1)}, "labels must be known"),
    ],
)
def test_knn_refuses(change: dict[str, object], message: str) -> None:
    bank, labels = blobs(30, 0, 1.0)
    arguments = {"bank": bank, "labels": labels, "queries": bank[:5], "k": 3} | change
    with pytest.raises(ValueError, match=message):
        knn_predict(**arguments)


def test_probe_refuses_a_single_class() -> None:
    points, _ = blobs(30, 0, 1.0)
    zeros = torch.zeros(30, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        probe_accuracy(Features(points, zeros, points, zeros))
    with pytest.raises(ValueError, match="l2 must be a positive number, got 0"):
        probe_accuracy(Features(*blobs(30, 0, 1.0), *blobs(30, 0, 1.0)), l2=0)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_extraction_leaves_the_encoder_and_its_modes_alone() -> None:
    encoder = Net()
    encoder[2].eval()  # a mode that a plain .train() afterwards would lose
    before, modes = state_hash(encoder), [m.training for m in encoder.modules()]
    images = torch.randint(256, (10, 32, 32, 3), dtype=torch.uint8)
    config = AugmentConfig.cifar(32)
    features = extract_features(encoder, images, config, batch_size=4)
    assert state_hash(encoder) == before and [m.training for m in encoder.modules()] == modes
    assert not features.requires_grad
    expected = encoder.eval()(images.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(features, expected.detach(), atol=1e-5, rtol=1e-5)


def test_frozen_catches_a_probe_that_updates_batch_norm() -> None:
    encoder = Net()
    with pytest.raises(RuntimeError, match="must stay unchanged"), frozen(encoder):
        encoder.train()
        encoder(torch.randn(4, 3, 8, 8))


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
    ours = extract_features(nn.Flatten(), ragged, config)
    for picture, feature in zip(pictures, ours, strict=True):
        centre = TF.center_crop(picture.permute(2, 0, 1).float() / 255, [56, 56])  # 87.5% of the shorter side
        expected = TF.resize(centre, [48, 48], antialias=True)
        torch.testing.assert_close(feature.view(3, 48, 48), expected, atol=5e-5, rtol=0)


def test_small_images_are_seen_whole() -> None:
    crop = evaluation_params(torch.tensor([[32, 32]]), 32).packed[0, 0, :4]
    assert crop.tolist() == [0, 0, 32, 32]


def test_knn_accuracy_counts_right_predictions() -> None:
    features = Features(torch.eye(2), torch.tensor([0, 1]), torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 1, 1]))
    assert knn_accuracy(features, k=1) == 0.75
