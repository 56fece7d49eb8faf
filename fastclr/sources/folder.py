"""The files of a folder, and what folders and archives have in common: names and a way to read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fastclr.sources.byte_ranges import Encoded, Storage, admit_all
from fastclr.sources.decode import image_names, image_size, is_image_name
from fastclr.sources.links import Walk

# the decoded size of a data set is estimated from every 64th image header
SAMPLE_EVERY = 64
Stream = Callable[[Collection[str]], Iterator[tuple[str, Encoded]]]
LARGEST_SAMPLE = 2**26  # bytes; some formats are read whole for their header


@dataclass(frozen=True)
class Files:
    """The regular files of a folder or archive.

    Args:
        source: path of the folder or archive.
        names: relative paths with ``/`` between folders, sorted; hidden files and folders are left out.
        skipped: ``(name, reason)`` of everything that is not a regular file in the source: links, pipes, unsafe names.
        sizes: height and width of a sample of the images, from their headers.
        stream: yields the names of the files asked for and how to read each, in the order in which they are stored.
        storage: returns random access to the image files asked for, in the order asked for; raises a ValueError where
            that is impossible, as in a compressed archive.
        lost: number of images behind symbolic links that are not followed.
        lost_links: names of these links.
    """

    source: str
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int], ...]
    stream: Stream
    storage: Callable[[Sequence[str]], Storage]
    lost: int = 0
    lost_links: tuple[str, ...] = ()

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files, in the order in which they are stored.

        Raises:
            OSError: one of them cannot be read, or is very large.
        """
        for name, file in self.stream(wanted):
            yield name, file.read(admit_all)


# what systems and storage boxes put beside the files of their users: previews, metadata, deleted files
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"}
# images of kinds that are not read; that they are there is told
RAW = (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
DRAWN = (".tga", ".jxl", ".jxr", ".psd", ".svg", ".exr", ".hdr", ".dds", ".ico", ".pcx", ".eps")
OTHER_IMAGES = {*RAW, *DRAWN, ".svs", ".ndpi", "none"}


def is_hidden(name: str) -> bool:
    """Return whether a component of the path begins with a dot or is a folder of the system's."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in name.split("/"))


def other_suffixes(names: Collection[str]) -> dict[str, int]:
    """Return how many of the files are no images by their suffix, by suffix in lower case; ``none`` without one."""
    suffixes = (PurePosixPath(name).suffix.lower() or "none" for name in names if not is_image_name(name))
    return dict(sorted(Counter(suffixes).items()))


def unread_images(names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return ``(pattern, reason)`` of the files that may be images, but of a kind that is not read."""
    found = other_suffixes(names)
    kinds = [(suffix, count) for suffix, count in found.items() if suffix in OTHER_IMAGES]
    return tuple(
        ("names without a suffix" if suffix == "none" else f"*{suffix}", f"{count} file(s), a kind that is not read")
        for suffix, count in kinds
    )


def index_folder(root: Path, follow: Path | None = None) -> Files:
    """List the regular files below ``root``.

    Symbolic links are not followed, unless they lead into ``follow``, and each folder is listed once: a loop cannot
    hang the walk, and a link cannot lead elsewhere. The others are reported, as are pipes, sockets, devices and folders
    that may not be read.

    Args:
        root: the folder.
        follow: the folder into which links may lead; None is none.
    """
    walk = Walk(root, follow, is_hidden, is_image_name)
    names, places = sorted(walk.places), walk.places
    images = image_names(names)
    sizes = [size for name in images[::SAMPLE_EVERY] if (size := sampled_size(Path(places[name])))]

    def stream(wanted: Collection[str]) -> Iterator[tuple[str, Encoded]]:
        ordered = sorted(wanted)
        files = storage(ordered)
        for row, name in enumerate(ordered):
            yield name, files.encoded(row)

    def storage(wanted: Sequence[str]) -> Storage:
        return Storage.of_files(places[name] for name in wanted)

    skipped = tuple(sorted(walk.skipped))
    return Files(
        str(root), tuple(names), skipped, tuple(sizes), stream, storage, walk.lost, tuple(sorted(walk.lost_links))
    )


def sampled_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of an image, or None if they cannot be read, or the file is too large for a sample."""
    try:
        return image_size(path) if path.stat().st_size <= LARGEST_SAMPLE else None
    except OSError:
        return None
