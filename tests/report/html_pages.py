"""Parses report pages and checks what must hold for all of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

VOID = {"img", "meta", "br", "col"}


@dataclass
class Node:
    """An element with its attributes, its children and its own text."""

    name: str
    attributes: dict[str, str]
    children: list[Node] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, name: str, **wanted: str) -> list[Node]:
        """Return the elements of a name below this one, in order."""
        found = []
        for child in self.children:
            if child.name == name and all(child.attributes.get(key) == value for key, value in wanted.items()):
                found.append(child)
            found += child.all(name, **wanted)
        return found

    @property
    def text(self) -> str:
        """All text below this element, spaces joined."""
        return " ".join(" ".join(self.texts).split())


class Builder(HTMLParser):
    """Builds a tree, and fails on tags that are not closed properly."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.stack = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs})
        self.stack[-1].children.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].name == tag, f"</{tag}> closes <{self.stack[-1].name}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        for node in self.stack:
            node.texts.append(data)


def read_page(path: Path) -> Node:
    """Parse a page and check that it is complete, needs no network, runs no scripts, and describes its pictures."""
    assert path.stat().st_size < 3e6
    builder = Builder()
    builder.feed(path.read_text(encoding="utf-8"))
    root = builder.root
    assert len(builder.stack) == 1, f"<{builder.stack[-1].name}> is not closed"
    assert not root.all("script") and not root.all("link") and not root.all("iframe")
    identities: list[str] = []
    pending = [root]
    while pending:
        node = pending.pop()
        pending += node.children
        assert not [key for key in node.attributes if key.startswith("on")]
        identities += [node.attributes["id"]] if "id" in node.attributes else []
        for key in ("src", "href", "xlink:href"):
            assert node.attributes.get(key, "#").startswith(("#", "data:image/")), node.attributes
    assert len(set(identities)) == len(identities)
    for link in root.all("a"):
        assert link.attributes["href"][1:] in identities
    for picture in root.all("img"):
        assert picture.attributes["alt"]
    for drawing in root.all("svg"):
        assert drawing.attributes["role"] == "img" and drawing.attributes["aria-label"]
    for table in root.all("table"):
        assert table.all("caption")[0].text
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1, f"rows of {widths} cells: {table.text[:80]}"
    for figure in root.all("figure"):
        assert figure.all("figcaption")[0].text and figure.all("h3")
    assert len(root.all("h1")) == 1 and root.all("html")[0].attributes["lang"] == "en"
    return root


def section(page: Node, identity: str) -> Node:
    """Return a section of a page."""
    (found,) = page.all("section", id=identity)
    return found


def pixels(picture: Node) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image of a page."""
    encoded = picture.attributes["src"].partition("base64,")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def cells(table: Node) -> list[list[str]]:
    """Return the cell texts of a table, without its header."""
    return [[cell.text for cell in row.children] for row in table.all("tbody")[0].all("tr")]
