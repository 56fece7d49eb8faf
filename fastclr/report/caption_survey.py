"""What the captions of a source are: how many, how different, how long, and which images have none."""

from __future__ import annotations

from dataclasses import dataclass

from fastclr.data.file_source import FileSource
from fastclr.data.image_source import ImageSource
from fastclr.data.pixel_source import PixelSource
from fastclr.report.spread import Spread, spread
from fastclr.sources.captions import NO_CAPTION

Named = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaptionSurvey:
    """The captions of all splits.

    Args:
        captions: their number.
        different: number of different ones.
        per_image: spread of the number of captions of an image.
        words: spread of the number of words of a caption.
        without: ``(name, reason)`` of the images that have none that can be used.
    """

    captions: int
    different: int
    per_image: Spread
    words: Spread
    without: Named


def survey_captions(source: ImageSource) -> CaptionSurvey | None:
    """Return what the captions of an opened source are; None if they were not asked for."""
    found: list[tuple[str, ...]] = []
    without: Named = ()
    if isinstance(source, FileSource):
        found = [entry.captions for group in source.groups.values() for entry in group if entry.captions]
        without = source.contents.uncaptioned or ()
    elif isinstance(source, PixelSource):
        found = [captions for dataset in source.datasets.values() for captions in dataset.captions or ()]
        left_out = [item for dataset in source.datasets.values() for item in dataset.skipped]
        without = tuple((name, reason) for name, reason in left_out if reason.startswith(NO_CAPTION))
    if not found:
        return None
    texts = [text for captions in found for text in captions]
    words = spread(len(text.split()) for text in texts)
    return CaptionSurvey(len(texts), len(set(texts)), spread(map(len, found)), words, without)
