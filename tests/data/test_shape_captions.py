"""Captions of the shapes against what is measured in the pictures."""

from __future__ import annotations

import colorsys
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fastclr.data import CaptionOptions, load_splits, make_shapes, shapes
from fastclr.data.pixel_source import PixelSource
from fastclr.data.shape_captions import HUES, LEAST_CHROMA, SIZES


def test_words_say_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind, size, colour and place of discs are those of the pixels that the shape changes, but for close calls."""
    size, count = 48, 640
    splits = make_shapes(count, 8, size, captions=True)
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "coverage", lambda *arguments: np.zeros((1, 1, 1)))
        grounds = make_shapes(count, 8, size).train.images
    images, captions = splits.train.images, splits.train.captions
    assert isinstance(images, Tensor) and isinstance(grounds, Tensor) and captions is not None
    checked: Counter[str] = Counter()
    for row in range(2, count, len(shapes.SHAPES)):
        (text,) = captions[row]
        start, _, where = text.partition(", ")
        word, colour, kind = start.split()
        assert kind == "disc" == splits.train.classes[int(splits.train.labels[row])]
        inside = (images[row].int() - grounds[row].int()).abs().amax(dim=-1) > 12
        y, x = ((inside.nonzero().float().mean(dim=0) + 0.5) / size).tolist()
        radius = math.sqrt(int(inside.sum()) / math.pi) / size / 0.82
        third = (radius - 0.24) / 0.2 * 3
        if abs(third - round(third)) > 0.15:
            assert word == SIZES[int(third)], (text, radius)
            checked["size"] += 1
        if all(abs(place - edge) > 0.02 for place in (x, y) for edge in (0.45, 0.55)):
            rows = "top" if y < 0.45 else "bottom" if y > 0.55 else ""
            columns = "left" if x < 0.45 else "right" if x > 0.55 else ""
            assert where == (f"{rows} {columns}".strip() or "centre"), (text, x, y)
            checked["place"] += 1
        middle = images[row, round(y * size - 2) : round(y * size + 2), round(x * size - 2) : round(x * size + 2)]
        rgb = (middle.float().mean(dim=(0, 1)) / 255).tolist()
        chroma, hue = max(rgb) - min(rgb), colorsys.rgb_to_hsv(*rgb)[0] * 6
        if abs(chroma - LEAST_CHROMA) > 0.05 and abs(hue - round(hue)) < 0.35:
            assert colour == ("grey" if chroma < LEAST_CHROMA else HUES[round(hue) % 6]), (text, rgb)
            checked["colour"] += 1
    assert min(checked.values()) > 30 and len(checked) == 3


def test_captions_change_nothing_else() -> None:
    """`load_splits` has them where they are asked for; images, ids and labels are the same. Docs state the counts."""
    few, bare = (make_shapes(16, captions=captions) for captions in (True, False))
    with_captions = load_splits("shapes", captions="auto")
    assert few.train.image_fingerprint == bare.train.image_fingerprint and bare.train.captions is None
    assert with_captions.train.captions is not None and few.train.captions == with_captions.train.captions[:16]
    assert with_captions.test is not None
    train, test = ({text for (text,) in each.captions or ()} for each in (with_captions.train, with_captions.test))
    assert (len(train), len(test), len(test - train)) == (1374, 722, 62)


def test_pixels_without_captions_are_refused() -> None:
    """A table is for files, and arrays have none."""
    source = PixelSource("shapes", make_shapes(8, 8, captions=True))
    assert source.captioned(CaptionOptions()) is source
    with pytest.raises(ValueError, match=r"captions='t\.csv' cannot be had for shapes, which holds pixels"):
        source.captioned(CaptionOptions("t.csv"))
    with pytest.raises(ValueError, match=r"4 of the 4 images of the tuple .* have no caption"):
        load_splits((torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)), captions="auto")


KNOWN = {
    "": 0.17,
    "shape": 1.36,
    "shape colour": 9.34,
    "shape size place": 32.20,
    "shape colour place": 63.46,
    "shape colour size place": 100.0,
}


def test_upper_bounds_of_docs() -> None:
    """Recall@1 of a model that knows some of the words: the share of right captions among those that it cannot tell."""
    test = make_shapes(8, 1000, captions=True).test
    assert test is not None and test.captions is not None
    texts = [text for (text,) in test.captions]
    parts = ("size", "colour", "shape", "place")
    words = [dict(zip(parts, text.replace(",", "").split(None, 3), strict=True)) for text in texts]
    equal = Counter(texts)
    for known, expected in KNOWN.items():
        keys = [tuple(row[name] for name in known.split()) for row in words]
        alike = Counter(keys)
        shares = [equal[text] / alike[key] for text, key in zip(texts, keys, strict=True)]
        assert 100 * sum(shares) / len(shares) == pytest.approx(expected, abs=0.005)
    assert sum(1 / equal[text] for text in texts) / len(texts) == pytest.approx(0.722)
