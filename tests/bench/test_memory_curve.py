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
from memory_plot import BOX, FEWEST, GB, HEIGHT, MOST, TOP_GB, WIDTH, memory_shown, memory_svg
from report_data import load_all
from report_plots import digest_of, stored_digest
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
        each.get("id", "").removeprefix("curve-"): each[0].get("d", "")
        for each in root.iter("{http://www.w3.org/2000/svg}g")
        if each.get("id", "").startswith("curve-")
    }
    assert {"pytorch", "lightly", "fastclr"} < set(lines)
    for name, path in lines.items():
        places = [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]
        assert [x for x, _ in places] == sorted(x for x, _ in places)
        last = min(MOST, found[name].within(TOP_GB * GB))
        assert places[0] == pytest.approx(place(FEWEST, found[name].at(FEWEST)), abs=0.1), name
        assert places[-1] == pytest.approx(place(last, found[name].at(last)), abs=0.1), name
    assert not re.search(r"(src|href)=\"[^#]", svg)


def place(images: float, count: float) -> tuple[float, float]:
    """Return where in the picture a number of bytes belongs: logarithmic across, linear upwards."""
    left, bottom, width, height = BOX
    across = left + width * math.log(images / FEWEST) / math.log(MOST / FEWEST)
    return WIDTH * across, HEIGHT * (1 - bottom - height * count / GB / TOP_GB)


def test_the_picture_is_the_same_every_time_and_knows_its_counts() -> None:
    found = drawn()
    svg = memory_svg(found)
    assert svg == memory_svg(found)
    assert stored_digest(svg) == digest_of(memory_shown(found))
    few = {name: found[name] for name in ("pytorch", "fastclr")}
    assert stored_digest(memory_svg(few)) == digest_of(memory_shown(few)) != stored_digest(svg)
