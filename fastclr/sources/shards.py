"""Read WebDataset shards: tar archives in which the files of a sample are adjacent and share a key."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastclr.sources.byte_ranges import Encoded, Storage
from fastclr.sources.captions import CaptionOptions, attach, read_captions
from fastclr.sources.decode import image_size, is_image_name
from fastclr.sources.entries import TEST_SPLITS, Entry, Source, split_folders
from fastclr.sources.folder import LARGEST_SAMPLE, SAMPLE_EVERY, Files
from fastclr.sources.labels import as_label
from fastclr.sources.remote import is_address, matching
from fastclr.sources.tar import SUFFIXES, Place, archive_storage, member_image, members, open_tar

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_LABEL_BYTES = 2**24  # of a file with a label
FEW = 0.1  # share of samples with a fault that is theirs; where more have it, the fault is that of the whole set

Key = tuple[str, str]  # shard and key of a sample


@dataclass
class Found:
    """What one pass over the shards collects.

    Args:
        images: by path: the sample, and where the image is.
        labels: by sample: a number of at least -1, or the name of a class.
        unusable: by sample: why its label cannot be used.
        seconds: further images of a sample, and the one before them.
        sizes: height and width of some images.
        skipped: name and reason of what is left out.
        captions: by sample: the rank of the file with its captions, and these or why they cannot be used.
    """

    images: dict[str, tuple[Key, Place]] = field(default_factory=dict)
    labels: dict[Key, int | str] = field(default_factory=dict)
    unusable: dict[Key, str] = field(default_factory=dict)
    seconds: list[tuple[str, str]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    captions: dict[Key, tuple[int, tuple[str, ...] | str]] = field(default_factory=dict)


def is_pattern(path: str) -> bool:
    """Return whether a path has braces, stars or the like."""
    return any(character in path for character in "{*?[")


def expand(pattern: str) -> list[str]:
    """Return the paths that the braces of a pattern stand for, as in bash.

    ``a-{08..10}.tar`` is a-08.tar, a-09.tar, a-10.tar, and ``{a,b}.tar`` is a.tar, b.tar.

    Raises:
        ValueError: a range runs backwards, or braces hold neither a range nor a list.
    """
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    if numbers := RANGE.fullmatch(match[1]):
        first, last = numbers.groups()
        if int(first) > int(last):
            raise ValueError(f"the range {match.group()} of {pattern} runs backwards")
        # padded to the width of the first number, as in bash
        parts = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    elif "," in match[1]:
        parts = match[1].split(",")
    else:
        raise ValueError(f"{match.group()} of {pattern} must be a range, {{000..099}}, or a list, {{a,b}}")
    return [path for part in parts for path in expand(pattern[: match.start()] + part + pattern[match.end() :])]


def find_shards(pattern: str) -> Mapping[str, Path | str]:
    """Return the shards that a pattern names, keyed by their path relative to the folder of the pattern.

    Raises:
        ValueError: one of them does not exist, or there is none that a star could stand for.
    """
    if is_address(pattern):
        folder = re.split(r"[{*?[]", pattern)[0].rpartition("/")[0] + "/"
        addresses: list[str] = []
        for each in expand(pattern):
            listed = matching(each) if "*" in each else [each]
            if not listed:
                raise ValueError(f"there is no archive at {each}")
            addresses += listed
        return {path.removeprefix(folder): path for path in addresses}
    paths: list[Path] = []
    missing: list[str] = []
    for path in expand(pattern):
        found = sorted(glob.glob(path)) if is_pattern(path) else [path] * Path(path).is_file()
        paths += map(Path, found)
        missing += [] if found else [path]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(paths) + len(missing)} shards of {pattern} do not exist, the first is "
            f"{missing[0]}"
        )
    if odd := next((path for path in paths if not (path.is_file() and is_archive(path.name))), None):
        raise ValueError(f"{pattern} must name archives ({', '.join(SUFFIXES)}), and {odd} is none")
    top = Path(re.split(r"[{*?[]", pattern)[0] + "x").parent
    return {path.relative_to(top).as_posix(): path for path in paths}


def index_shards(shards: Mapping[str, Path | str], source: str, captions: CaptionOptions | None = None) -> Source:
    """List the samples of WebDataset shards.

    A sample is a run of files whose paths agree up to the first dot of the file name. Its first file with the suffix of
    an image is the image. Its label, a number or the name of a class, is in the ``.cls`` file, else it is ``"label"``
    in the ``.json`` file, else unknown. Classes are numbered if labels are numbers; if more than a tenth of them are
    names, all are names. Samples whose label cannot be used are left out. Samples are numbered across all shards:
    shards sorted by name, samples in the order in which they are stored. Folders ``train``, ``val`` and the like are
    splits as in a folder of images.

    Args:
        shards: paths or addresses of the archives by name, with ``/`` between folders.
        source: the folder, file or pattern they come from, for error messages.
        captions: which files of a sample have its captions; samples without are left out and named.

    Raises:
        ValueError: a shard is damaged, more than half of the labels or of the captions cannot be used, or more than a
            tenth of the images are further images of their sample.
    """
    names = sorted(shards)
    found = Found()
    for number, name in enumerate(names):
        read_shard(found, number, name, shards[name], captions)
    check_keys(found, source)
    classes = number_classes(found)
    check_labels(found, source)
    groups = {"train": names}
    if folders := split_folders({name.split("/")[0] for name in names if "/" in name}):
        groups = {
            split: [name for name in names if name.startswith(f"{folders[split]}/")]
            for split in ("train", *TEST_SPLITS)
            if split in folders
        }

    def stream(wanted: Collection[str]) -> Iterator[tuple[str, Encoded]]:
        remaining = set(wanted)
        for shard in names:
            with open_tar(shards[shard]) as archive:
                for member, name, refusal in members(archive):
                    path = f"{shard}/{name}"
                    if not refusal and path in remaining and (file := archive.extractfile(member)):
                        yield path, member_image(file, member.size)
                        remaining.remove(path)

    def storage(wanted: Sequence[str]) -> Storage:
        places = {path: place for path, (_, place) in found.images.items()}
        return archive_storage([shards[name] for name in names], places, wanted)

    files = Files(source, tuple(found.images), tuple(found.skipped), tuple(found.sizes), stream, storage)
    entries = {split: make_entries(found, folders.get(split), chosen) for split, chosen in groups.items()}
    listed = Source(files, {split: some for split, some in entries.items() if some}, classes)
    if captions is None:
        return listed
    none = f"its sample has no {' or '.join('.' + end for end in captions.suffixes)}"
    told = {path: found.captions.get(key, (0, none))[1] for path, (key, _) in found.images.items()}
    return attach(listed, told)


def read_shard(found: Found, number: int, shard: str, path: Path | str, captions: CaptionOptions | None = None) -> None:
    """Add the samples of a shard to ``found``."""
    last, first = "", ""
    texts = () if captions is None else captions.suffixes
    with open_tar(path) as archive:
        for member, name, refusal in members(archive):
            full = f"{shard}/{name}"
            if refusal:
                found.skipped.append((full, refusal))
                continue
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{folder}/{stem}"
            kind = suffix.lower()
            if kind in ("cls", "json", *texts) and (file := archive.extractfile(member)):
                content = file.read(MAX_LABEL_BYTES + 1)
                if kind in ("cls", "json"):
                    take_label(found, (shard, key), content, kind, full)
                if captions is not None and kind in texts:
                    take_captions(found, (shard, key), content, kind, full, captions)
            elif is_image_name(name):
                if key == last:
                    found.skipped.append((full, "second image of its sample"))
                    found.seconds.append((first, full))
                    continue
                last, first = key, full
                sampled = len(found.images) % SAMPLE_EVERY == 0 and member.size <= LARGEST_SAMPLE
                if sampled and (file := archive.extractfile(member)):
                    size = image_size(file)
                    found.sizes += [size] if size else []
                found.images[full] = ((shard, key), (number, member.offset_data, member.size))


def take_label(found: Found, sample: Key, content: bytes, suffix: str, name: str) -> None:
    """Add the label in a ``.cls`` or ``.json`` file to ``found``; a ``.cls`` counts before a ``.json``."""
    try:
        label = read_label(content, suffix)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        found.skipped.append((name, f"no label: {reason}"))
        if suffix == "cls" or sample not in found.labels:
            found.unusable[sample] = f"its label in {name} cannot be used: {reason}"
            found.labels.pop(sample, None)
        return
    if label is not None and (suffix == "cls" or (sample not in found.labels and sample not in found.unusable)):
        found.labels[sample] = label
        found.unusable.pop(sample, None)


def take_captions(found: Found, sample: Key, content: bytes, suffix: str, name: str, options: CaptionOptions) -> None:
    """Add the captions in a file of a sample to ``found``, unless it has some in a file that counts before this one."""
    rank = options.suffixes.index(suffix)
    if sample in found.captions and found.captions[sample][0] <= rank:
        return
    try:
        found.captions[sample] = rank, read_captions(content, suffix, options.key)
    except ValueError as error:
        found.captions[sample] = rank, f"{name!a}: {error}"


def read_label(content: bytes, suffix: str) -> int | str | None:
    """Return the label in a ``.cls`` or ``.json`` file, or None if a ``.json`` has no ``"label"``.

    Raises:
        ValueError: the file is empty, too large, no text, no JSON, or the label is neither a number nor a name.
        RecursionError: the JSON is nested too deeply.
    """
    if len(content) > MAX_LABEL_BYTES:
        raise ValueError(f"it is larger than {MAX_LABEL_BYTES} bytes")
    value: object = content.decode() if suffix == "cls" else json.loads(content)
    if suffix == "json":
        if not isinstance(value, dict) or "label" not in value:
            return None
        value = value["label"]
    return as_label(value)


def number_classes(found: Found) -> tuple[str, ...]:
    """Return the classes, and settle what the labels are: all numbers, or all names."""
    names = [sample for sample, label in found.labels.items() if isinstance(label, str)]
    if len(names) <= FEW * len(found.labels):
        for sample in names:
            found.unusable[sample] = f"its label {found.labels.pop(sample)!a} is a name, where the others are numbers"
        return tuple(str(number) for number in range(max(map(int, found.labels.values()), default=-1) + 1))
    return tuple(sorted({str(label) for label in found.labels.values() if label != -1}))


def check_keys(found: Found, source: str) -> None:
    """Raise ValueError if so many images are lost to a sample of the same key that the names must mean another one."""
    total = len(found.images) + len(found.seconds)
    if len(found.seconds) > FEW * total:
        first, second = found.seconds[0]
        raise ValueError(
            f"{len(found.seconds)} of the {total} images of {source} would be lost: the key of a sample is its path up "
            f"to the first dot of the file's name, so {first!a} and {second!a} are two images of one sample, of which "
            "only the first is read: name the files without further dots"
        )


def check_labels(found: Found, source: str) -> None:
    """Leave out the samples whose label cannot be used.

    Raises:
        ValueError: these are more than half.
    """
    unusable = [(path, found.unusable[key]) for path, (key, _) in found.images.items() if key in found.unusable]
    if 2 * len(unusable) > len(found.images):
        listed = "; ".join(f"{path!a}: {reason}" for path, reason in unusable[:5])
        raise ValueError(f"{len(unusable)} of {len(found.images)} labels in {source} cannot be used: {listed}")
    found.skipped += unusable


def make_entries(found: Found, folder: str | None, shards: list[str]) -> list[Entry]:
    """Return the entries of a split in the order of its samples; one that is left out keeps its number."""
    prefix = "" if folder is None else f"{folder}/"
    chosen = set(shards)
    entries: list[Entry] = []
    number = 0
    for path, (sample, _) in found.images.items():
        if sample[0] not in chosen:
            continue
        label = found.labels.get(sample, -1)
        if sample not in found.unusable:
            entries.append(Entry(path, path.removeprefix(prefix), number, None if label == -1 else str(label)))
        number += 1
    return entries


def is_shard_folder(files: Files) -> bool:
    """Return whether a folder holds archives and no images."""
    return any(is_archive(name) for name in files.names) and not any(is_image_name(name) for name in files.names)


def is_archive(name: str) -> bool:
    """Return whether ``name`` has the suffix of an archive."""
    return name.lower().endswith(SUFFIXES)
