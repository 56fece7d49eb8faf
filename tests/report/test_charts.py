from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from effort import EFFORT
from html_pages import Builder, Node
from hypothesis import given, settings
from hypothesis import strategies as st

from fastclr.evaluate import alignment, effective_rank, spectrum, uniformity
from fastclr.report.charts import MOST_POINTS, Series, line_chart, ticks
from fastclr.report.feature_sections import confusion_table
from fastclr.report.markup import element, page, table

FINITE = st.floats(-1e6, 1e6)


def parse(markup: str) -> Node:
    builder = Builder()
    builder.feed(markup)
    return builder.root


def points(drawing: Node) -> list[tuple[float, float]]:
    path = next(p for p in drawing.all("path") if "series" in p.attributes["class"])
    return [tuple(map(float, pair.split())) for pair in path.attributes["d"][1:].split("L")]  # type: ignore[misc]


def scale(drawing: Node, anchor: str, coordinate: str) -> tuple[float, float]:
    """Return slope and offset from values to positions, from the two outermost ticks of an axis."""
    labels = [t for t in drawing.all("text", **{"text-anchor": anchor}) if re.fullmatch(r"-?[\d.e-]+%?", t.text)]
    values = [float(label.text.rstrip("%")) for label in (labels[0], labels[-1])]
    places = [float(label.attributes[coordinate]) for label in (labels[0], labels[-1])]
    slope = (places[1] - places[0]) / (values[1] - values[0])
    return slope, places[0] - slope * values[0]


def test_points_lie_where_the_axes_say() -> None:
    x, y = [10, 20, 40, 50], [3.0, 1.25, 7.5, 2.0]
    drawing = parse(line_chart("t", [Series("a", x, y)], "step", "c")).all("svg")[0]
    found = np.array(points(drawing))
    slope, offset = scale(drawing, "middle", "x")
    np.testing.assert_allclose((found[:, 0] - offset) / slope, x, atol=0.1)
    slope, offset = scale(drawing, "end", "y")
    np.testing.assert_allclose((found[:, 1] + 4 - offset) / slope, y, atol=0.02)  # a text stands 4 below its line


def test_a_logarithmic_axis() -> None:
    y = [1.0, 0.1, 0.001]
    drawing = parse(line_chart("t", [Series("a", [1, 2, 3], [*y[:2], y[2]])], "x", "c", log=True)).all("svg")[0]
    labels = [float(t.text) for t in drawing.all("text", **{"text-anchor": "end"})]
    assert labels == [0.001, 0.01, 0.1, 1]
    places = [p[1] for p in points(drawing)]
    assert (places[2] - places[1]) == pytest.approx(2 * (places[1] - places[0]), abs=0.3)


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = parse(line_chart("t", [Series("a", [1, 2, 3], [1.0, math.nan, math.inf])], "x", "c"))
    assert len(points(chart.all("svg")[0])) == 1
    empty = line_chart("t", [Series("a", [1], [math.nan]), Series("b", [], [])], "x", "c")
    assert "Nothing was recorded." in empty and "<svg" not in empty


def test_many_points_are_averaged() -> None:
    series = Series("a", range(10_000), np.sin(np.arange(10_000)).tolist())
    found = series.points()
    assert len(found) <= MOST_POINTS
    size = math.ceil(10_000 / MOST_POINTS)
    assert found[0] == pytest.approx((np.arange(size).mean(), np.sin(np.arange(size)).mean()))


@settings(max_examples=200 * EFFORT, deadline=None)
@given(FINITE, FINITE)
def test_ticks_are_few_round_and_span_the_values(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    found = ticks(low, high)
    step = found[1] - found[0]
    assert 2 <= len(found) <= 12
    assert found[0] <= low + 1e-6 * step and found[-1] >= high - 1e-6 * step
    mantissa = step / 10 ** math.floor(math.log10(step * (1 + 1e-6)))
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-3


def test_every_text_is_escaped() -> None:
    evil = "<script>alert('&')</script>\""
    rows = [(evil, evil)]
    contents = page(evil, evil, [("a", evil, table((evil, evil), rows, evil))]).decode()
    assert "<script" not in contents and contents.count("&lt;script&gt;") >= 8
    assert parse(element("img", alt=evil)).children[0].attributes["alt"] == evil
    chart = line_chart(evil, [Series(evil, [1, 2], [1, 2]), Series("b", [1], [1])], evil, evil, unit=evil)
    assert "<script" not in chart


def test_a_large_confusion_matrix_lists_the_commonest_confusions(tmp_path: Path) -> None:
    counts = torch.diag(torch.full((30,), 5))
    counts[3, 7], counts[20, 1] = 4, 9
    found = parse(confusion_table(counts, [f"class{i}" for i in range(30)], "c"))
    rows = [[cell.text for cell in row.children] for row in found.all("tbody")[0].all("tr")]
    assert rows == [["class20", "class1", "9"], ["class3", "class7", "4"]]
    assert "No test image" in confusion_table(torch.diag(torch.ones(30, dtype=torch.int64)), ["a"] * 30, "c")


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
