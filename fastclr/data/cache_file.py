"""The file format of cached images: safetensors, mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast, get_type_hints

import torch
from torch import Tensor

from fastclr.augment.images import RaggedImages
from fastclr.data.decoded_set import ImageDataset, Splits
from fastclr.files import check_types
from fastclr.sources.packages import needed
from fastclr.sources.printable import progress_bar

SUFFIX = ".fastclr.safetensors"
TEMPORARY = ".fastclr.tmp"
DTYPES = {torch.int64: "I64", torch.uint8: "U8"}
BLOCK = 2**26  # bytes written at a time
ABOUT: dict[str, Any] = {
    "classes": list[str],
    "names": list[str],
    "source": str,
    "skipped": list[tuple[str, str]],
    "fingerprint": str,
    "channels": int,
    "captions": list[list[str]] | None,
}
WHOLE: dict[str, Any] = {
    "held_out": bool,
    "train": dict[str, Any],
    "range": tuple[float, float] | None,
    "scaling": str,
}
FREE_SHARE = 0.9  # largest share of the free disk space that a file may take


@dataclass(frozen=True)
class Origin:
    """Where images come from.

    Args:
        roots: the sources, as given by the user.
        places: their absolute paths.
        contents: a digest of the contents of each.
    """

    roots: tuple[str, ...]
    places: tuple[str, ...]
    contents: tuple[str, ...]


def safetensors() -> Any:
    """Return the module ``safetensors``; a ModuleNotFoundError says how to get it."""
    return needed("safetensors", "keeping decoded images, which cache='off' does not, needs safetensors")


def write_splits(path: Path, splits: Splits, origin: Origin) -> None:
    """Write `splits` to `path`, atomically and without a second copy of the pixels in memory.

    Raises:
        OSError: the disk has too little space, or the file cannot be written.
        ModuleNotFoundError: safetensors is not installed.
    """
    safetensors()  # fail now if the file could not be read later
    sets = {"train": cast(ImageDataset, splits.train)}
    if splits.test is not None:
        sets["test"] = cast(ImageDataset, splits.test)
    about: dict[str, Any] = {"held_out": splits.held_out, "range": splits.range, "scaling": splits.scaling}
    tensors: dict[str, Tensor] = {}
    for name, dataset in sets.items():
        about[name] = {
            "classes": dataset.classes,
            "names": dataset.names,
            "source": dataset.source,
            "skipped": dataset.skipped,
            "fingerprint": dataset.image_fingerprint,
            "channels": dataset.images.channels if isinstance(dataset.images, RaggedImages) else 0,
            "captions": dataset.captions,
        }
        tensors |= {f"{name}.{field}": tensor for field, tensor in fields(dataset).items()}
    text = json.dumps(about).encode()  # not in the header, whose size is limited: a million names exceed it
    tensors["about"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    # int64 first: the format puts tensors end to end, and so int64 values are aligned to 8 bytes
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].dtype != torch.int64, item[0])))
    stored = {**vars(origin), "digest": digest(tensors)}
    needed = sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if needed > FREE_SHARE * free:
        raise OSError(f"they take {needed / 1e9:.3g} GB, and {path.parent} has {free / 1e9:.3g} GB free")
    for left in path.parent.glob(f"{path.name}.*{TEMPORARY}"):
        left.unlink(missing_ok=True)  # left by a process that was killed: this one holds the lock
    descriptor, temporary = tempfile.mkstemp(TEMPORARY, f"{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            write_tensors(file, tensors, {"fastclr": json.dumps(stored)}, needed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def fields(dataset: ImageDataset) -> dict[str, Tensor]:
    """Return the tensors of a data set by name."""
    images = dataset.images
    pixels = (
        {"pixels": images}
        if isinstance(images, Tensor)
        else {"data": images.data, "offsets": images.offsets, "sizes": images.sizes}
    )
    return {"ids": dataset.ids, "labels": dataset.labels} | pixels


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], total: int) -> None:
    """Write the safetensors format block by block; the library would make a second copy of everything."""
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, tensor in tensors.items():
        offsets = [start, start + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        start += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    with progress_bar(total >= BLOCK, total=total, desc="keeping decoded images", unit="B", unit_scale=True) as bar:
        for tensor in tensors.values():
            content = octets(tensor)
            for position in range(0, len(content), BLOCK):
                bar.update(file.write(content[position : position + BLOCK]))


def octets(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, without a copy where it is contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the tensors' names, types and shapes, and of all values except the pixels."""
    result = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        result.update(f"{name} {DTYPES.get(tensor.dtype)} {list(tensor.shape)}".encode())
        if not name.endswith((".pixels", ".data")):
            result.update(octets(tensor))
    return result.hexdigest()


