"""The images of a file of features that are most similar to one of them, to an image file, or to a text."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from fastclr.data.decode_many import pack
from fastclr.device import resolve_device
from fastclr.evaluate import extract_features, state_hash
from fastclr.sources.decode import decode_named
from fastclr.training.image_text import Towers, check_texts
from fastclr.training.run import Run
from fastclr.transfer.embed import load_module
from fastclr.transfer.feature_file import Array, FeatureFile, nearest, read_features


class Neighbour(NamedTuple):
    """An image near a query: the cosine of the two, its id and name in the file, and its class, None if unknown."""

    cosine: float
    id: int
    name: str
    label: str | None


def search(
    features: Path,
    query: str | None = None,
    run: Run | None = None,
    *,
    text: str | None = None,
    k: int = 10,
    device: str = "auto",
) -> list[Neighbour]:
    """Return the images whose features have the highest cosine with those of an image or a text, nearest first.

    Args:
        features: a file that `embed` wrote.
        query: the id or name of an image in it, which is then left out, or else the path of an image file.
        run: the run that made the features; needed for an image file and for a text.
        text: what to look for in place of an image, in features z of a run of images and texts.
        k: number of neighbours.
        device: ``auto`` or a torch device; for an image file or a text.

    Raises:
        ValueError: there is no such file or image, `k` is out of range, the run is missing or another one, its method
            knows no texts, or there is not one of `query` and `text`.
    """
    if (query is None) == (text is None):
        raise ValueError(f"what to look for must be an image or a text, got {query!r} and {text!r}")
    table = read_features(features)
    without = None
    if text is not None:
        vector = features_of_text(features, table, text, run, device)
    elif query is not None:
        path = Path(query)
        if not query.isdigit() and query not in table.names and path.is_file():
            vector = features_of_file(features, table, path, run, device)
        else:
            without = table.row_of(query)
            vector = table.features[without]
    cosines, rows = nearest(table.features, vector, k, without=without)
    classes = (*table.classes, None)  # label -1 selects the last: unknown
    return [
        Neighbour(cosine, int(table.ids[row]), str(table.names[row]), classes[int(table.labels[row])])
        for cosine, row in zip(cosines.tolist(), rows.tolist(), strict=True)
    ]


def features_of_file(features: Path, table: FeatureFile, path: Path, run: Run | None, device: str) -> Array:
    """Return the features of an image file under the encoder that produced the table.

    Raises:
        ValueError: the run is missing, or its encoder is a different one.
    """
    if run is None:
        raise ValueError(f"{path} is an image file: pass the run that made the features with --run")
    where = resolve_device(device)
    module = checked_module(features, table, run).to(where)
    pixels = decode_named(path, run.config.resize_shorter, run.config.reading)
    vector: Array = extract_features(module, pack([pixels]), run.config.augment).features[0].cpu().numpy()
    return vector


def checked_module(features: Path, table: FeatureFile, run: Run) -> nn.Module:
    """Return the module that made the features; a ValueError if it is not the run's."""
    module = load_module(run, table.settings.get("features", ""))
    if state_hash(module) != table.settings.get("weights"):
        raise ValueError(f"the features in {features} were not made by the current encoder of {run.folder}")
    return module


def features_of_text(features: Path, table: FeatureFile, text: str, run: Run | None, device: str) -> Array:
    """Return the embedding of a text in the space of the table's features.

    Raises:
        ValueError: the run is missing, knows no texts or is a different one, or the features are not in that space.
    """
    if run is None:
        raise ValueError("a text needs the text tower of the run that made the features: pass it with --run")
    check_texts(run)
    if (kind := table.settings.get("features")) != "z":
        raise ValueError(f"a text is compared with features z, and {features} has {kind}: embed with --features z")
    checked_module(features, table, run)
    vector: Array = Towers(run, device).embed([text])[0].cpu().numpy()
    return vector
