"""Checkpoints: one file each that proves itself whole, written atomically, and found again after a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast, get_type_hints

import torch
from torch import Tensor, nn

from fastclr.files import check_types, fits, write_atomically
from fastclr.methods.weights import check_weights

FORMAT = 3
READABLE = (2, 3)
PATTERN = re.compile(r"step-(\d{8,})\.pt")


# the last bytes of every checkpoint; behind the zip archive of torch.save, where torch.load does not look
END_RECORD = "\nfastclr checkpoint, format {format:04d}, sha256 {digest:64}\n"
END_PATTERN = re.compile(rb"\nfastclr checkpoint, format (\d{4}), sha256 ([0-9a-f]{64})\n")
END_BYTES = len(END_RECORD.format(format=0, digest=""))
CHUNK = 2**20


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
    method: dict[str, Any]
    optimizer: dict[str, Any]
    probe: dict[str, Any]
    totals: dict[str, Tensor]
    seconds: tuple[float, float]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that `path` holds either what it held before or the new one, whole.

    The file is what `torch.save` writes, and behind it one line with the format and the SHA-256 of all bytes before.

    Raises:
        OSError: it could not be written (a full disk, for one); what was at `path` is untouched.
    """

    def write(file: BinaryIO) -> None:
        hashed = HashedFile(file)
        torch.save(vars(checkpoint), cast(BinaryIO, hashed))  # it asks for no more than that
        file.write(END_RECORD.format(format=FORMAT, digest=hashed.sha256.hexdigest()).encode())

    write_atomically(path, write)


class HashedFile:
    """As much of a file as `torch.save` writes to, and the SHA-256 of what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Flush."""
        self.file.flush()


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint and read it onto the CPU with ``weights_only=True``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, no checkpoint of fastclr, or of a format that this version does not read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    with open(path, "rb") as file:
        if fault := find_fault(file):
            raise ValueError(f"{path} {fault}")
        file.seek(0)
        try:
            contents = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types
            raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    contents = upgraded(contents)
    expected = {field.name for field in dataclasses.fields(Checkpoint)}
    if not isinstance(contents, dict) or set(contents) != expected:
        found = sorted(contents) if isinstance(contents, dict) else type(contents).__name__
        raise ValueError(f"{path} must hold {sorted(expected)}, got {found}: it was made by another version of fastclr")
    check_contents(contents, str(path))
    return Checkpoint(**contents)


def check_contents(contents: dict[str, Any], source: str) -> None:
    """Raise a ValueError unless the fields of a checkpoint have their types and its weights are finite numbers."""
    check_types(contents, get_type_hints(Checkpoint), source)
    for name in ("epoch", "step_in_epoch", "step"):
        if contents[name] < 0:
            raise ValueError(f"{name} in {source} must be at least 0, got {contents[name]}")
    check_weights(contents["method"], source)


def load_state(module: nn.Module, state: Mapping[str, Any], source: str, built_from: str = "config.json") -> None:
    """Put a stored state into a module; one that does not match is a ValueError of one line."""
    check_weights(state, source)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} does not match {built_from}: {reason[:300]}") from error


# the places of the sums in a checkpoint of format 2
FORMAT_2_SUMS = (
    "loss",
    "contrastive_accuracy",
    "contrastive_entropy",
    "steps",
    "finite",
    "online_right",
    "online_labelled",
)


def upgraded(contents: Any) -> Any:
    """Return the contents of a checkpoint of format 2 as those of the present format; others come back as they are.

    Format 2 had encoder and head under ``model``, the temperature under ``loss``, and the sums in one vector.
    """
    parts: dict[str, Any] = {"model": dict[str, Any], "loss": dict[str, Any], "probe": dict[str, Any], "totals": Tensor}
    if not isinstance(contents, dict):
        return contents
    rest = {"probe": {}, **contents}
    if not all(fits(rest.get(name), hint) for name, hint in parts.items()):
        return contents
    model, loss, totals = rest.pop("model"), rest.pop("loss"), rest.pop("totals")
    names = FORMAT_2_SUMS if rest["probe"] else FORMAT_2_SUMS[:5]
    if totals.shape != (len(FORMAT_2_SUMS),) and totals.shape != (len(names),):
        return contents
    method = {**model, **{f"criterion.{name}": value for name, value in loss.items()}}
    return {**rest, "method": method, "totals": {name: totals[index] for index, name in enumerate(names)}}


def find_fault(file: BinaryIO) -> str | None:
    """Return what is wrong with a checkpoint, to be said after its name; None if its bytes are those once written."""
    size = file.seek(0, os.SEEK_END)
    payload = max(0, size - END_BYTES)
    file.seek(payload)
    record = END_PATTERN.fullmatch(file.read())
    if record is None:
        return (
            f"must end in the line that ends a fastclr checkpoint of format {FORMAT}, and does not: "
            f"it is cut off, or another kind of file ({size} bytes)"
        )
    if int(record[1]) not in READABLE:
        return f"must be a fastclr checkpoint of format {' or '.join(map(str, READABLE))}, got {int(record[1])}"
    file.seek(0)
    sha256, left = hashlib.sha256(), payload
    while left and (chunk := file.read(min(CHUNK, left))):
        sha256.update(chunk)
        left -= len(chunk)
    if sha256.hexdigest().encode() != record[2]:
        return "is damaged: its contents do not have the SHA-256 that it was written with"
    return None


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies."""
    return folder / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, file) of all checkpoints in `folder`, the newest first; whether they are whole is not looked at."""
    files = folder.iterdir() if folder.is_dir() else ()
    found = [(int(match[1]), path) for path in files if (match := PATTERN.fullmatch(path.name))]
    return sorted(found, reverse=True)


def load_latest(folder: Path, warn: Callable[[str], object]) -> Checkpoint | None:
    """Load the newest checkpoint in `folder` that verifies; None if there are no checkpoints.

    Args:
        folder: where a `CheckpointWriter` wrote. Nothing in it is changed.
        warn: is called with one line for every newer checkpoint that had to be passed over.

    Raises:
        ValueError: there are checkpoints, and none of them verifies; each is named with its fault.
    """
    faults: list[str] = []
    for step, path in list_checkpoints(folder):
        try:
            checkpoint = load_checkpoint(path)
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warn(f"{fault}; going back to the checkpoint of step {step}")
        return checkpoint
    if faults:
        raise ValueError(f"no checkpoint in {folder} can be used: " + "; ".join(faults))
    return None
