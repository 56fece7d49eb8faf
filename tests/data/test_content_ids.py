"""Ids of content: equal exactly where the content is, and the same for one tensor and for ragged images."""

from __future__ import annotations

import numpy as np
import torch

from fastclr.augment.images import RaggedImages
from fastclr.data.content_ids import factors, image_ids, text_ids


def equal_pairs(ids: torch.Tensor) -> set[tuple[int, int]]:
    """Return the pairs of rows with one id."""
    return {(i, j) for i in range(len(ids)) for j in range(i) if ids[i] == ids[j]}


def test_texts_have_one_id_where_their_tokens_agree() -> None:
    """The partition is that of NumPy's comparison of whole rows, and the value that of the formula in Python's ints."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (400, 4)))
    tokens[7] = tokens[3] + 2**20
    ids = text_ids(tokens)
    _, groups = np.unique(tokens.numpy(), axis=0, return_inverse=True)
    assert equal_pairs(ids) == equal_pairs(torch.from_numpy(groups.reshape(-1)))
    weights = [int(w) for w in factors(4)]
    for row, found in zip(tokens.tolist(), ids.tolist(), strict=True):
        assert (sum(w * x for w, x in zip(weights, row, strict=True)) - found) % 2**64 == 0
    assert text_ids(tokens[:0]).shape == (0,)


def test_padding_is_told_apart() -> None:
    """One changed token, wherever it stands, changes the id, also beside zeros."""
    tokens = torch.eye(77, dtype=torch.int64) * 49407
    assert len(set(text_ids(tokens).tolist())) == 77


def test_images_have_one_id_where_their_pixels_agree() -> None:
    """Copies agree; one level of one channel, another shape of the same bytes, and more rows of black do not."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 5, 7, 3), dtype=torch.uint8, generator=generator)
    images[4] = images[1]
    images[5] = images[2]
    images[5, 4, 6, 2] ^= 128
    ids = image_ids(images)
    assert equal_pairs(ids) == {(4, 1)}
    flat = images.reshape(-1)
    offsets = torch.arange(6) * 105
    ragged = RaggedImages(flat, offsets, torch.tensor([[5, 7]] * 6))
    assert torch.equal(image_ids(ragged), ids)
    assert torch.equal(image_ids(ragged.select(torch.tensor([3, 1]))), ids[[3, 1]])
    turned = RaggedImages(flat, offsets, torch.tensor([[7, 5]] * 6))
    assert not set(image_ids(turned).tolist()) & set(ids.tolist())
    shapes = torch.tensor([[8, 8], [8, 9], [8, 8]])
    black = RaggedImages(torch.zeros(400, dtype=torch.uint8), torch.tensor([0, 0, 3]), shapes)
    assert equal_pairs(image_ids(black)) == {(2, 0)}


def test_images_in_parts_are_as_whole() -> None:
    """A view that does not begin at a whole word, and a batch that is not contiguous, have the ids of a copy."""
    base = torch.randint(0, 256, (5, 9, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for part in (base[1:], base[:, 1:, 2:], base[:, :, :, 1:].expand(5, 9, 9, 2).repeat(1, 1, 2, 1)[..., :2]):
        chosen = part if part.shape[-1] == 3 else torch.cat([part, part[..., :1]], dim=-1)
        assert torch.equal(image_ids(chosen), image_ids(chosen.clone()))
    assert image_ids(base[:0]).shape == (0,)
