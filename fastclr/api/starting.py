"""Start a run or go on with it, and report on it: what `pretrain`, `Run` and the commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from fastclr.data import Splits
from fastclr.environment import use_stored_threads
from fastclr.methods import METHODS
from fastclr.methods.own_encoder import is_given
from fastclr.parallel import speaks
from fastclr.report import Missing, write_report
from fastclr.training.config import PretrainConfig
from fastclr.training.extend import longer
from fastclr.training.health import find_collapse
from fastclr.training.images import ImageOptions
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run as Folder
from fastclr.training.stopping import Interrupted

AUTO = "auto"


def default_folder(config: PretrainConfig, preset: str | None) -> Path:
    """Return the folder of a run that none was named for."""
    name = config.data[1:-1].rpartition(".")[2] if is_given(config.data) else Path(config.data).name.partition(".")[0]
    return Path("runs") / (preset or name)


def start(
    config: PretrainConfig, folder: Path, *, resume: str | None = None, extend: str | None = None
) -> tuple[Folder, Splits]:
    """Pretrain in `folder`, or go on there, and write the report; errors are those of `pretrain_in` and `longer`.

    Args:
        config: the run.
        folder: new, or that of a run to go on with.
        resume: None starts a run; ``auto`` goes on if there is one; anything else goes on.
        extend: the rates from the last checkpoint on, where the run had other epochs.

    Returns:
        the run and its images.
    """
    goes_on = (folder / "config.json").is_file() if resume == AUTO else resume is not None
    if goes_on:
        config = longer(folder, config, extend)
        use_stored_threads(folder)
    elif extend is not None and resume is None:
        raise ValueError(f"extend is for a run that goes on, got {extend!r} for a new one: resume it, or drop extend")
    try:
        run, images, features = pretrain_in(folder, config, resume=goes_on)
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; continue with: {how_to_go_on(config, folder)}",)
        raise
    if speaks():
        write_report(run, images, features, run.say)
        if warning := find_collapse(run.metrics.read(), METHODS[run.config.method].cause):
            run.say(f"warning: {warning}")
    return run, images


def start_or_return(
    config: PretrainConfig, folder: Path, resume: str | None, extend: str | None
) -> tuple[Folder, Splits | None]:
    """Do what `start` does, but let Ctrl-C end it with the run as far as it came, if there is a checkpoint."""
    try:
        return start(config, folder, resume=resume, extend=extend)
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        run = Folder(folder, config)
        if number != signal.SIGINT or "WORLD_SIZE" in os.environ or run.latest_checkpoint() is None:
            raise
        run.say(str(interrupt) or f"interrupted; continue with: {how_to_go_on(config, folder)}")
        kept = {name: getattr(config, name) for name in ("given", "given_data", "given_test_data")}
        return Folder(folder, dataclasses.replace(Folder.open(folder).config, **kept)), None


def how_to_go_on(config: PretrainConfig, folder: Path) -> str:
    """Return what goes on with a run: the command, or the call where something was given that no command can name."""
    given = [name for name in ("encoder", "data", "test_data") if is_given(getattr(config, name) or "")]
    if not given:
        return f"fastclr pretrain --resume {folder}"
    again = "".join(f", {name}=..." for name in given)
    return f"fastclr.Run({str(folder)!r}{again}).resume()"


@contextlib.contextmanager
def told(how: str) -> Iterator[None]:
    """Add to an interrupt how to go on."""
    try:
        yield
    except Interrupted as interrupt:
        interrupt.args = (f"{interrupt}; {how}",)
        raise


def find_images(run: Folder, asked: ImageOptions, at_hand: Splits | None) -> Splits | Missing:
    """Return the images to report on, or why they could not be loaded."""
    try:
        return asked.load(run, at_hand)
    except (ValueError, OSError) as error:
        return Missing(f"The images could not be read: {error}. If they have moved, pass their location with --data.")
