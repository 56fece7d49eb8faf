"""What Pillow and libtiff say about odd files: counted in place of shown, because none of it names the file."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("../pillow.libs/libtiff*.so*", ".dylibs/libtiff*.dylib")  # of Pillow's wheels, relative to Pillow


class Remarks(logging.Handler):
    """Counts warnings and log records of Pillow while it is in place, and silences libtiff.

    Warnings belong to the process, not to a thread: whoever comes first puts it in place, and the last one who leaves
    takes it away.
    """

    def __init__(self) -> None:
        """Nothing is in place."""
        super().__init__(logging.WARNING)
        self._change = threading.Lock()
        self._users = 0
        self._count = 0
        self._shown: Any = None
        self._filter: Any = None
        self._tiff_handlers: tuple[Any, Any] | None = None

    def take(self) -> int:
        """Return how many remarks there were since the last call."""
        count, self._count = self._count, 0
        return count

    def enter(self) -> None:
        """Begin to count."""
        with self._change:
            self._users += 1
            if self._users > 1 and warnings.showwarning == self._show:
                return
            logger = logging.getLogger("PIL")
            logger.addHandler(self)
            logger.propagate = False
            warnings.filterwarnings("always", module=r"PIL\.")
            self._filter, self._shown = warnings.filters[0], warnings.showwarning
            warnings.showwarning = self._show
            if self._tiff_handlers is None:
                self._tiff_handlers = set_tiff_handlers((None, None))

    def leave(self) -> None:
        """Count no longer, once all have left."""
        with self._change:
            self._users -= 1
            if self._users:
                return
            logger = logging.getLogger("PIL")
            logger.removeHandler(self)
            logger.propagate = True
            # somebody's catch_warnings may have ended meanwhile, and taken both away
            if warnings.showwarning == self._show:
                warnings.showwarning = self._shown
            if self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]
            if self._tiff_handlers is not None:
                set_tiff_handlers(self._tiff_handlers)
                self._tiff_handlers = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count a log record."""
        self._count += 1

    def _show(
        self, message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """Count a warning of Pillow; show any other one."""
        if "PIL" in Path(filename).parts:
            self._count += 1
        else:
            self._shown(message, category, filename, lineno, file, line)


REMARKS = Remarks()


def set_tiff_handlers(handlers: tuple[Any, Any]) -> tuple[Any, Any] | None:
    """Set libtiff's handlers of errors and of warnings; return those before, or None where Pillow has no copy of it."""
    try:
        import PIL
    except ModuleNotFoundError:
        return None

    found = [path for pattern in LIBRARIES for path in Path(PIL.__file__).parent.glob(pattern)]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0].resolve()))
    before = []
    for name, handler in zip(("TIFFSetErrorHandler", "TIFFSetWarningHandler"), handlers, strict=True):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
        before.append(function(handler))
    return before[0], before[1]


@contextmanager
def quiet_pillow(source: str | None = None) -> Iterator[None]:
    """Count what Pillow says about odd files, in all threads, and silence libtiff; give the number for a `source`."""
    REMARKS.enter()
    try:
        yield
    finally:
        REMARKS.leave()
        if source is not None:
            summarise(source, REMARKS.take())


def summarise(source: str, count: int) -> None:
    """Say in one warning how much there was to say about the files of `source`."""
    if count:
        warnings.warn(
            f"Pillow made {count} remark(s) about odd files of {source}, such as damaged metadata; files that cannot "
            "be read are named by themselves",
            RuntimeWarning,
            stacklevel=3,
        )
