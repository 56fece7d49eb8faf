"""Recall between images and texts against brute force in float64, torchmetrics, and cases known by thought."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_hit_rate

from fastclr.evaluate import retrieval
from fastclr.evaluate.retrieval import retrieve


def made(images: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings of images and texts, owners and ids; images 1 and 4 are equal, and so are several texts."""
    generator = torch.Generator().manual_seed(seed)
    owners = torch.arange(images).repeat_interleave(each)[torch.randperm(images * each, generator=generator)]
    pictures = torch.randn(images, 16, generator=generator)
    pictures[4] = pictures[1]
    image_ids = torch.randperm(images, generator=generator) + 7
    image_ids[4] = image_ids[1]
    text_ids = torch.randint(0, images * each // 2, (len(owners),), generator=generator) - 50
    words = torch.randn(images * each, 16, generator=generator)[text_ids + 50]
    return pictures + 0.2 * torch.randn(1, 16, generator=generator), words, owners, image_ids, text_ids


def brute(
    images: Tensor, texts: Tensor, owners: Tensor, image_ids: Tensor, text_ids: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines in float64 and which pairs are right, from the definition, both ``[N, M]``."""
    x, t = images.double().numpy(), texts.double().numpy()
    x, t = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, t))
    right = np.zeros((len(x), len(t)), dtype=bool)
    captions = [(int(image_ids[owner]), int(text)) for owner, text in zip(owners.tolist(), text_ids, strict=True)]
    for i, j in itertools.product(range(len(x)), range(len(t))):
        right[i, j] = (int(image_ids[i]), int(text_ids[j])) in captions
    return x @ t.T, right


def rank(cosines: np.ndarray, right: np.ndarray) -> int:
    """Return the place of the first right item when wrong ones come first among equals."""
    order = sorted(range(len(cosines)), key=lambda item: (-cosines[item], right[item]))
    return 1 + sum(not right[item] for item in order[: [right[item] for item in order].index(True)])


@pytest.mark.parametrize("blocks", [(1024, 16384), (5, 7), (1, 1)])
@pytest.mark.parametrize("each", [1, 3])
def test_against_brute_force(each: int, blocks: tuple[int, int]) -> None:
    """Recall, median and numbers of both directions, whatever the blocks."""
    images, texts, owners, image_ids, text_ids = made(23, each)
    by_image, by_text = retrieve(
        images, 3 * texts, owners, image_ids=image_ids, text_ids=text_ids, block=blocks[0], item_block=blocks[1]
    )
    cosines, right = brute(images, texts, owners, image_ids, text_ids)
    for found, similar, good in ((by_image, cosines, right), (by_text, cosines.T, right.T)):
        ranks = np.array([rank(row, hits) for row, hits in zip(similar, good, strict=True)])
        assert found.recall == {k: pytest.approx((ranks <= k).mean(), abs=1e-12) for k in (1, 5, 10)}
        assert found.median_rank == np.median(ranks) and (found.queries, found.items) == similar.shape
    assert right.sum() > len(texts) and by_image.recall[1] < 1


def test_against_torchmetrics() -> None:
    """Its hit rate of each query, where equal captions are marked as right."""
    images, texts, owners, image_ids, text_ids = made(30, 2, seed=1)
    found, _ = retrieve(images, texts, owners, image_ids=image_ids, text_ids=text_ids, ks=(1, 3, 20))
    cosines, right = brute(images, texts, owners, image_ids, text_ids)
    for k, value in found.recall.items():
        hits = [
            float(retrieval_hit_rate(torch.from_numpy(row), torch.from_numpy(good), top_k=k))
            for row, good in zip(cosines, right, strict=True)
        ]
        # wrong items before the first right one decide in both: a further right item takes no place before it
        assert value == pytest.approx(np.mean(hits), abs=1e-9)


def test_equal_captions_and_equal_images_are_right() -> None:
    """Without ids the copies are wrong answers that come first; with ids they are right ones."""
    images = torch.eye(3)[[0, 1, 2, 0]]
    texts = torch.eye(3)[[0, 1, 2, 0]]
    owners = torch.arange(4)
    ids = torch.tensor([5, 6, 7, 5])
    for given, expected in (({}, 0.5), ({"image_ids": ids}, 1.0), ({"text_ids": ids}, 1.0)):
        assert [side.recall[1] for side in retrieve(images, texts, owners, **given)] == [expected] * 2
    # a text that two different images share is right for both, but not for an equal text's owner's other captions
    texts, owners, text_ids = torch.tensor([[1.0, 0], [0, 1], [1, 0]]), torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    by_image, _ = retrieve(torch.tensor([[1.0, 0], [0, 1]]), texts, owners, text_ids=text_ids)
    assert by_image.recall[1] == 0.5 and by_image.median_rank == 1.5


def test_collapsed_embeddings_find_nothing() -> None:
    """Where everything is alike, a wrong item is as near as the right one, and counts as before it."""
    for side in retrieve(torch.ones(20, 4), torch.ones(20, 4), torch.arange(20)):
        assert side.recall == {1: 0.0, 5: 0.0, 10: 0.0} and side.median_rank == 20


def test_chance_is_that_of_random_orders() -> None:
    """Against a count over random permutations, and the whole set always holds a right item."""
    images, texts, owners, _, text_ids = made(12, 2)
    found, _ = retrieve(images, texts, owners, text_ids=text_ids, ks=(1, 4, 24, 99))
    _, right = brute(images, texts, owners, torch.arange(12), text_ids)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(24) for _ in range(4000)]
    for k in (1, 4):
        hits = np.mean([right[:, order[:k]].any(axis=1).mean() for order in orders])
        assert found.chance[k] == pytest.approx(hits, abs=0.01)
    assert found.chance[24] == found.chance[99] == found.recall[24] == 1.0


def test_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product has at most block x item_block elements."""
    shapes: list[tuple[int, int]] = []
    original = retrieval.is_related

    def watched(rows: Tensor, columns: Tensor, pairs: Tensor) -> Tensor:
        shapes.append((len(rows), len(columns)))
        return original(rows, columns, pairs)

    monkeypatch.setattr(retrieval, "is_related", watched)
    retrieve(torch.randn(50, 8), torch.randn(50, 8), torch.arange(50), block=20, item_block=30)
    assert max(rows for rows, _ in shapes) == 20 and max(columns for _, columns in shapes) == 30


def test_refusals() -> None:
    """Shapes, ids, owners and numbers that do not fit are named."""
    x, t, owners = torch.randn(3, 4), torch.randn(3, 4), torch.arange(3)
    for arguments, options, message in (
        ((x, t[:, :2], owners), {}, r"must be \[N, D\], \[M, D\], got \(3, 4\), \(3, 2\)"),
        ((x, t, owners.int()), {}, r"owners must be int64 \[3\], got torch.int32 \[3\]"),
        ((x, t, owners), {"text_ids": owners[:1]}, r"text_ids must be int64 \[3\], got torch.int64 \[1\]"),
        ((x, t, owners + 1), {}, r"owners must be in 0 .. 2, got 1 .. 3"),
        ((x, t, owners * 0), {}, "every image must have a text, and image 1 has none"),
        ((x, t, owners), {"ks": (0,)}, r"ks must be one or more numbers of at least 1, got \[0\]"),
        ((x * torch.nan, t, owners), {}, "features must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieve(*arguments, **options)  # type: ignore[arg-type]
