"""What is said about options where they are defined: below the fields of a dataclass, or in its docstring."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from typing import Any


def field_texts(owner: type[Any]) -> dict[str, str]:
    """Return the text of each field of a dataclass and of those that it derives from, each as one line."""
    texts: dict[str, str] = {}
    for each in reversed(owner.__mro__[:-1]):
        texts |= argument_texts(each.__dict__.get("__doc__") or "")
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        nodes = body.body if isinstance(body, ast.ClassDef) else []
        for node, following in itertools.pairwise(nodes):
            match node, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = one_line(text)
    return texts


def argument_texts(docstring: str) -> dict[str, str]:
    """Return what the section ``Args:`` of a docstring says about each argument."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    section = re.split(r"\n\S", section)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.M)
    return {name: one_line(text) for name, text in found}


def one_line(text: str) -> str:
    """Return a text without breaks of line and without the second backtick of docstrings."""
    return " ".join(text.split()).replace("``", "`")
