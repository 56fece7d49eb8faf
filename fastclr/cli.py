"""The `fastclr` command; bad input ends in a one-line error and exit status 2."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import warnings

from fastclr.commands import threads
from fastclr.sources.nearest import near
from fastclr.sources.packages import remedy
from fastclr.sources.printable import Notices, printable, show

COMMANDS = {
    "pretrain": "pretrain an encoder without labels; --resume RUN continues a run",
    "methods": "the methods to pretrain with; NAME: its options, presets, what to tune, when to take it",
    "knn": "kNN accuracy of a run's frozen encoder",
    "probe": "linear accuracy of a run's frozen encoder",
    "zeroshot": "accuracy of a run of images and texts, which knows the classes by their names alone",
    "retrieve": "recall of captions by images and of images by captions, of a run of images and texts",
    "finetune": "train a run's whole network on few labels",
    "distill": "train a student on the predictions of a fine-tuned network",
    "v2": "the stages of SimCLR v2: pretrain, fine-tune on few labels, distil into a student",
    "embed": "features of a folder, a tar or a published data set, as .npz or .parquet",
    "search": "nearest neighbours of an image, or of a text, among embedded images",
    "export": "the encoder for timm, torchvision, ONNX, torch.export or TorchScript, with a model card",
    "report": "an HTML page about one run",
    "compare": "scores and cost of several runs in one table, and a page with their curves",
    "demo": "pretrain on the built-in shapes and compare with baselines",
    "data": "report what a data set holds, what is wrong with it, and how fast it decodes; --clear-cache",
    "profile": "where the time of a training step goes, and what to change",
    "augment-grid": "a contact sheet of images and their random views",
    "bench": "time the loss or the augmentation on this machine, against other libraries",
    "findings": "what the papers found, checked on this machine and your images; run, report",
    "info": "what is installed, built and available, and how to fix what is not",
}
BAD_INPUT = 2
SIGNALLED = 128  # shells report this plus the signal number: 130 for Ctrl-C, 143 for SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 success, 2 bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("", "-h", "--help"):
        show(usage())
        return 0 if name else BAD_INPUT
    if name == "--version":
        from fastclr import __version__

        show(__version__)
        return 0
    if name not in COMMANDS:
        show(f"fastclr: error: unknown command {name!r}{near(name, COMMANDS)}\n\n{usage()}", sys.stderr)
        return BAD_INPUT
    escape_notices()
    try:
        before = threads.before_torch()
        module = importlib.import_module(f"fastclr.commands.{name.replace('-', '_')}")
        threads.after_torch(before, rest)
        module.main(rest)
    except SystemExit as stop:  # tyro has printed its help or the error in an option
        return int(stop.code or 0)
    except KeyboardInterrupt as interrupt:
        show(f"fastclr: {interrupt or 'interrupted'}", sys.stderr)
        return SIGNALLED + getattr(interrupt, "number", signal.SIGINT)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "fastclr":
            raise
        install = None if "pip install" in str(error) else remedy(error.name or "")
        show(f"fastclr: error: {error}" + (f"; install it with: {install}" if install else ""), sys.stderr)
        return BAD_INPUT
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("FASTCLR_DEBUG"):
            raise
        rank = f" on rank {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        show(f"fastclr: error{rank}: {error}  (FASTCLR_DEBUG=1 shows where)", sys.stderr)
        return BAD_INPUT
    return 0


def escape_notices() -> None:
    """Let warnings and the records of the logger go through `printable`, as all that is shown does."""
    logger = logging.getLogger("fastclr")
    if not logger.handlers:
        logger.addHandler(Notices())
    warnings.formatwarning = format_warning


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as one printable text."""
    return printable(f"{category.__name__}: {message}\n")


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: fastclr COMMAND [options]     (`fastclr COMMAND --help` lists them)", "", *lines])
