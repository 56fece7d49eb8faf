"""The files below a folder, and what to do with symbolic links among them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MOST_COUNTED = 100_000  # entries behind a link that is not followed


@dataclass
class Walk:
    """The files below a folder.

    Args:
        root: the folder.
        follow: links that lead into this folder are followed; None follows none.
        is_hidden: tells by its name whether an entry is left out.
        is_image: tells by its name whether a file is an image.
        places: path of each file, by its name relative to the folder, with ``/``.
        skipped: name and reason of what is not read.
        lost: number of images behind links that are not followed, except those that lie in the folder anyway.
        lost_links: names of these links.
    """

    root: Path
    follow: Path | None
    is_hidden: Callable[[str], bool]
    is_image: Callable[[str], bool]
    places: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    lost_links: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Walk; a folder is listed once, so that links cannot lead in circles."""
        self._top = os.path.realpath(self.root)
        self._seen = {self._top}
        pending = [("", str(self.root.absolute()))]
        while pending:
            folder, place = pending.pop()
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError as error:
                self.skipped.append((folder or str(self.root), f"folder cannot be read: {error.strerror}"))
                continue
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if self.is_hidden(entry.name):
                    continue
                found = self._through(name, entry) if entry.is_symlink() else entry.path
                if found is None:
                    continue
                if os.path.isdir(found):
                    pending.append((name, found))
                elif os.path.isfile(found):
                    self.places[name] = found
                else:
                    self.skipped.append((name, "not a regular file"))

    def _through(self, name: str, link: os.DirEntry[str]) -> str | None:
        """Return where a link leads if it is followed; else say why not, and count what is lost."""
        target = os.path.realpath(link.path)
        lost = False
        if not os.path.exists(target):
            reason = "it leads nowhere"
        elif lies_in(target, self._top) and not self.is_hidden(target[len(self._top) :]):
            reason = "it leads to what is listed anyway"
        elif self.follow is None:
            reason, lost = "", True
        elif not lies_in(target, os.path.realpath(self.follow)):
            reason, lost = f"it leads out of {self.follow}", True
        elif lies_in(self._top, target) or target in self._seen:
            reason = "it leads in a circle, or to a folder that is listed already"
        else:
            self._seen |= {target} if os.path.isdir(target) else set()
            return target
        if lost and (count := self._count(target) if os.path.isdir(target) else int(self.is_image(name))):
            self.lost += count
            self.lost_links.append(name)
            reason += f"{', ' * bool(reason)}{count} image(s) lie behind it"
        self.skipped.append((name, "symbolic link, not followed" + (f": {reason}" if reason else "")))
        return None

    def _count(self, folder: str) -> int:
        """Return how many images lie in a folder, as far as `MOST_COUNTED` entries go."""
        images = entries = 0
        for _, folders, names in os.walk(folder):
            images += sum(self.is_image(name) for name in names)
            entries += len(folders) + len(names)
            if entries > MOST_COUNTED:
                break
        return images


def hub_blobs(path: Path) -> Path | None:
    """Return the folder of the files to which the links of a snapshot in Hugging Face's cache lead.

    The cache has ``datasets--OWNER--NAME/snapshots/COMMIT/`` with links into ``datasets--OWNER--NAME/blobs/``, which
    nothing but the hub's client writes. None if `path` lies in no such snapshot.
    """
    place = path.absolute()
    for folder in (place, *place.parents):
        kept = folder.parent.parent / "blobs"
        if folder.parent.name == "snapshots" and "--" in folder.parent.parent.name and kept.is_dir():
            return kept
    return None


def lies_in(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies in it; both without links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
