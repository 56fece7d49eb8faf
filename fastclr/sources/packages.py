"""Packages that an extra installs."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, need: str, extra: str = "train") -> Any:
    """Return a module, such as one that `need`, as in "reading images needs Pillow", names.

    Raises:
        ModuleNotFoundError: it is not installed; the message says which extra installs it.
    """
    parts = module.split(".")
    try:
        for count in range(1, len(parts) + 1):
            found = importlib.import_module(".".join(parts[:count]))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{need}: pip install 'fastclr[{extra}]'", name=module) from error
    return found
