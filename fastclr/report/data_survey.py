"""What a source of images holds: counts, sizes, damage, copies."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sized
from dataclasses import dataclass, field, replace
from functools import singledispatch
from pathlib import Path
from typing import TypeVar

from fastclr.data.decode_many import DecodeOptions
from fastclr.data.file_source import FileSource, labelled
from fastclr.data.image_source import ImageSource
from fastclr.data.in_flight import work_in_order
from fastclr.data.open_source import open_source
from fastclr.data.pixel_source import PixelSource, image_at
from fastclr.device import available_cores
from fastclr.report.caption_survey import CaptionSurvey, survey_captions
from fastclr.report.spread import Spread, spread
from fastclr.sources import deep
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.decode import FORMATS, decode_image, pillow, resized
from fastclr.sources.entries import TEST_SPLITS, Entry
from fastclr.sources.folder import Files, other_suffixes
from fastclr.sources.label_file import read_labels
from fastclr.sources.printable import progress_bar
from fastclr.sources.reading import AS_RGB, Reading
from fastclr.sources.remarks import quiet_pillow

Result = TypeVar("Result")
DECODED_PIXELS = 2 * 10**10  # at most decoded to find damage: 100,000 photos of 500 x 400
SAMPLES_SHARE = 8  # they may take this part of the memory
SAMPLES = 256  # images used to measure the speed of decoding
HELD_OUT = "a part of every class of train (--holdout)"
HELD_OUT_OF_ALL = "a part of train (--holdout)"
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class SplitSurvey:
    """One split.

    Args:
        images: number of readable images.
        unlabelled: how many of them are of unknown class.
        classes: number of images of each class.
        per_class: spread of these counts; None without classes.
    """

    images: int
    unlabelled: int
    classes: dict[str, int]
    per_class: Spread | None


@dataclass(frozen=True)
class Copies:
    """Exact copies.

    Args:
        of: what was compared: `files` byte by byte, or `pixels`.
        images: number of images that are equal to an earlier one.
        shared_with_train: for each other split, the number of its images that are also in the training split.
    """

    of: str
    images: int
    shared_with_train: dict[str, int]


@dataclass(frozen=True)
class Survey:
    """What a source holds; the same for the same source on every machine.

    Args:
        source: what was surveyed.
        splits: its splits by name.
        test_images: where pretraining would get its test images from.
        held_out: whether it would hold them out of the training images.
        height: of the readable images, in pixels as stored.
        width: the same.
        formats: number of images of each file format; empty if the source holds pixels, not files.
        grey: number of images without colour channels.
        cmyk: number of images in CMYK.
        unreadable: ``(name, reason)`` of image files that cannot be used.
        not_read: ``(name, reason)`` of links, pipes and the like.
        decoded: number of images that were decoded to find damage; of the others, only the header was read.
        all_decoded: whether every image was decoded.
        copies: exact copies.
        decoded_bytes: size of all readable images as pixels, after `resize_shorter`.
        resize_shorter: what the shorter side is reduced to; None for no change.
        other_files: number of files that are no images by their suffix, by suffix; ``none`` without one.
        captions: what the captions are, if they were asked for; images without one are not counted above.
    """

    source: str
    splits: dict[str, SplitSurvey]
    test_images: str
    held_out: bool
    height: Spread
    width: Spread
    formats: dict[str, int]
    grey: int
    cmyk: int
    unreadable: tuple[tuple[str, str], ...]
    not_read: tuple[tuple[str, str], ...]
    decoded: int
    all_decoded: bool
    copies: Copies
    decoded_bytes: int
    resize_shorter: int | None
    other_files: dict[str, int] = field(default_factory=dict)
    captions: CaptionSurvey | None = None

    @property
    def images(self) -> int:
        """Number of readable images."""
        return sum(split.images for split in self.splits.values())


@dataclass(frozen=True)
class Facts:
    """What is known of one image: its split and class, its size, its kind, and a digest of its content."""

    split: str
    kind: str | None
    height: int
    width: int
    format: str
    mode: str
    digest: bytes


def survey(
    source: str | Path | Sized,
    *,
    labels: str | Path | None = None,
    resize_shorter: int | None = None,
    memory_limit: int | None = None,
    follow_links: str | Path | None = None,
    reading: Reading = AS_RGB,
    captions: str | CaptionOptions | None = None,
) -> tuple[Survey, list[bytes]]:
    """Examine every image of `source`.

    Every file is read. Images are decoded to find damage: all of them up to 20 billion pixels, evenly spaced ones in
    larger sets. On a terminal, a progress bar is shown.

    Args:
        source: as in :func:`fastclr.data.load_splits`; names of published data sets must be looked up before.
        labels: CSV file with the classes.
        resize_shorter: estimate the memory that the images take after this reduction of the shorter side.
        memory_limit: bytes that images may take; None is half of the free memory. One that takes more than a quarter of
            them is unreadable here as in training.
        follow_links: symbolic links are followed that lead into this folder.
        reading: number of channels, and what becomes of more than 8 bits.
        captions: where the captions are, as in :func:`fastclr.data.load_splits`.

    Returns:
        The survey, and up to 256 evenly spaced images as they are stored, to measure how fast they decode.

    Raises:
        ValueError: there is no such source, it has no image, or none that can be read.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    mapping = None if labels is None else read_labels(labels, source if isinstance(source, (str, Path)) else None)
    options = DecodeOptions(resize_shorter, memory_limit, reading=reading.within(None))
    where = CaptionOptions(captions) if isinstance(captions, str) else captions
    opened = open_source(source, options, follow_links, where)
    found, samples = survey_images(opened if mapping is None else opened.relabelled(mapping), options)
    return replace(found, captions=survey_captions(opened)), samples


