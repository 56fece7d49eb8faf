"""The memory of the loss: counts, the polynomials through them, and the picture."""

from __future__ import annotations

import math
import re
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from memory_curve import Curve, curves
from memory_plot import GB, MOST, across, memory_svg, up
from report_data import load_all
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastclr.bench.loss_cases import LossCase
from fastclr.bench.loss_peers import contestants
from fastclr.bench.timing import run

ROOT = Path(__file__).resolve().parents[2]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators return and that are still alive: no allocator, no profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf.untyped_storage(), given)
        self.peak = max(self.peak, self.live)
        return found

    def see(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        """Count a storage until it is freed."""
        address, size = storage._cdata, storage.nbytes()
        if address in self.known or address in given:
            return
        self.known.add(address)
        self.live += size

        def freed() -> None:
            self.known.discard(address)
            self.live -= size

        weakref.finalize(storage, freed)


def drawn() -> dict[str, Curve]:
    found = curves(load_all(ROOT / "benchmarks" / "results"))
    assert found is not None
    return found[1]


def test_a_law_goes_through_the_counts_and_meets_the_one_it_was_not_made_from() -> None:
    curve = Curve("x", 2, [(100, 27_000), (1000, 3_000_000)])
    assert curve.at(2000) == pytest.approx(12e6)
    assert curve.within(12e6) == 2000 and curve.within(12e6 - 1) == 1999
    with pytest.raises(ValueError, match="its law of degree 2 says 30,000"):
        Curve("x", 2, [(100, 24_000), *curve.points[1:]])
    assert Curve("x", 1, [(100, 900), (200, 1000)]).at(1000) == 5000


def test_the_allocator_counts_what_tensors_hold() -> None:
    case = LossCase(rows=512, dim=128)
    (plain,) = [each for each in contestants(case) if each.name == "pytorch"]
    attempt = plain.prepare()
    run(attempt.program)
    with LiveBytes() as counter:
        run(attempt.program)
    assert dict(drawn()["pytorch"].points)[256] == pytest.approx(counter.peak, rel=0.05)


def test_the_picture_shows_every_curve_where_its_counts_are() -> None:
    found = drawn()
    svg = memory_svg(found)
    root = ElementTree.fromstring(svg)
    assert "prefers-color-scheme: dark" in svg and "80 GB" in svg
    texts = " ".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))
    for name in ("pytorch", "lightly", "pytorch-compile", "pytorch-metric-learning"):
        assert f"{found[name].within(80 * GB):,}" in texts
    lines = {
        each.get("class", "").split()[1]: each.get("points", "")
        for each in root.iter("{http://www.w3.org/2000/svg}polyline")
    }
    for name, points in lines.items():
        pairs = [tuple(map(float, point.split(","))) for point in points.split()]
        assert all(0 <= x <= 840 and 0 <= y <= 430 for x, y in pairs), name
        assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
    x, y = (float(value) for value in lines["c-fastclr"].split()[-1].split(","))
    assert (x, y) == pytest.approx((across(MOST), up(found["fastclr"].at(MOST))), abs=0.1)
    assert up(80 * GB) < up(0) and math.isclose(across(2**13) - across(2**12), across(2**18) - across(2**17))
    assert not re.search(r"(src|href)=", svg)
