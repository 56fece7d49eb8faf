"""`train.log`: what a training says, kept in its folder with the time of each line."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType

from fastclr.files import append_text


class TrainLog:
    """Keeps lines until the folder of the run is there, and appends them to a file from then on.

    As a context manager it notes what ends the block, if that is an error.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._path: Path | None = None

    def add(self, message: str) -> None:
        """Add a message, with the local time.

        Raises:
            OSError: the file cannot be written, or is a link.
        """
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n"
        if self._path is None:
            self._waiting.append(text)
        else:
            append_text(self._path, text)

    def open(self, path: Path) -> None:
        """Write what was added so far to the end of a file, and all that follows.

        Raises:
            OSError: as for `add`.
        """
        append_text(path, "".join(self._waiting))
        self._waiting, self._path = [], path

    def __enter__(self) -> TrainLog:
        """Return the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note the error; it matters more than a log that cannot be written."""
        if kind is not None:
            with contextlib.suppress(OSError):
                self.add(f"{kind.__name__}: {error}")