@singledispatch
def survey_images(source: ImageSource, options: DecodeOptions) -> tuple[Survey, list[bytes]]:
    """Survey an opened source; each kind of source registers its own function.

    Raises:
        TypeError: this kind of source has none.
    """
    raise TypeError(f"source must be of a kind that can be surveyed, got {type(source).__name__}")


@survey_images.register
def survey_pixels(source: PixelSource, options: DecodeOptions) -> tuple[Survey, list[bytes]]:
    """Survey images that are pixels already; `options` do not apply to them."""
    facts = []
    for name, dataset in source.datasets.items():
        for row, label in enumerate(dataset.labels.tolist()):
            image = image_at(dataset, row)
            kind = None if label < 0 else dataset.classes[label]
            digest = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()
            facts.append(Facts(name, kind, image.shape[0], image.shape[1], "", "RGB", digest))
    test = "the test split" if "test" in source.datasets else "none"
    return summarize(source.name, facts, test, "pixels"), []


@survey_images.register
def survey_files(source: FileSource, options: DecodeOptions) -> tuple[Survey, list[bytes]]:
    """Survey image files: read the header and content of each, and decode as many as `DECODED_PIXELS` allows."""
    files, groups = source.contents.files, source.groups
    pillow()
    in_flight, samples = options.in_flight(), options.budget() // SAMPLES_SHARE
    entries = {entry.path: (split, entry) for split, group in groups.items() for entry in group}
    facts: dict[str, Facts] = {}
    bad: dict[str, str] = {}

    def look(path: str, data: bytes) -> Facts:
        split, entry = entries[path]
        return examine(split, entry.kind, data, options.reading)

    with quiet_pillow(files.source):
        for path, found in map_files(files, list(entries), look, "reading", in_flight):
            if isinstance(found, str):
                bad[path] = found
            else:
                facts[path] = found
        step = 1 + sum(fact.height * fact.width for fact in facts.values()) // DECODED_PIXELS
        chosen = [path for path in entries if path in facts][::step]
        kept = dict.fromkeys(evenly(chosen, SAMPLES), b"")
        held = 0

        def decode(path: str, data: bytes) -> bytes:
            decode_image(data, reading=options.reading)
            return data if path in kept else b""

        for path, content in map_files(files, chosen, decode, "decoding", in_flight):
            if isinstance(content, str):
                bad[path] = content
                del facts[path]
                kept.pop(path, None)
            elif path in kept:
                held += len(content)
                kept[path] = content if held <= samples else b""
    if not facts:
        listed = "; ".join(f"{path!a}: {reason}" for path, reason in sorted(bad.items())[:5])
        raise ValueError(f"none of the {len(bad)} images in {files.source} can be read: {listed}")
    ordered = [facts[path] for path in entries if path in facts]
    test = describe_test(groups, source.contents.captioned)
    result = summarize(files.source, ordered, test, "files", options.resize_shorter, options.reading.channels)
    unreadable = tuple(sorted(bad.items()))
    captionless = set(source.contents.uncaptioned or ())
    not_read = tuple(item for item in files.skipped if item not in captionless)
    result = replace(result, unreadable=unreadable, not_read=not_read, other_files=other_suffixes(files.names))
    return replace(result, decoded=len(chosen), all_decoded=step == 1), [
        content for content in kept.values() if content
    ]


