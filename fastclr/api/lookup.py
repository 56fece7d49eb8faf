"""What is found out without training: neighbours of an image, several runs in one table, what a data set holds."""

from __future__ import annotations

import os
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import NamedTuple

import torch

from fastclr.api.runs import Run
from fastclr.data.options import memory_bytes
from fastclr.report import data_survey, write_comparison
from fastclr.report.data_survey import Survey
from fastclr.sources.captions import CaptionOptions
from fastclr.sources.published import locate
from fastclr.training.keywords import plain
from fastclr.training.run import Run as Folder
from fastclr.transfer import search as searching
from fastclr.transfer.search import Neighbour


class Comparison(NamedTuple):
    """The page, and its first table: a dictionary for each run, with the texts of its row by column."""

    path: Path
    runs: list[dict[str, str]]


def folder_of(run: Run | str | os.PathLike[str]) -> Folder:
    """Return the run of the Python door, or that in a folder."""
    return run._run if isinstance(run, Run) else Folder.open(Path(run))


def search(
    features: str | os.PathLike[str],
    query: int | str | os.PathLike[str] | None = None,
    *,
    text: str | None = None,
    run: Run | str | os.PathLike[str] | None = None,
    k: int = 10,
    device: str | torch.device = "auto",
) -> list[Neighbour]:
    """Return the images whose features have the highest cosine with those of an image or a text, nearest first.

    Args:
        features: a file that `Run.embed` wrote.
        query: the id or name of an image in it, which is then left out, or else the path of an image file.
        text: what to look for in place of an image, in features ``z`` of a run of images and texts.
        run: the run that made the features, or its folder; needed for an image file and for a text.
        k: number of neighbours.
        device: ``auto`` or a torch device; for an image file or a text.

    Raises:
        ValueError: there is no such file or image, `k` is out of range, the run is missing or another one, or there is
            not one of `query` and `text`.
    """
    asked = query if query is None else str(query) if isinstance(query, int) else os.fspath(query)
    made_by = None if run is None else folder_of(run)
    return searching.search(Path(features), asked, made_by, text=text, k=k, device=plain(device))


def compare(
    runs: Sequence[Run | str | os.PathLike[str]], out: str | os.PathLike[str] = "comparison.html"
) -> Comparison:
    """Write a page that puts the curves, scores and options of several runs side by side; see ``fastclr compare``.

    Args:
        runs: two or more, or their folders; no images are read.
        out: the page.

    Raises:
        ValueError: there are fewer than two runs, one is given twice, or `out` is a file but no report.
        FileNotFoundError: a folder holds no run.
    """
    table = write_comparison([folder_of(run) for run in runs], Path(out))
    rows = [dict(zip(table.head, map(str, row), strict=True)) for row in table.rows]
    return Comparison(Path(out), rows)


def survey(
    images: str | os.PathLike[str] | Sized,
    *,
    labels: str | os.PathLike[str] | None = None,
    captions: str | os.PathLike[str] | CaptionOptions | None = None,
    resize_shorter: int | None = None,
    follow_links: str | os.PathLike[str] | None = None,
    memory: float | None = None,
    data_root: str | os.PathLike[str] = "data",
    download: bool = False,
) -> Survey:
    """Return what a data set holds and what is wrong with it, as ``fastclr data`` prints it.

    Args:
        images: as for `fastclr.pretrain`.
        labels: CSV file with the columns ``name`` and ``label`` that gives the classes.
        captions: where the captions are, as for `fastclr.data.load_splits`; None: they are not looked at.
        resize_shorter: for the size in memory of images shrunk to this shorter side.
        follow_links: symbolic links are followed that lead into this folder.
        memory: GB of main memory that images may take. Default: half of what is free.
        data_root: folder with the files of ``cifar10``, ``cifar100`` and ``stl10``.
        download: fetch them when they are not there.

    Raises:
        ValueError: there is no such source, it holds no image, or an argument is out of range.
    """
    place = os.fspath(images) if isinstance(images, os.PathLike) else images
    return data_survey.survey(
        locate(place, os.fspath(data_root), download),
        labels=None if labels is None else os.fspath(labels),
        captions=captions if captions is None or isinstance(captions, CaptionOptions) else os.fspath(captions),
        resize_shorter=resize_shorter,
        memory_limit=memory_bytes(memory),
        follow_links=None if follow_links is None else os.fspath(follow_links),
    )[0]
