"""Docstrings name other objects as Sphinx does, ``:class:`NTXentLoss```, or in backquotes; the site links them.

An extension of griffe, which reads the docstrings for mkdocstrings. A name that has no entry in the site stays as code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([\w.]+)`")
PLAIN = re.compile(r"(?<![`\w])`(fastclr(?:\.\w+)+|[A-Z][A-Za-z]+(?:\.\w+)?)`(?!`)")


class Roles(griffe.Extension):
    """Turn the names of objects in docstrings into links."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object once its package is read."""
        if obj.docstring is None:
            return

        def link(match: re.Match[str]) -> str:
            return f'<autoref optional identifier="{full(obj, match[1])}"><code>{match[1]}</code></autoref>'

        obj.docstring.value = PLAIN.sub(link, ROLE.sub(link, obj.docstring.value))


def full(obj: griffe.Object, name: str) -> str:
    """Return the path of a name as the module of `obj` sees it."""
    first, _, rest = name.partition(".")
    try:
        found = obj.resolve(first) if first != "fastclr" else first
    except griffe.GriffeError:
        return name
    return f"{found}.{rest}" if rest else found
