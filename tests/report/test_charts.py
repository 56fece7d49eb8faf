from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from effort import EFFORT
from html_pages import Builder, Node
from hypothesis import given, settings
from hypothesis import strategies as st

from fastclr.evaluate import alignment, effective_rank, spectrum, uniformity
from fastclr.report.blocks import Cell, Charts, Figure, Missing, Paragraph, Picture, Section, Table, Tiles
from fastclr.report.charts import MOST_POINTS, Series, line_chart, scatter_chart
from fastclr.report.feature_sections import confusion_table
from fastclr.report.pages import page


def parse(markup: str) -> Node:
    builder = Builder()
    builder.feed(markup)
    return builder.root


def drawing(chart: Figure) -> Node:
    """Return the SVG of a chart, as the page shows it."""
    (svg,) = parse(page("t", "l", [Section("s", "S", [Charts([chart])])]).decode()).all("svg")
    return svg


def points(svg: Node, colour: int = 0) -> list[tuple[float, float]]:
    """Return the corners of the line of a colour."""
    (path,) = (p for p in svg.all("path") if f"stroke: var(--c{colour})" in p.attributes.get("style", ""))
    return [tuple(map(float, pair.split())) for pair in path.attributes["d"][1:].split("L")]  # type: ignore[misc]


def labels(svg: Node, anchor: str) -> list[Node]:
    """Return the tick labels of an axis."""
    texts = [t for t in svg.all("text") if f"text-anchor: {anchor}" in t.attributes["style"]]
    return [t for t in texts if re.fullmatch(r"[-\N{MINUS SIGN}]?[\d.,e-]+%?", t.text)]


def scale(svg: Node, anchor: str, coordinate: str) -> tuple[float, float]:
    """Return slope and offset from values to positions, from the two outermost ticks of an axis."""
    first, last = (labels(svg, anchor)[index] for index in (0, -1))
    low, high = (float(label.text.rstrip("%")) for label in (first, last))
    start, end = (float(label.attributes[coordinate]) for label in (first, last))
    slope = (end - start) / (high - low)
    return slope, start - slope * low


def test_points_lie_where_the_axes_say() -> None:
    x, y = [10, 20, 40, 50], [3.0, 1.25, 7.5, 2.0]
    svg = drawing(line_chart("t", [Series("a", x, y)], "step", "c"))
    found = np.array(points(svg))
    slope, offset = scale(svg, "middle", "x")
    np.testing.assert_allclose((found[:, 0] - offset) / slope, x, atol=0.1)
    slope, offset = scale(svg, "end", "y")
    np.testing.assert_allclose((found[:, 1] + 4.94 - offset) / slope, y, atol=0.02)  # a text stands below its line


def test_a_logarithmic_axis() -> None:
    svg = drawing(line_chart("t", [Series("a", [1, 2, 3, 4], [1.0, 0.1, 0.001, -1.0])], "x", "c", log=True))
    assert [float(t.text) for t in labels(svg, "end")] == [0.001, 0.01, 0.1, 1]
    places = [p[1] for p in points(svg)]
    assert len(places) == 3
    assert (places[2] - places[1]) == pytest.approx(2 * (places[1] - places[0]), abs=0.3)


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3], [1.0, math.nan, math.inf])], "x", "c")
    assert len(points(drawing(chart))) == 1
    empty = line_chart("t", [Series("a", [1], [math.nan]), Series("b", [], [])], "x", "c")
    assert not empty.drawing
    assert b"Nothing was recorded." in page("t", "l", [Section("s", "S", [Charts([empty])])])


@settings(max_examples=10 * EFFORT, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=4), st.booleans(), st.booleans())
def test_any_number_that_a_log_may_hold_can_be_drawn(values: list[float], log: bool, from_zero: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line_chart("t", [Series("a", range(len(values)), values)], "x", "c", log=log, from_zero=from_zero)


def test_a_chart_is_the_same_every_time_and_brings_nothing_of_its_own_into_the_page() -> None:
    lines = [Series("a", [1, 2], [1, 2]), Series("b", [1, 2], [2, 1], 1, dots=True)]
    one, other = (line_chart("t", lines, "x", "c") for _ in range(2))
    assert one == other
    text = one.drawing + scatter_chart("m", [("a", [(0, 1), (2, 3)]), ("", [(1, 1)])], "c").drawing
    assert not re.search(r"#[0-9a-f]{6}|font-family|<style|<metadata|http|20\d\d-", text)
    shared = set(re.findall(r' id="([^"]*)"', one.drawing)) & set(
        re.findall(r' id="([^"]*)"', text[len(one.drawing) :])
    )
    assert not shared


def test_many_points_are_averaged() -> None:
    series = Series("a", range(10_000), np.sin(np.arange(10_000)).tolist())
    found = series.points()
    assert len(found) <= MOST_POINTS
    size = math.ceil(10_000 / MOST_POINTS)
    assert found[0] == pytest.approx((np.arange(size).mean(), np.sin(np.arange(size)).mean()))


def test_every_text_is_escaped() -> None:
    evil = "<script>alert('&')</script>\"\x1b[2J"
    cell = Cell(evil, evil, Picture(evil, evil, False), True)
    table = Table((evil, evil), [(evil, cell)], evil, evil, folded=evil)
    line = line_chart(evil, [Series(evil, [1, 2], [1, 2]), Series("b", [1], [1])], "<script>", evil, unit="<script>")
    blocks = [table, Charts([line]), Tiles([(evil, evil)]), Paragraph(evil, True), Missing(evil)]
    contents = page(evil, evil, [Section(evil, evil, blocks)]).decode()
    assert "<script" not in contents and contents.count("&lt;script&gt;") >= 20
    assert contents.replace("\n", "").isprintable()
    root = parse(contents)
    shown = evil.replace("\x1b", "\\x1b")
    assert root.all("img")[0].attributes["alt"] == shown and root.all("h1")[0].text == shown


def test_a_large_confusion_matrix_lists_the_commonest_confusions() -> None:
    counts = torch.diag(torch.full((30,), 5))
    counts[3, 7], counts[20, 1] = 4, 9
    found = confusion_table(counts, [f"class{i}" for i in range(30)], "c")
    assert isinstance(found, Table) and found.rows == [("class20", "class1", "9"), ("class3", "class7", "4")]
    assert isinstance(confusion_table(torch.diag(torch.ones(30, dtype=torch.int64)), ["a"] * 30, "c"), Missing)


def test_diagnostics_of_features_whose_values_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 4, generator=generator, dtype=torch.float64)).Q
    # four orthogonal columns with singular values 2, 1, 1, 0
    features = basis * torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    p = np.array([0.5, 0.25, 0.25])
    assert effective_rank(features.float()) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(7, 3)) == 0.0
    expected = np.linalg.eigvalsh(np.cov(features.numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(spectrum(features).numpy(), np.clip(expected, 0, None), atol=1e-12)


def test_alignment_and_uniformity_equal_their_definitions() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    a = one.numpy() / np.linalg.norm(one.numpy(), axis=1, keepdims=True)
    b = other.numpy() / np.linalg.norm(other.numpy(), axis=1, keepdims=True)
    assert alignment(one, other) == pytest.approx(np.mean([np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)]))
    pairs = [np.exp(-2 * np.sum((a[i] - a[j]) ** 2)) for i in range(9) for j in range(i)]
    assert uniformity(one) == pytest.approx(np.log(np.mean(pairs)))
    assert alignment(one, 3 * one) == pytest.approx(0, abs=1e-12)
    assert alignment(one, -one) == pytest.approx(4)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0, abs=1e-6)
