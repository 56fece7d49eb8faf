"""Read one folder through all loaders within a limit of memory, and print what each gave: run by test_corpus.py."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

from stream_cases import picture

from fastclr.data import ImageIndex, Loader, Order, load_splits, make_loader
from fastclr.data.loader_choice import has_dali

MORE_MEMORY = 2**31  # bytes that may be allocated after the imports


def limit_memory() -> None:
    """Let allocations fail once they pass `MORE_MEMORY`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(lines["VmData"].split()[0]) * 1024 + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def pixels(loader: Loader, names: dict[int, str]) -> dict[str, str]:
    """Return a digest of the pixels of every image of an epoch, by name."""
    found = {}
    for batch in loader.epoch(0):
        for row, key in enumerate(batch.ids.tolist()):
            image = picture(batch.images, row)
            found[names[key]] = f"{image.shape} {hashlib.blake2b(image.tobytes()).hexdigest()}"
    return found


def main(folder: str) -> None:
    """Print, for each loader and size of batch, the images that it gave and those that it refused."""
    warnings.simplefilter("ignore")
    limit_memory()
    results: dict[str, dict[str, Any]] = {}
    for kind in ("resident", "torch", *(["dali"] if has_dali() else [])):
        train = load_splits(folder, holdout=0, loader=kind).train  # type: ignore[arg-type]
        names = dict(zip(train.ids.tolist(), train.names, strict=True))
        for size in (8, 64, 256):
            order, options = Order(size, seed=size, drop_last=False), {"workers": 2 if kind == "dali" else 1}
            with closing(make_loader(train, kind, order, **options)) as loader:  # type: ignore[arg-type]
                good = pixels(loader, names)
                refused = dict(train.skipped) | dict(loader.skipped)
            results[f"{kind} {size}"] = {"good": good, "refused": refused, "index": isinstance(train, ImageIndex)}
    print(json.dumps(results))


main(sys.argv[1])
