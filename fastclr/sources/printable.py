"""Names and messages as a terminal or a page may show them: the one place through which all output goes."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from fastclr.sources.packages import needed


def printable(text: str, keep: str = "\n\t") -> str:
    """Return `text` with escapes in place of what a terminal would obey and a reader would not see.

    That is all that is no printable character, such as the sequences that move the cursor, marks that turn the
    direction of writing, and bytes that are no text; the characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def one_line(name: str) -> str:
    """Return a name as `printable` does, and without breaks of line: for a cell of a table."""
    return printable(name, keep="")


def show(message: object, file: TextIO | None = None) -> None:
    """Print a message, on a terminal of any encoding, at once."""
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(printable(str(message)).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def progress_bar(wanted: bool = True, **options: Any) -> Any:
    """Return a bar of tqdm, in a notebook one of notebooks; silent where there is neither a terminal nor a notebook.

    Args:
        wanted: False makes it silent.
        options: those of ``tqdm``.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """
    tqdm = needed("tqdm.auto", "reading images needs tqdm").tqdm
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(**options, disable=not (wanted and watched))


class Notices(logging.Handler):
    """Shows log records on the standard error stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        show(self.format(record), sys.stderr)
