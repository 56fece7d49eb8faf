"""A progress bar where the output is a terminal."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(total: int, description: str) -> Any:
    """Return tqdm's bar over ``total`` images, invisible where the error output is no terminal.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs tqdm: pip install 'fastclr[train]'", name="tqdm") from error
    return tqdm(total=total, desc=description, unit=" images", disable=not sys.stderr.isatty())
