"""Links between pages lead to files and headings that exist, and the site's table of contents names real pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from doc_pages import DOCS, PAGES, ROOT, hooks, name_of, prose

LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        path = page if not target else (page.parent / target).resolve()
        if not path.exists():
            found.append(link)
        elif anchor and path.suffix == ".md":
            heads = [slug(heading) for heading in HEADING.findall(prose(path))]
            found += [] if anchor in heads else [link]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken(page, prose(page)) == []


def test_a_broken_link_and_a_broken_anchor_are_found() -> None:
    good = "[a](loss.md) [b](loss.md#definition) [c](https://x.y/z) [d](faq.md#features-h-or-z)"
    text = f"{good} [e](los.md) [f](loss.md#defnition) [g](#no)"
    assert broken(DOCS / "index.md", text) == ["los.md", "loss.md#defnition", "#no"]


def test_headings_of_a_page_differ() -> None:
    """Two alike get anchors that differ between GitHub and the site."""
    for page in PAGES:
        heads = [slug(heading) for heading in HEADING.findall(prose(page))]
        again = {head for head in heads if heads.count(head) > 1}
        assert not any(f"#{head})" in prose(other) for head in again for other in PAGES), (name_of(page), again)


def in_contents(entry: object) -> list[str]:
    """The pages that an entry of the table of contents names."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in in_contents(part)]  # type: ignore[attr-defined]


def test_the_contents_of_the_site_are_pages() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)  # type: ignore[attr-defined]
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), loader)
    listed = in_contents(config["nav"])
    assert [page for page in listed if not (DOCS / page).is_file()] == []
    assert len(listed) == len(set(listed)) > 40


def test_links_out_of_docs_become_pages_of_the_site() -> None:
    site = hooks()
    example, guide = (
        site.outside("losses/clip.md", "../../examples/clip.py"),
        site.outside("faq.md", "../CONTRIBUTING.md"),
    )
    assert site.relative("losses/clip.md", example) == "../examples/clip.md"
    assert site.relative("faq.md", guide) == "contributing.md"
    assert site.outside("python.md", "data.md") is None and site.outside("python.md", "../NOWHERE.md") is None
    moved = site.as_page(ROOT / "CONTRIBUTING.md")
    assert "](benchmarks.md)" in moved and "](docs/" not in moved
