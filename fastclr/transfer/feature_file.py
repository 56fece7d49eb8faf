"""Files of features, ``.npz`` or ``.parquet``: one row for each image, and the search for the nearest rows."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fastclr.files import check_types, write_atomically
from fastclr.sources.tables import arrow

SUFFIXES = (".npz", ".parquet")
BLOCK = 65536  # rows that are held at once while writing and searching
Pairs = tuple[tuple[str, str], ...]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FeatureFile:
    """Features of images and what is known about each image; the rows are sorted by id.

    Args:
        features: float32 or float16 ``[N, F]``, in memory or mapped from a file.
        ids: int64 ``[N]``: the place of the image among all images of its source.
        names: ``[N]`` texts: the path of the image in its source.
        labels: int64 ``[N]``: an index into `classes`, -1 where the class is unknown.
        classes: names of the classes.
        settings: how the features were made; two files of equal settings hold the same features.
        skipped: (name, reason) of the images that could not be read.
    """

    features: Array
    ids: Array
    names: Array
    labels: Array
    classes: tuple[str, ...]
    settings: dict[str, Any]
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check that all columns have one length."""
        lengths = {name: len(getattr(self, name)) for name in ("features", "ids", "names", "labels")}
        if self.features.ndim != 2 or len(set(lengths.values())) != 1:
            raise ValueError(f"features must be [N, F] with N ids, names and labels, got {lengths}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def row_of(self, query: str) -> int:
        """Return the row of an image by its id or its name.

        Raises:
            ValueError: there is no such image.
        """
        found = np.flatnonzero(self.ids == int(query) if query.isdigit() else self.names == query)
        if len(found) == 0:
            raise ValueError(f"{query!r} is neither the id nor the name of one of the {len(self)} images, nor a file")
        return int(found[0])


def check_suffix(path: Path) -> None:
    """Raise a ValueError unless `path` ends in one of `SUFFIXES`; a ModuleNotFoundError for parquet without pyarrow."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a file of features ends in {' or '.join(SUFFIXES)}, got {path}")
    if path.suffix == ".parquet":
        arrow()


def write_features(path: Path, table: FeatureFile) -> None:
    """Write a file of features atomically, in blocks of rows.

    Raises:
        ValueError: the suffix is unknown.
        OSError: it could not be written.
    """
    check_suffix(path)
    write = write_npz if path.suffix == ".npz" else write_parquet
    write_atomically(path, lambda file: write(file, table))


def write_npz(file: BinaryIO, table: FeatureFile) -> None:
    """Write NumPy's archive: arrays features, ids, names, labels, classes; settings and skipped as JSON texts."""
    arrays = {
        "ids": table.ids,
        "names": table.names,
        "labels": table.labels,
        "classes": np.array(table.classes, dtype=np.str_),
        "settings": np.array(json.dumps(table.settings)),
        "skipped": np.array(json.dumps(table.skipped)),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            header = {"descr": table.features.dtype.str, "fortran_order": False, "shape": table.features.shape}
            np.lib.format.write_array_header_2_0(member, header)
            for start in range(0, len(table), BLOCK):
                member.write(np.ascontiguousarray(table.features[start : start + BLOCK]).tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_parquet(file: BinaryIO, table: FeatureFile) -> None:
    """Write parquet: columns id, name, label, features (a list of fixed length); the rest as JSON metadata."""
    pa = arrow()
    element = pa.float16() if table.features.dtype == np.float16 else pa.float32()
    width = table.features.shape[1]
    rest = {"settings": table.settings, "skipped": table.skipped, "classes": table.classes}
    schema = pa.schema(
        [("id", pa.int64()), ("name", pa.string()), ("label", pa.int64()), ("features", pa.list_(element, width))],
        metadata={"fastclr": json.dumps(rest)},
    )
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(table), BLOCK):
            rows = slice(start, start + BLOCK)
            flat = pa.array(np.ascontiguousarray(table.features[rows]).reshape(-1), type=element)
            names = [writable(name) for name in table.names[rows].tolist()]
            columns = [table.ids[rows], names, table.labels[rows], pa.FixedSizeListArray.from_arrays(flat, width)]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))


