"""HTML and SVG from Python: all text is escaped, unless it is already markup made here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from fastclr import __version__
from fastclr.report.style import STYLE
from fastclr.sources.printable import printable

VOID = ("img", "meta", "br", "col")
GENERATOR = "fastclr report"
# the page loads nothing from outside, and the browser must block it if it tried
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is already markup."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: object) -> Html:
    """Return an element. `children` that are not `Html` are escaped; ``class_`` gives class, ``aria_label`` aria-label.

    Attributes that are None or False are omitted; True gives an attribute without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        elif value is not None and value is not False:
            parts.append(f'{attribute}="{escaped(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def join(children: Iterable[str]) -> Html:
    """Concatenate children, escaping those that are not `Html`."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def escaped(text: str) -> str:
    """Escape text for markup, and whatever a reader cannot see."""
    return html.escape(printable(text))


def paragraph(*children: str) -> Html:
    """Return a paragraph."""
    return element("p", *children)


def missing(reason: str) -> Html:
    """Return a note that says why there is nothing to show."""
    return element("p", reason, class_="missing")


def section(title: str, *children: str, identity: str) -> Html:
    """Return a section with a heading."""
    heading = element("h2", title, id=f"{identity}-title")
    return element("section", heading, *children, id=identity, aria_labelledby=f"{identity}-title")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    *,
    class_: str = "",
    marked: Sequence[int] = (),
    shades: Sequence[Sequence[float]] | None = None,
) -> Html:
    """Return a table whose first column holds the row headings.

    Args:
        head: column headings.
        rows: the cells.
        caption: what the table shows.
        class_: of the enclosing element.
        marked: indices of rows to highlight.
        shades: background strength from 0 to 1 for every cell right of the first column.
    """
    body = []
    for number, (first, *rest) in enumerate(rows):
        styles = [f"background:rgba(var(--heat),{0.6 * share:.2f})" for share in shades[number]] if shades else None
        cells = [element("td", cell, style=styles[i] if styles else None) for i, cell in enumerate(rest)]
        kind = "marked" if number in marked else None
        body.append(element("tr", element("th", first, scope="row"), *cells, class_=kind))
    parts = [
        element("caption", caption),
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", *body),
    ]
    # a focusable region, so that a wide table can be scrolled by keyboard
    around = {"class_": f"scroll {class_}".strip(), "tabindex": 0, "role": "region", "aria_label": caption}
    return element("div", element("table", *parts), **around)


def figure(picture: str, caption: str, *more: str, class_: str | None = None) -> Html:
    """Return a figure with a legend or other parts below it, and its caption."""
    return element("figure", picture, *more, element("figcaption", caption), class_=class_)


def legend(entries: Sequence[tuple[str, int]]) -> Html:
    """Return a legend of series names and their colours, 0 to 9."""
    items = []
    for name, colour in entries:
        swatch = element("span", class_=f"swatch b{colour}", aria_hidden="true")
        items.append(element("li", swatch, name))
    return element("ul", *items, class_="legend")


def page(title: str, lead: str, sections: Sequence[tuple[str, str, Html]]) -> bytes:
    """Return a complete page; `sections` are (identity, title, content) and also make up the table of contents."""
    links = [element("li", element("a", name, href=f"#{identity}")) for identity, name, _ in sections]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    ]
    body = [
        element("header", element("h1", title), paragraph(lead)),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *(section(name, content, identity=identity) for identity, name, content in sections)),
    ]
    document = element("html", element("head", *head), element("body", *body), lang="en")
    # file names may contain bytes that are not valid text
    return f"<!doctype html>\n{document}\n".encode("utf-8", "backslashreplace")
