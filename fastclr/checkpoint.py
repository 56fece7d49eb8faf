"""Files of a run that survive a kill at any moment: atomic checkpoints and an append-only metrics log."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had not been stopped.

    The position is (`epoch`, `step_in_epoch`): that many batches of that epoch are done. `step` counts all batches.
    There is no generator state: order, augmentation and dropout are functions of the seed and the position. `totals`
    are sums over all processes, `seconds` those of training and of the first step.
    """

    config: dict[str, Any]
    fingerprint: str
    epoch: int
    step_in_epoch: int
    step: int
    model: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    totals: Tensor
    seconds: tuple[float, float]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that `path` holds either the old or the new one, whole.

    Raises:
        OSError: it could not be written (a full disk, for one); what was at `path` is untouched.
    """
    contents = {"format": FORMAT, **vars(checkpoint)}
    write_atomically(path, lambda file: torch.save(contents, file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU with ``weights_only=True``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no checkpoint of fastclr, or of a version that this one does not read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        found = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
        raise ValueError(f"{path} must be a fastclr checkpoint of format {FORMAT}, got {found!r}")
    del contents["format"]
    return Checkpoint(**contents)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, and rename it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not write {path}: {error}{kept}. Is the disk full?") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, appended and flushed, cut back to a checkpoint on resume."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record.

        Raises:
            OSError: it could not be written, for one because the disk is full.
        """
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OSError(f"could not write to {self.path}: {error}; the last checkpoint is kept") from error

    def read(self) -> list[dict[str, Any]]:
        """Return all whole records; a last line torn by a kill is left out."""
        records: list[dict[str, Any]] = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    records.append(json.loads(line))
        return records

    def keep_up_to(self, step: int, epochs: int) -> None:
        """Drop what will be written again: training after `step`, and evaluations after that many whole `epochs`."""
        kept = [r for r in self.read() if (r["epoch"] <= epochs if r["kind"] == "eval" else r["step"] <= step)]
        lines = [json.dumps(record) + "\n" for record in kept]
        write_atomically(self.path, lambda file: file.write("".join(lines).encode()))