def read_origin(path: Path) -> Origin:
    """Return the origin that is stored in a file of decoded images.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    stored = read_header(path)
    return Origin(tuple(stored["roots"]), tuple(stored["places"]), tuple(stored["contents"]))


def read_header(path: Path) -> dict[str, Any]:
    """Return the metadata in the header; errors as for `read_origin`."""
    library = safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})["fastclr"])
        check_types(stored, {**get_type_hints(Origin), "digest": str}, "the header")
        return {name: stored[name] for name in ("roots", "places", "contents", "digest")}
    except (library.SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_splits(path: Path, origin: Origin) -> Splits:
    """Map a file of decoded images into memory.

    The size of the file, the header, and the digest of everything but the pixels are checked; the pixels are not read
    here. Writing to the tensors changes a private copy, never the file.

    Args:
        path: the file.
        origin: where the same images are now; `source` of the data sets names the new place.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or truncated, or is not a file of decoded images.
    """
    stored = read_header(path)
    try:
        with safetensors().safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except safetensors().SafetensorError as error:
        raise ValueError(str(error)) from error
    if digest(tensors) != stored["digest"]:
        raise ValueError("the digest of its header and names is another than the one that was stored")
    try:
        about = {"range": None, "scaling": "", **json.loads(bytes(tensors["about"].numpy()))}  # as of before there were
        check_types(about, WHOLE, "the file")
        moved = dict(zip(stored["roots"], origin.roots, strict=True))
        sets = {name: build(name, about[name], tensors, moved) for name in ("train", "test") if name in about}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    found = None if about["range"] is None else (about["range"][0], about["range"][1])
    return Splits(sets["train"], sets.get("test"), about["held_out"], range=found, scaling=about["scaling"])


def build(name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor], moved: Mapping[str, str]) -> ImageDataset:
    """Rebuild a data set from its stored parts."""
    about = {"captions": None, "channels": 3, **about}  # of before there were captions, and other channels
    check_types(about, ABOUT, name)
    if f"{name}.pixels" in tensors:
        images: Tensor | RaggedImages = tensors[f"{name}.pixels"]
    else:
        data, offsets, sizes = (tensors[f"{name}.{field}"] for field in ("data", "offsets", "sizes"))
        images = RaggedImages(data, offsets, sizes, about["channels"])
        ends = images.offsets + images.sizes.clamp(0, 2**20).prod(1) * images.channels
        inside = (images.offsets >= 0) & (ends <= len(images.data))
        if not bool((inside & (images.sizes >= 1).all(1) & (images.sizes <= 2**20).all(1)).all()):
            raise ValueError(f"images of {name} lie outside of their pixels")
    source: str = about["source"]
    for old, new in moved.items():
        if source.startswith(old):
            source = new + source[len(old) :]
            break
    dataset = ImageDataset(
        images=images,
        ids=tensors[f"{name}.ids"],
        labels=tensors[f"{name}.labels"],
        classes=tuple(about["classes"]),
        names=tuple(about["names"]),
        source=source,
        skipped=tuple((file, reason) for file, reason in about["skipped"]),
        captions=None if about["captions"] is None else tuple(map(tuple, about["captions"])),
    )
    # fills the cached property, whose computation would read every page
    vars(dataset)["image_fingerprint"] = about["fingerprint"]
    return dataset
