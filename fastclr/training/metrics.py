"""Metrics of a run: `metrics.jsonl` always, and TensorBoard or Weights & Biases beside it if asked for."""

from __future__ import annotations

import json
import logging
import os
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fastclr.files import append_text, fits, make_folder, sync_folder, write_text_atomically

NUMBERS = {
    "loss",
    "lr",
    "knn",
    "grad_norm",
    "images_per_s",
    "train_s",
    "first_step_s",
    "processor_s",
    "peak_bytes",
}  # what is drawn or computed with
log = logging.getLogger("fastclr")


class MetricsHook(Protocol):
    """Takes every record of a `MetricsLog`."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one record; it has the keys `kind` and `step`."""

    def close(self) -> None:
        """Write what is left; nothing is logged any more."""


def is_record(value: object) -> bool:
    """Tell whether a line of the log is a record: a kind, a step, an epoch from 1, and numbers or texts."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or not fits(value.get("step"), int):
        return False
    counts = value["step"] >= 0 and fits(value.get("epoch"), int) and value["epoch"] >= 1
    good = all(isinstance(item, float) or fits(item, float | bool | str) for item in value.values())
    texts = {name for name, item in value.items() if isinstance(item, str)}
    return counts and good and NUMBERS.isdisjoint(texts) and not any(name.endswith("_accuracy") for name in texts)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, appended and flushed, cut back to a checkpoint on resume.

    Args:
        path: the file.
        hooks: get every record too. One that fails is dropped with a warning: training goes on without it.
    """

    def __init__(self, path: Path, hooks: Sequence[MetricsHook] = ()) -> None:
        self.path = path
        self.hooks = list(hooks)

    def append(self, record: dict[str, Any]) -> None:
        """Add one record, with the keys `kind` and `step`.

        Raises:
            OSError: it could not be written to the file, for one because the disk is full.
        """
        try:
            append_text(self.path, json.dumps(record) + "\n")
        except OSError as error:
            raise OSError(f"could not write to {self.path}: {error}; the last checkpoint is kept") from error
        for hook in list(self.hooks):
            try:
                hook.log(record)
            except Exception as error:  # other people's code and services, not worth a run
                self.hooks.remove(hook)
                warnings.warn(f"{type(hook).__name__} failed and is off: {error}", RuntimeWarning, stacklevel=2)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole records; a last line torn by a kill, and what no `append` wrote, is left out."""
        records: list[dict[str, Any]] = []
        foreign = 0
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):  # not JSON, or not UTF-8
                    continue
                if is_record(record):
                    records.append(record)
                else:
                    foreign += 1
        if foreign:
            log.warning("%s: %d line(s) are no records of a run and are left out", self.path, foreign)
        return records

    def keep_up_to(self, step: int, epochs: int) -> None:
        """Drop what will be written again, and a torn last line.

        That is training after `step`, and evaluations of other than the first `epochs` epochs, which are done.
        """
        kept = [r for r in self.read() if (r["epoch"] <= epochs if r["kind"] == "eval" else r["step"] <= step)]
        lines = [json.dumps(record) + "\n" for record in kept]
        write_text_atomically(self.path, "".join(lines))

    def sync(self) -> None:
        """Force what was appended to disk, so that a power cut does not take it."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the hooks; a failure becomes a warning."""
        for hook in self.hooks:
            try:
                hook.close()
            except Exception as error:  # as in `append`
                warnings.warn(f"{type(hook).__name__} did not close: {error}", RuntimeWarning, stacklevel=2)
        self.hooks = []


class TensorBoardHook:
    """Event files for TensorBoard.

    Args:
        folder: of the event files.
        step: the last step that is done; TensorBoard hides what an earlier process logged after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, record: dict[str, Any]) -> None:
        """Add every number of `record` as a scalar named KIND/NAME."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()  # a killed run shows as much here as in metrics.jsonl

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbHook:
    """A run on Weights & Biases, whose id is kept in `folder`, so that a resumed run goes on there.

    W&B takes no step twice: what is logged again after a resume is dropped there, the first values stay.

    Args:
        folder: of the run; `wandb-id` is written to it, and W&B's own files.
        project: name of the project.
        config: shown with the run.

    Raises:
        ValueError: W&B did not start.
    """

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        path = folder / "wandb-id"
        if not path.exists():
            write_text_atomically(path, secrets.token_hex(8) + "\n")
        identity = path.read_text().strip()
        try:
            self._run: Any = wandb.init(
                project=project, id=identity, resume="allow", name=folder.name, dir=str(folder), config=config
            )
        except Exception as error:  # its types are its own
            raise ValueError(
                f"Weights & Biases did not start: {error}; run `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def log(self, record: dict[str, Any]) -> None:
        """Log every number of `record` as KIND/NAME."""
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def check_hooks(*, tensorboard: bool, wandb: str | None) -> None:
    """See that the packages of the hooks that are asked for are installed.

    Raises:
        ValueError: one is not; the message says how to install it.
    """
    if tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"tensorboard=True needs the package tensorboard ({error}): pip install 'fastclr[logging]'"
            ) from error
    if wandb is not None:
        try:
            import wandb as _  # noqa: F401
        except ImportError as error:
            raise ValueError(f"wandb={wandb!r} needs the package wandb ({error}): pip install wandb") from error


def open_hooks(
    folder: Path, *, tensorboard: bool, wandb: str | None, config: dict[str, Any], step: int
) -> list[MetricsHook]:
    """Open the hooks that are asked for, for the run in `folder`, of which `step` steps are done.

    Raises:
        ValueError: a package is not installed, or W&B did not start.
    """
    check_hooks(tensorboard=tensorboard, wandb=wandb)
    hooks: list[MetricsHook] = []
    if tensorboard:
        make_folder(folder / "tensorboard")
        hooks.append(TensorBoardHook(folder / "tensorboard", step))
    if wandb is not None:
        make_folder(folder / "wandb")
        hooks.append(WandbHook(folder, wandb, config))
    return hooks


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of `record`, but for the step, as ``{"kind/name": value}``."""
    kind = record["kind"]
    return {f"{kind}/{k}": v for k, v in record.items() if k != "step" and isinstance(v, int | float)}
