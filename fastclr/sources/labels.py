"""What a label is: the number of a class, or its name."""

from __future__ import annotations

import re

NUMBER = re.compile(r"-?[0-9]+(\.0*)?")
MAX_CLASSES = 10**6
MAX_NAME = 200  # characters of the name of a class


def as_label(value: object) -> int | str:
    """Return a label as a number of at least -1 or as the name of a class; 1.0 and "1" are the number 1.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = value.strip()
        value.encode()  # half of a surrogate pair, which JSON admits, can be written nowhere
        if 0 < len(value) <= MAX_NAME and not NUMBER.fullmatch(value):
            return value
        value = int(value.partition(".")[0]) if 0 < len(value) <= MAX_NAME else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"it must be a number or a name, got {str(value)[:50]!a}")
    if not -1 <= value < MAX_CLASSES:
        raise ValueError(f"the label must be in -1 .. {MAX_CLASSES - 1}, got {str(value)[:50]}")
    return value
