"""`fastclr pretrain`: start a run, or continue one with `--resume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastclr.api.starting import AUTO, default_folder, start
from fastclr.commands.preset import ConfigCommand, early_option, parse
from fastclr.parallel import speaks
from fastclr.sources.printable import show
from fastclr.training.checkpoint import list_checkpoints
from fastclr.training.evaluation import can_evaluate
from fastclr.training.phases import ExtensionKind
from fastclr.training.run import Run


@dataclass(kw_only=True)
class PretrainOptions(ConfigCommand):
    """Pretrain an encoder without labels."""

    out: Path | None = None
    """Folder of the run. Default: runs/ followed by the name of the preset, otherwise of the data."""
    resume: str | None = None
    """Continue the run in this folder, or of this checkpoint if it is the last; `auto`: that in --out, or start it."""
    extend: ExtensionKind | None = None
    """Rates from the last checkpoint on, where --epochs is not the run's: a new cosine from the peak, or the peak.
    Default: cosine-restart after the run's last epoch, before it an error."""


def main(arguments: list[str]) -> None:
    """Parse the options, run, and print where the results are."""
    resume, base, place = early_option(arguments, "--resume"), None, Path()
    if resume not in (None, AUTO):
        for flags in (("--preset",), ("--config", "-c")):
            if early_option(arguments, *flags) is not None:
                raise ValueError(f"--resume uses the configuration of the run: drop {flags[0]}")
        place = folder_of(Path(str(resume)))
        base = Run.open(place).config
    options = parse(PretrainOptions, arguments, "fastclr pretrain", base)
    folder = options.out or default_folder(options.config, options.preset)
    if options.resume not in (None, AUTO):
        if base is None:
            raise ValueError(f"resume must be {AUTO} in {options.config_file}, got {options.resume!r}: give it alone")
        if options.out not in (None, place):
            raise ValueError(f"--resume continues in {place}: drop --out {options.out}")
        folder = place
    run, images = start(options.config, folder, resume=options.resume, extend=options.extend)
    if speaks():
        labels = "" if can_evaluate(images) else " --labels LABELS.csv"
        evaluate = f"fastclr knn {run.folder}{labels}; fastclr probe {run.folder}{labels}"
        show(f"done: {run.folder} (evaluate it with: {evaluate})")


def folder_of(place: Path) -> Path:
    """Return the folder of a run, which may be named by its last checkpoint.

    Raises:
        ValueError: it is an earlier checkpoint.
    """
    if not place.is_file() or place.parent.name != "checkpoints":
        return place
    newest = list_checkpoints(place.parent)[0][1] if list_checkpoints(place.parent) else place
    if place.resolve() != newest.resolve():
        raise ValueError(
            f"--resume goes on from the last checkpoint of a run, which is {newest}, got {place}: give "
            f"{place.parent.parent}, or start a new run from these weights with --init {place}"
        )
    return place.parent.parent
