"""The pictures of the findings show every number where it belongs."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest
from findings_plot import VERDICTS, effects_svg, grid_shown, grid_svg
from report_plots import digest_of, stored_digest

from fastclr.bench.findings.operators import OPERATORS


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """Return where each text of a picture stands, if it stands once."""
    root = ElementTree.fromstring(svg)
    found = [("".join(each.itertext()), each) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    counts = Counter(text for text, _ in found)
    return {text: (float(e.get("x", 0)), float(e.get("y", 0))) for text, e in found if counts[text] == 1}


def test_the_picture_of_the_grid_has_every_pair_in_its_place() -> None:
    pairs = [f"{first}+{second}" for first, second in product(OPERATORS, OPERATORS)]
    means = {pair: 0.1 + 0.003 * number + 0.000122 * number**2 for number, pair in enumerate(pairs)}  # no two alike
    means["color+crop"] = 0.777
    conditions = [{"role": role, "means": {"linear": mean}} for role, mean in means.items()]
    record = {"findings": [{"name": "augmentation-grid", "conditions": conditions}], "seeds": [1, 2, 3]}
    record |= {"images": [4000, 1000], "data": "shapes", "base": {"epochs": 12}}
    svg = grid_svg(record)
    found = texts(svg)
    for first, second in product(OPERATORS, OPERATORS):
        if first == second:  # the name of an operator stands twice: on the left and at the top
            continue
        x, y = found[f"{100 * means[f'{first}+{second}']:.1f}"]
        same_row, same_column = (found[f"{100 * means[f'{each}+{each}']:.1f}"] for each in (first, second))
        assert y == pytest.approx(same_row[1], abs=0.1) and x == pytest.approx(same_column[0], abs=0.1)
    assert found["52.5"][1] > found["10.0"][1] and found["52.5"][0] > found["10.0"][0]
    row = [means[f"color+{second}"] for second in OPERATORS]
    assert found[f"{100 * sum(row) / 7:.1f}"][1] == pytest.approx(found["77.7"][1], abs=0.1)
    assert '<desc id="about">best: color, then crop with 77.7%; best one alone: rotate with 52.5%' in svg
    assert "4,000 images of shapes, 12 epochs, means of 3 seeds" in " ".join(found)
    assert svg == grid_svg(record) and stored_digest(svg) == digest_of(grid_shown(record))


def test_the_picture_of_the_effects_has_every_interval_to_scale() -> None:
    def suite(first: tuple[str, float, float, float], second: tuple[str, float, float, float]) -> dict[str, Any]:
        claims = [
            {"title": title, "primary": True, "unit": unit, "verdict": v, "mean": mean, "low": low, "high": high}
            for title, unit, (v, mean, low, high) in (
                ("a", "points", first),
                ("b", "points", second),
                ("c", "nats", second),
                ("d", "points", ("not resolved", 1.0, math.nan, math.nan)),
            )
        ]
        base = {"images": [400, 100], "data": "mine", "base": {"epochs": 3}, "seeds": [1, 2, 3]}
        return {"findings": [{"name": "f", "claims": claims}], **base}

    once = suite(("holds", 20.0, 10.0, 30.0), ("not resolved", -1.0, -10.0, 8.0))
    again = suite(("contradicted", -5.0, -10.0, -1.0), ("not resolved", 0.0, -2.0, 2.0))
    svg = effects_svg([once, again])
    lines: dict[str, tuple[list[float], str]] = {}
    for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        if each.get("id", "").startswith("interval-"):
            path = each[0]
            ends = [float(x) for x, _ in re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))]
            lines[each.get("id", "")] = (ends, re.findall(r"stroke: (#\w+)", path.get("style", ""))[0])
    assert list(lines) == ["interval-0-0", "interval-0-1", "interval-1-0", "interval-1-1"]
    expected = ((10, 30), (-10, -1), (-10, 8), (-2, 2))
    scale = (lines["interval-0-0"][0][1] - lines["interval-0-0"][0][0]) / 20
    zero = lines["interval-0-0"][0][0] - 10 * scale
    for (ends, _), interval in zip(lines.values(), expected, strict=True):
        assert [(x - zero) / scale for x in ends] == pytest.approx(interval, abs=0.01)
    verdicts = ("holds", "contradicted", "not resolved", "not resolved")
    assert [colour for _, colour in lines.values()] == [VERDICTS[verdict][0] for verdict in verdicts]
    assert "f: a: holds, +20.0 (+10.0 to +30.0)" in svg and "f: d" not in svg and "f: c" not in svg
