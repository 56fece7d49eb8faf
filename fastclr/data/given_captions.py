"""Captions in a list or array beside an array of images."""

from __future__ import annotations

from typing import Any

from fastclr.sources.captions import captions_of


def captions_beside(texts: Any, count: int, title: str) -> list[tuple[str, ...] | str]:
    """Return the captions of each of `count` images, or why one has none: a text, or a list of texts, for each.

    Raises:
        TypeError: there is one text for all.
        ValueError: these are more or fewer than the images.
    """
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__len__"):
        raise TypeError(f"the captions of {title} must be a list or an array, got {type(texts).__name__}")
    if len(texts) != count:
        raise ValueError(f"the captions of {title} must be {count}, one or a list for each image, got {len(texts)}")
    return [captions_of(value) for value in texts]
