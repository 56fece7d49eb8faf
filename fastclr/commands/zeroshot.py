"""`fastclr zeroshot RUN`: accuracy of classifying images by the names of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastclr.api import Run
from fastclr.evaluate.zero_shot import PROMPTS
from fastclr.sources.printable import show


@dataclass
class Command:
    """Classify images as the class whose name in the prompts is most similar; nothing is trained on them."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of images and texts."""
    data: str | None = None
    """Labelled images: their test split, or all where there is none. Default: the run's own test images."""
    labels: str | None = None
    """CSV file with the columns name (or file_name) and label. Default: folders; for the run's images as in the run."""
    prompts: tuple[str, ...] = PROMPTS
    """Texts with {} in place of the name of a class; their embeddings are averaged."""
    names: Path | None = None
    """File with a name a line, in the order of the classes. Default: those of the folders, spaces for underscores."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device."""


def main(arguments: list[str]) -> None:
    """Evaluate, store the result in the run, and print it."""
    command = tyro.cli(Command, args=arguments, prog="fastclr zeroshot")
    result = Run(command.run).zeroshot(
        data=command.data,
        labels=command.labels,
        prompts=command.prompts,
        names=command.names,
        device=command.device,
    )
    top5 = "" if result["top5"] is None else f", top-5 {100 * result['top5']:.2f}%"
    show(
        f"zero-shot accuracy {100 * result['accuracy']:.2f}%{top5} ({result['class_count']} classes, chance "
        f"{100 * result['chance']:.2f}%, {len(result['prompts'])} prompt(s), {result['test_images']} images)"
    )
