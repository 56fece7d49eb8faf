"""Split and class of an image file from its path."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from fastclr.sources.folder import Files

# names of a test split, in the order in which they are tried
TEST_SPLITS = ("test", "val", "valid", "validation")
LEFT_OUT = 0.1  # share of images that may lie in other folders beside a lone `train`
OTHER_NAMES = {"training": "train", "testing": "test"}


@dataclass(frozen=True)
class Entry:
    """One image file.

    Args:
        path: its path within the source.
        name: its path within the folder of its split, without folders that wrap everything.
        id: its rank among the files of its split, sorted by name.
        kind: name of its class; None if unknown.
        captions: its captions, if they were asked for.
    """

    path: str
    name: str
    id: int
    kind: str | None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """The files of a source, with the split and class of each image.

    Args:
        files: all files.
        groups: the images of each split; there is always ``train``.
        classes: names of the classes, where the source numbers them itself; None means those of the training images.
        uncaptioned: ``(path, reason)`` of the images left out for want of a caption; None: captions are not asked for.
    """

    files: Files
    groups: dict[str, list[Entry]]
    classes: tuple[str, ...] | None = None
    uncaptioned: tuple[tuple[str, str], ...] | None = None

    @property
    def captioned(self) -> bool:
        """Whether captions were asked for, so that every image has one."""
        return self.uncaptioned is not None


def arrange(paths: Iterable[str]) -> dict[str, list[Entry]]:
    """Group image files by split.

    Folders that wrap everything else are ignored. If there is a ``train`` folder at the top, it and its siblings named
    in ``TEST_SPLITS`` are the splits, and files elsewhere are left out; otherwise everything is ``train``. Other
    spellings, as in ``Train`` and ``testing``, count where there is a folder to train on and one to test on. Within a
    split, the first folder is the class; two ways to write one name in Unicode are one class. Training images that are
    all in a single folder are unlabelled, since it distinguishes nothing, and so are images beside the class folders.

    Args:
        paths: relative paths of image files.

    Returns:
        The entries of each split, sorted by name.

    Raises:
        ValueError: two folders are one split, as ``train`` and ``Train`` are, or a folder ``train`` without one to test
            on stands beside others that hold more than a tenth of the images, and so may be a class like them.
    """
    files = {path: path for path in sorted(paths)}
    while all("/" in name for name in files) and len({name.split("/")[0] for name in files}) == 1:
        files = {name.split("/", 1)[1]: path for name, path in files.items()}
    splits = {"train": files}
    if folders := split_folders({name.split("/")[0] for name in files if "/" in name}):
        check_lone(folders, files)
        splits = {split: below(folders[split], files) for split in ("train", *TEST_SPLITS) if split in folders}
    groups = {split: label(found) for split, found in splits.items() if found}
    if len({entry.kind for entry in groups["train"]} - {None}) < 2:
        groups["train"] = [replace(entry, kind=None) for entry in groups["train"]]
    return groups


def split_folders(folders: Collection[str]) -> dict[str, str]:
    """Return the folder of each split; empty if these folders are no splits.

    Raises:
        ValueError: two folders are one split.
    """
    found: dict[str, str] = {}
    for folder in sorted(folders):
        split = OTHER_NAMES.get(folder.lower(), folder.lower())
        if split in ("train", *TEST_SPLITS):
            if split in found:
                raise ValueError(f"{found[split]!a} and {folder!a} are both the split {split}: rename one of them")
            found[split] = folder
    # a class may be called Train, but hardly another one Test
    return found if found.get("train") == "train" or {"train"} < set(found) else {}


def check_lone(folders: Collection[str], files: Collection[str]) -> None:
    """Raise a ValueError if `train` is the only split and folders beside it hold more than a tenth of the images."""
    others = Counter(name.split("/")[0] for name in files if "/" in name and not name.startswith("train/"))
    if set(folders) == {"train"} and others.total() > LEFT_OUT * len(files):
        listed = ", ".join(f"{folder!a}" for folder in sorted(others)[:5]) + ", ..." * (len(others) > 5)
        raise ValueError(
            f"{others.total()} of {len(files)} images would be left out: a folder 'train' is the training split, there "
            f"is none to test on ({', '.join(TEST_SPLITS)}), and {listed} lie beside it. If 'train' is a class, rename "
            "it; if the others are classes to train on, move them into it; else give the folder 'train' itself"
        )


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    """Return the files in ``folder``, named relative to it."""
    return {name[len(folder) + 1 :]: path for name, path in files.items() if name.startswith(f"{folder}/")}


def label(files: dict[str, str]) -> list[Entry]:
    """Number the files of a split and read their classes."""
    return [
        Entry(path, name, index, unicodedata.normalize("NFC", name.split("/")[0]) if "/" in name else None)
        for index, (name, path) in enumerate(files.items())
    ]