def writable(name: str) -> str:
    """Return a file's name as Unicode can hold it: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_features(path: Path) -> FeatureFile:
    """Read a file of features into memory.

    Raises:
        ValueError: there is none, or it was not written by `write_features`.
    """
    check_suffix(path)
    if not path.is_file():
        raise ValueError(f"there is no file of features at {path}: make one with fastclr embed")
    try:
        table = read_npz(path) if path.suffix == ".npz" else read_parquet(path)
        check_table(table)
    except Exception as error:  # zipfile, NumPy and pyarrow raise many types for damaged files
        raise ValueError(f"{path} is no file of features that fastclr wrote: {error}") from error
    return table


def check_table(table: FeatureFile) -> None:
    """Raise a ValueError unless the columns have their types, the labels are classes and the features are finite."""
    kinds = {"features": "f", "ids": "i", "names": "U", "labels": "i"}
    if odd := [name for name, kind in kinds.items() if getattr(table, name).dtype.kind != kind]:
        raise ValueError(f"{odd[0]} must be of kind {kinds[odd[0]]!r}, got {getattr(table, odd[0]).dtype}")
    check_types(vars(table), {"classes": tuple[str, ...], "settings": dict[str, Any], "skipped": Pairs}, "it")
    if len(table) and not -1 <= table.labels.min() <= table.labels.max() < len(table.classes):
        raise ValueError(f"labels must be in -1 .. {len(table.classes) - 1}")
    if not all(np.isfinite(table.features[start : start + BLOCK]).all() for start in range(0, len(table), BLOCK)):
        raise ValueError("its features must be finite, but some are NaN or infinite")


def read_npz(path: Path) -> FeatureFile:
    """Read what `write_npz` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return FeatureFile(
            features=stored["features"],
            ids=stored["ids"],
            names=stored["names"],
            labels=stored["labels"],
            classes=tuple(stored["classes"].tolist()),
            settings=json.loads(str(stored["settings"])),
            skipped=tuple((name, reason) for name, reason in json.loads(str(stored["skipped"]))),
        )


def read_parquet(path: Path) -> FeatureFile:
    """Read what `write_parquet` wrote."""
    stored = arrow().parquet.read_table(path)
    rest = json.loads(stored.schema.metadata[b"fastclr"])
    column = stored.column("features").combine_chunks()
    return FeatureFile(
        features=column.flatten().to_numpy().reshape(-1, column.type.list_size),
        ids=stored.column("id").to_numpy(),
        names=np.array(stored.column("name").to_pylist(), dtype=np.str_),
        labels=stored.column("label").to_numpy(),
        classes=tuple(rest["classes"]),
        settings=rest["settings"],
        skipped=tuple((name, reason) for name, reason in rest["skipped"]),
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a file of features, without its features.

    Raises:
        ValueError: it is no file that `write_features` wrote.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                settings = json.loads(str(stored["settings"]))
        else:
            settings = json.loads(arrow().parquet.read_schema(path).metadata[b"fastclr"])["settings"]
    except Exception as error:  # as in `read_features`
        raise ValueError(f"{path} exists and is no file of features that fastclr wrote: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} exists and has no settings of fastclr")
    return settings


def nearest(features: Array, query: Array, k: int, *, without: int | None = None) -> tuple[Array, Array]:
    """Find the rows that are most similar to `query` under the cosine.

    Args:
        features: float ``[N, F]``.
        query: float ``[F]``.
        k: how many; at most N, and at most N - 1 with `without`.
        without: a row to leave out, such as the query itself.

    Returns:
        cosines float32 ``[k]``, from high to low, and rows int64 ``[k]``. Among equals the first row comes first.

    Raises:
        ValueError: a shape does not fit, or k is out of range.
    """
    if features.ndim != 2 or query.shape != features.shape[1:]:
        raise ValueError(f"features and query must be [N, F] and [F], got {features.shape} and {query.shape}")
    count = len(features) - (without is not None)
    if not 1 <= k <= count:
        raise ValueError(f"k must be between 1 and the {count} images to search, got {k}")
    direction = F.normalize(torch.tensor(query, dtype=torch.float32), dim=0)
    cosines = torch.empty(len(features))
    for start in range(0, len(features), BLOCK):
        rows = torch.tensor(features[start : start + BLOCK], dtype=torch.float32)  # a copy: parquet is read-only
        cosines[start : start + BLOCK] = F.normalize(rows, dim=1) @ direction
    if without is not None:
        cosines[without] = -torch.inf
    values, found = cosines.sort(descending=True, stable=True)
    return values[:k].numpy(), found[:k].numpy()