def examine(split: str, kind: str | None, content: bytes, reading: Reading = AS_RGB) -> Facts:
    """Read the header and digest the content of an image file; raises whatever Pillow raises."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if (found := deep.facts(content, reading)) is not None:
        name, mode = deep.kind_of(content), "L" if found.channels == 1 else f"{found.channels} channels"
        return Facts(split, kind, found.height, found.width, name, mode, digest)
    with pillow().open(io.BytesIO(content), formats=FORMATS) as image:
        return Facts(split, kind, image.height, image.width, image.format or "", image.mode, digest)


def map_files(
    files: Files, paths: Collection[str], work: Callable[[str, bytes], Result], title: str, limit: int
) -> Iterator[tuple[str, Result | str]]:
    """Do `work` on files in several threads, holding `limit` bytes; yield results, or reasons why there are none."""
    with progress_bar(total=len(paths), desc=title, unit=" images") as bar:
        for path, result in work_in_order(files.stream(paths), work, limit, available_cores()):
            bar.update()
            yield path, result


def evenly(items: list[str], count: int) -> list[str]:
    """Return `count` of the items, evenly spaced, or all if there are fewer."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]


def describe_test(groups: dict[str, list[Entry]], captioned: bool = False) -> str:
    """Return where :func:`fastclr.data.load_splits` would take the test images from, in words."""
    if not labelled(groups["train"]) and not captioned:
        return "none: the training images are unlabelled"
    able = {name: group if captioned else labelled(group) for name, group in groups.items()}
    found = next((name for name in TEST_SPLITS if able.get(name)), None)
    if found is not None:
        return f"the folder {found}"
    return HELD_OUT if labelled(groups["train"]) else HELD_OUT_OF_ALL


def summarize(
    source: str, facts: list[Facts], test: str, of: str, resize_shorter: int | None = None, channels: int = 3
) -> Survey:
    """Return the counts and sizes of the images that `facts` describe."""
    splits = {}
    for name in dict.fromkeys(fact.split for fact in facts):
        kinds = [fact.kind for fact in facts if fact.split == name]
        classes = Counter(kind for kind in kinds if kind is not None)
        unlabelled = len(kinds) - classes.total()
        per_class = spread(classes.values()) if classes else None
        splits[name] = SplitSurvey(len(kinds), unlabelled, dict(sorted(classes.items())), per_class)
    pixels = [resized(fact.height, fact.width, resize_shorter) for fact in facts]
    return Survey(
        source=source,
        splits=splits,
        test_images=test,
        held_out=test in (HELD_OUT, HELD_OUT_OF_ALL),
        height=spread(fact.height for fact in facts),
        width=spread(fact.width for fact in facts),
        formats=dict(sorted(Counter(fact.format for fact in facts if fact.format).items())),
        grey=sum(fact.mode in GREY_MODES for fact in facts),
        cmyk=sum(fact.mode == "CMYK" for fact in facts),
        unreadable=(),
        not_read=(),
        decoded=len(facts),
        all_decoded=True,
        copies=find_copies(facts, of),
        decoded_bytes=sum(channels * height * width for height, width in pixels),
        resize_shorter=resize_shorter,
    )


def find_copies(facts: list[Facts], of: str) -> Copies:
    """Count images of equal content, and the images of each other split that are also in the training split."""
    train = {fact.digest for fact in facts if fact.split == "train"}
    others = dict.fromkeys((fact.split for fact in facts if fact.split != "train"), 0)
    for fact in facts:
        if fact.split != "train" and fact.digest in train:
            others[fact.split] += 1
    return Copies(of, len(facts) - len({fact.digest for fact in facts}), others)
