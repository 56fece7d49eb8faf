"""What a page is made of; `page.html` has one macro for each kind of block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Missing:
    """A note instead of what cannot be shown: the reason."""

    reason: str
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a warning stands out."""

    text: str
    warning: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Tiles:
    """The few numbers that readers look for first, each with its name."""

    entries: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Picture:
    """An image as data URI with its text alternative; one that is `sharp` is enlarged without blurring."""

    source: str
    alt: str
    sharp: bool


@dataclass(frozen=True)
class Cell:
    """A cell of a table with more than one text: picture, text, and small print with a mark for right or wrong."""

    text: str = ""
    small: str = ""
    picture: Picture | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column holds the row headings.

    Args:
        head: column headings.
        rows: the cells.
        caption: what the table shows.
        style: `text`, `numbers`, `pictures` or `counts`.
        marked: indices of rows that stand out.
        shades: of a table of counts, strength of the background from 0 to 1 for every cell right of the first column.
        folded: shown on demand under this title.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str
    style: str = "text"
    marked: Sequence[int] = ()
    shades: Sequence[Sequence[float]] = ()
    folded: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A chart.

    Args:
        title: its heading.
        caption: what it shows.
        alt: the same in words.
        drawing: contents of an SVG, the only text that is taken for markup; empty if there is nothing to draw.
        legend: names of its series and their colours; they repeat from 10 on.
        size: width and height of the drawing; one of more than twice its height takes the whole width of a page.
    """

    title: str
    caption: str
    alt: str = ""
    drawing: str = ""
    legend: Sequence[tuple[str, int]] = ()
    size: tuple[float, float] = (560, 300)


@dataclass(frozen=True)
class Charts:
    """Figures side by side."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "charts"


Block = Missing | Paragraph | Tiles | Table | Charts


@dataclass(frozen=True)
class Section:
    """A section of a page: the target of its link, its heading, its contents."""

    identity: str
    title: str
    blocks: Sequence[Block]
