"""The `fastclr` command: errors from bad input are one line and a status of 2."""

from __future__ import annotations

import importlib
import os
import sys

COMMANDS = {
    "pretrain": "pretrain an encoder with SimCLR; --resume RUN goes on with one",
    "knn": "kNN accuracy of a run's frozen encoder",
    "probe": "linear accuracy of a run's frozen encoder",
    "demo": "pretrain on the built-in shapes and compare with baselines",
    "augment-grid": "a contact sheet of images and their random views",
    "bench": "time the loss or the augmentation here, beside other libraries",
    "info": "what is installed, built and available, and how to mend what is not",
}
BAD_INPUT = 2
INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else BAD_INPUT
    if name == "--version":
        from fastclr import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"fastclr: error: unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        return BAD_INPUT
    try:
        module = importlib.import_module(f"fastclr.commands.{name.replace('-', '_')}")
        module.main(rest)
    except SystemExit as stop:  # tyro has shown its help, or what is wrong with an option
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("fastclr: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "fastclr":
            raise
        print(f"fastclr: error: {error}; install it with: pip install 'fastclr[train]'", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("FASTCLR_DEBUG"):
            raise
        print(f"fastclr: error: {error}  (FASTCLR_DEBUG=1 shows where)", file=sys.stderr)
        return BAD_INPUT
    return 0


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: fastclr COMMAND [options]     (`fastclr COMMAND --help` lists them)", "", *lines])
