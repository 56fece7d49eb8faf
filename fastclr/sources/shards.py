"""Read WebDataset shards: tar archives in which the files of a sample are adjacent and share a key."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastclr.sources.byte_ranges import Storage
from fastclr.sources.decode import image_size, is_image_name
from fastclr.sources.entries import TEST_SPLITS, Entry, Source
from fastclr.sources.folder import SAMPLE_EVERY, Files
from fastclr.sources.tar import SUFFIXES, Place, archive_storage, members, open_tar

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_CLASSES = 10**6


@dataclass
class Found:
    """What one pass over the shards collects."""

    images: dict[str, tuple[str, str, Place]] = field(default_factory=dict)  # path: (shard, key, place)
    labels: dict[tuple[str, str], int] = field(default_factory=dict)  # (shard, key): label
    sizes: list[tuple[int, int]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def expand(pattern: str) -> list[str]:
    """Return the paths that a pattern with ranges stands for: ``a-{08..10}.tar`` is a-08.tar, a-09.tar, a-10.tar.

    Raises:
        ValueError: a range runs backwards.
    """
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(first) > int(last):
        raise ValueError(f"the range {match.group()} of {pattern} runs backwards")
    # padded to the width of the first number, as in bash
    numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [path for number in numbers for path in expand(pattern[: match.start()] + number + pattern[match.end() :])]


def find_shards(pattern: str) -> dict[str, Path]:
    """Return the shards that a pattern names, keyed by their path relative to the folder of the pattern.

    Raises:
        ValueError: one of them does not exist.
    """
    paths = [Path(path) for path in expand(pattern)]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"{len(missing)} of the {len(paths)} shards of {pattern} do not exist, the first is {missing[0]}"
        )
    folder = Path(RANGE.split(pattern)[0] + "x").parent
    return {path.relative_to(folder).as_posix(): path for path in paths}


def index_shards(shards: dict[str, Path], source: str) -> Source:
    """List the samples of WebDataset shards.

    A sample is a run of files whose paths agree up to the first dot of the file name. Its first file with the suffix of
    an image is the image. Its label is the integer in the ``.cls`` file, else ``"label"`` in the ``.json`` file, else
    unknown. Samples are numbered across all shards: shards sorted by name, samples in the order in which they are
    stored. If there are shards in a folder ``train``, it and its siblings named in ``TEST_SPLITS`` are the splits.

    Args:
        shards: paths of the archives by name, with ``/`` between folders.
        source: the folder, file or pattern they come from, for error messages.

    Raises:
        ValueError: a shard is damaged, or a label is not an integer of at least -1.
    """
    names = sorted(shards)
    found = Found()
    for number, name in enumerate(names):
        read_shard(found, number, name, shards[name])
    groups = {"train": names}
    if any(name.startswith("train/") for name in names):
        groups = {split: [name for name in names if name.startswith(f"{split}/")] for split in ("train", *TEST_SPLITS)}

    def read(wanted: Collection[str]) -> Iterator[tuple[str, bytes | Path]]:
        remaining = set(wanted)
        for shard in names:
            with open_tar(shards[shard]) as archive:
                for member, name, refusal in members(archive):
                    path = f"{shard}/{name}"
                    if not refusal and path in remaining and (file := archive.extractfile(member)):
                        yield path, file.read()
                        remaining.remove(path)

    def storage(wanted: Sequence[str]) -> Storage:
        places = {path: place for path, (_, _, place) in found.images.items()}
        return archive_storage([shards[name] for name in names], places, wanted)

    classes = tuple(str(label) for label in range(max(found.labels.values(), default=-1) + 1))
    files = Files(source, tuple(found.images), tuple(found.skipped), tuple(found.sizes), read, storage)
    entries = {split: make_entries(found, split, chosen) for split, chosen in groups.items()}
    return Source(files, {split: some for split, some in entries.items() if some}, classes)


def read_shard(found: Found, number: int, shard: str, path: Path) -> None:
    """Add the samples of a shard to ``found``."""
    last = ""
    with open_tar(path) as archive:
        for member, name, refusal in members(archive):
            full = f"{shard}/{name}"
            if refusal:
                found.skipped.append((full, refusal))
                continue
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{folder}/{stem}"
            if suffix.lower() in ("cls", "json") and (file := archive.extractfile(member)):
                label = read_label(file.read(), suffix.lower(), full)
                if suffix.lower() == "cls" or (shard, key) not in found.labels:
                    found.labels[shard, key] = label
            elif is_image_name(name):
                if key == last:
                    found.skipped.append((full, "second image of its sample"))
                    continue
                last = key
                if len(found.images) % SAMPLE_EVERY == 0 and (file := archive.extractfile(member)):
                    size = image_size(file)
                    found.sizes += [size] if size else []
                found.images[full] = (shard, key, (number, member.offset_data, member.size))


def read_label(content: bytes, suffix: str, name: str) -> int:
    """Return the label in a ``.cls`` or ``.json`` file, or -1 if a ``.json`` has no integer ``"label"``.

    Raises:
        ValueError: a ``.cls`` is not an integer, a ``.json`` is not JSON, or the label is out of range.
    """
    try:
        value = int(content) if suffix == "cls" else json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} must hold {'an integer' if suffix == 'cls' else 'JSON'}: {error}") from error
    label = value.get("label") if isinstance(value, dict) else value if suffix == "cls" else None
    if not isinstance(label, int) or isinstance(label, bool):
        return -1
    if not -1 <= label < MAX_CLASSES:
        raise ValueError(f"the label in {name} must be in -1 .. {MAX_CLASSES - 1}, got {label}")
    return label


def make_entries(found: Found, split: str, shards: list[str]) -> list[Entry]:
    """Return the entries of a split in the order of its samples."""
    prefix = f"{split}/" if all(shard.startswith(f"{split}/") for shard in shards) else ""
    chosen = set(shards)
    entries: list[Entry] = []
    for path, (shard, key, _) in found.images.items():
        if shard in chosen:
            label = found.labels.get((shard, key), -1)
            entries.append(Entry(path, path.removeprefix(prefix), len(entries), str(label) if label >= 0 else None))
    return entries


def is_shard_folder(files: Files) -> bool:
    """Return whether a folder holds archives and no images."""
    return any(is_archive(name) for name in files.names) and not any(is_image_name(name) for name in files.names)


def is_archive(name: str) -> bool:
    """Return whether ``name`` has the suffix of an archive."""
    return name.lower().endswith(SUFFIXES)
