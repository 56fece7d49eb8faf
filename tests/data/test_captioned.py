"""Captions in batches: the same in every loader, a function of (seed, epoch, id), and kept with their images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_cases import encode, photo
from torch import Tensor

from fastclr.data import Batch, ImageDataset, Order, load_splits, make_loader
from fastclr.data.content_ids import text_ids

COUNT = 24
LENGTH = 12


def letters(texts: Sequence[str]) -> Tensor:
    """Return a token a byte, int64 ``[n, LENGTH]``, padded with zeros."""
    rows = [list(text.encode()[:LENGTH]) for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows]).reshape(len(texts), LENGTH)


def text_of(row: Tensor) -> str:
    """Return the text of a row of tokens."""
    return bytes(row[row > 0].tolist()).decode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures with one to three captions; number 20 has the pixels of number 4, number 21 cannot be decoded."""
    for number in range(COUNT):
        pixels = 4 if number == 20 else number
        content = encode(photo(pixels, 20 + pixels % 3, 30), "PNG")
        (tmp_path / f"{number:02d}.png").write_bytes(content[:-40] if number == 21 else content)
        texts = [f"{number}-{which}" for which in range(1 + number % 3)]
        (tmp_path / f"{number:02d}.json").write_text(json.dumps({"caption": texts}))
    return tmp_path


def batches(source: Path, kind: str, order: Order, epoch: int, start: int = 0) -> list[Batch]:
    """Return the batches of an epoch."""
    train = load_splits(source, holdout=0, captions="auto", loader=kind).train  # type: ignore[arg-type]
    with closing(make_loader(train, kind, order, workers=1, tokenize=letters)) as loader:  # type: ignore[arg-type]
        return list(loader.epoch(epoch, start))


def texts(found: list[Batch]) -> list[tuple[int, str]]:
    """Return id and text of all images."""
    rows = [(batch.ids.tolist(), batch.texts) for batch in found]
    return [
        (key, text_of(row)) for ids, tokens in rows if tokens is not None for key, row in zip(ids, tokens, strict=True)
    ]


def drawn(seed: int, epoch: int, key: int) -> str:
    """Return the caption of an image by the formula."""
    words = np.random.Philox(key=np.array([seed, 2**63 + epoch], dtype=np.uint64)).random_raw(key + 1)
    return f"{key}-{int(words[key]) % (1 + key % 3)}"


@pytest.mark.filterwarnings("ignore:.*21.png.*is left out:RuntimeWarning")
@pytest.mark.parametrize("kind", ["resident", "dali", "torch"])
def test_every_loader_shows_the_drawn_caption(kind: str, source: Path) -> None:
    """Each image has the caption of the formula, in every epoch, also where an unreadable image was replaced."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastclr[dali]'")
    order = Order(6, seed=3)
    seen: dict[int, set[str]] = {}
    for epoch in range(4):
        found = batches(source, kind, order, epoch)
        for key, text in texts(found):
            assert text == drawn(3, epoch, key)
            seen.setdefault(key, set()).add(text)
        for batch in found:
            assert batch.texts is not None and batch.text_ids is not None and batch.image_ids is not None
            assert torch.equal(batch.text_ids, text_ids(letters([text for _, text in texts([batch])])))
    assert any(len(shown) > 1 for shown in seen.values())
    assert texts(batches(source, kind, order, 3, start=2)) == texts(batches(source, kind, order, 3))[12:]


@pytest.mark.filterwarnings("ignore:.*21.png.*is left out:RuntimeWarning")
def test_copies_of_an_image_have_one_image_id(source: Path) -> None:
    """Numbers 4 and 20 are one picture under two ids, in the resident and in a streaming loader alike."""
    for kind in ("resident", "torch"):
        ids: dict[int, int] = {}
        for batch in batches(source, kind, Order(8, drop_last=False), 0):
            assert batch.image_ids is not None
            ids |= dict(zip(batch.ids.tolist(), batch.image_ids.tolist(), strict=True))
        assert ids[4] == ids[20] and set(Counter(ids.values()).values()) == {1, 2} and len(set(ids.values())) == 22


def test_ranks_share_the_texts_of_one_process(source: Path) -> None:
    """Two ranks together see what one process with twice the batch sees."""
    alone = texts(batches(source, "resident", Order(8, seed=1), 2))
    parts = [
        [texts([batch]) for batch in batches(source, "resident", Order(4, seed=1, rank=rank, world_size=2), 2)]
        for rank in range(2)
    ]
    assert [pair for step in zip(*parts, strict=True) for part in step for pair in part] == alone


def test_captions_stay_with_their_images(source: Path, tmp_path: Path) -> None:
    """Selections and the cache keep them, the fingerprint tells them apart, and a set without is refused."""
    cache = tmp_path / "cache"
    first, second = (load_splits(source, holdout=0.2, captions="auto", cache=cache) for _ in range(2))
    bare = load_splits(source, holdout=0.2, cache=cache).train
    assert len(list(cache.iterdir())) == 2 and second.train.captions == first.train.captions is not None
    assert first.test is not None and second.test is not None and second.test.captions == first.test.captions
    assert first.train.fingerprint == second.train.fingerprint
    train = first.train
    chosen = train.select(torch.tensor([5, 0]))
    assert train.captions and chosen.captions == (train.captions[5], train.captions[0])
    other = replace(train, captions=tuple(("x",) for _ in range(len(train))))
    assert other.image_fingerprint == train.image_fingerprint and other.fingerprint != train.fingerprint
    assert replace(train, captions=None).fingerprint == train.fingerprint.rpartition("-")[0]
    with pytest.raises(ValueError, match=r"was loaded without captions: load it with captions='auto'"):
        make_loader(bare, "auto", Order(4), tokenize=letters)
    assert isinstance(train, ImageDataset)
    with pytest.raises(ValueError, match="captions must have 2 entries, got 1"):
        replace(chosen, captions=(("x",),))
    with pytest.raises(ValueError, match="captions must hold at least one for each image, got none for row 1"):
        replace(chosen, captions=(("x",), ()))


def test_tokenizers_that_do_not_fit(source: Path) -> None:
    """Other types and shapes than int64 [n, L] are named at the first batch."""
    train = load_splits(source, holdout=0, captions="auto").train
    for tokenize, error, message in (
        (lambda texts: letters(texts).int(), TypeError, r"must return an int64 tensor, got torch.int32"),
        (lambda texts: [[1]] * len(texts), TypeError, r"must return an int64 tensor, got list"),
        (lambda texts: letters(texts)[1:], ValueError, r"must return \[8, 12\], got \[7, 12\]"),
    ):
        with pytest.raises(error, match=message):
            next(make_loader(train, "auto", Order(8), tokenize=tokenize).epoch(0))  # type: ignore[arg-type]
