"""Published data sets that are known by name: where their files are, and how to download them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastclr.sources.packages import needed

Other = TypeVar("Other")


@dataclass(frozen=True)
class PublishedSet:
    """A published data set as torchvision downloads and stores it.

    Args:
        kind: name of its class in ``torchvision.datasets``.
        unpacked: name of the folder that holds its files.
        packed: file name of the published archive.
        address: URL of the archive.
        size: of the archive, for messages.
    """

    kind: str
    unpacked: str
    packed: str
    address: str
    size: str


PUBLISHED = {
    "cifar10": PublishedSet(
        "CIFAR10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "170 MB",
    ),
    "cifar100": PublishedSet(
        "CIFAR100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "169 MB",
    ),
    "stl10": PublishedSet(
        "STL10",
        "stl10_binary",
        "stl10_binary.tar.gz",
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "2.6 GB",
    ),
}


def locate(source: Other, data_root: str | Path = "data", download: bool = False) -> Other | Path:
    """Return the folder or archive of the published data set that `source` names; anything else is returned unchanged.

    Args:
        source: ``cifar10``, ``cifar100``, ``stl10``, or anything else; ``./cifar10`` and a Path are never names.
        data_root: folder with the files in torchvision's layout, unpacked or packed.
        download: fetch missing files with torchvision. They are unpacked in a temporary folder and moved into place at
            the end, so that an interrupted download leaves nothing that looks complete.

    Raises:
        ValueError: the files are missing.
        OSError: the download failed.
        ModuleNotFoundError: the download needs torchvision, which is not installed.
    """
    if not isinstance(source, str) or source not in PUBLISHED:
        return source
    known, root = PUBLISHED[source], Path(data_root).expanduser()
    for path in (root / known.unpacked, root / known.packed):
        if path.exists():
            return path
    if download:
        return fetch(known, root)
    raise ValueError(
        f"the files of {source} are not in {root}: it has neither {known.unpacked} nor {known.packed}. Fetch them with "
        f"--download ({known.size}), or put {known.address} there, or say where they are with --data-root "
        f"(a folder of that name is ./{source})"
    )


def fetch(known: PublishedSet, root: Path) -> Path:
    """Download a data set into `root` and return its folder; torchvision checks every file's MD5.

    Raises:
        OSError: the download failed, or the files are damaged.
        ModuleNotFoundError: torchvision is not installed.
    """
    datasets = needed("torchvision.datasets", "a download needs torchvision")
    target = root / known.unpacked
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
            # the test split, because torchvision loads the split it is asked for, and this one is small
            split = {"split": "test"} if known.kind == "STL10" else {"train": False}
            getattr(datasets, known.kind)(folder, download=True, **split)
            os.rename(Path(folder) / known.unpacked, target)
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError for damaged files
        if target.is_dir():  # another process was faster
            return target
        raise OSError(
            f"{known.kind} could not be downloaded into {root}: {error}. Fetch {known.address} ({known.size}) by other "
            f"means and put it there, packed or unpacked"
        ) from error
    return target
