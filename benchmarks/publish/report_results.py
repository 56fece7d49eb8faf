"""The blocks of docs/results.md: tables of what was measured, with their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_curve import DIM, DTYPE, curves
from memory_plot import GB, LIMIT_GB
from report_data import Result
from report_page import TITLES
from report_tables import (
    LOSS_NAMES,
    augment_table,
    by_case,
    caption,
    headline_losses,
    loss_table,
    losses_table,
    malloc_text,
    record_text,
)

from fastclr.bench.machine import DEFAULT_MALLOC
from fastclr.bench.rows import Row
from fastclr.bench.table import size

FOLDER = "../benchmarks/results"  # seen from docs/


def best(results: Sequence[Result], suite: str) -> Result:
    """Return the result to show: from a GPU if there is one, and then the one that timed most libraries.

    Raises:
        ValueError: nothing has the suite.
    """
    found = [result for result in results if any(row.time for row in result.suite(suite))]
    if not found:
        raise ValueError(f"benchmarks/results has no {suite} results")
    return max(found, key=lambda result: rank(result, result.suite(suite)))


def other_losses(results: Sequence[Result]) -> list[tuple[Result, list[Row]]]:
    """Return the cases of the losses beside NT-Xent, each from the result that timed most libraries in it."""
    found: dict[str, tuple[tuple[bool, bool, int, int], Result, list[Row]]] = {}
    gpu = any(result.on_gpu and (result.suite("contrast") or result.suite("gram")) for result in results)
    for result in [each for each in results if each.on_gpu == gpu]:
        for case, by_provider in by_case([*result.suite("contrast"), *result.suite("gram")]).items():
            rows = list(by_provider.values())
            order = rank(result, rows)
            if any(row.time for row in rows) and (case not in found or order > found[case][0]):
                found[case] = order, result, rows
    return [(result, rows) for _, result, rows in found.values()]


def rank(result: Result, rows: Sequence[Row]) -> tuple[bool, bool, int, int]:
    """What makes the rows of a result those to show; of two files with as many libraries, that of more suites."""
    timed = len({row.provider for row in rows if row.time})
    return result.on_gpu, result.malloc == DEFAULT_MALLOC, timed, len({row.suite for row in result.rows if row.time})


def results_blocks(results: Sequence[Result], records: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    """Return the blocks of docs/results.md by name."""
    loss, augment = best(results, "loss"), best(results, "augment")
    rows = headline_losses(loss.suite("loss"))
    dtype = rows[0].parameters["dtype"]
    what = f"Measured: NT-Xent, forward and backward, D = 128, {dtype}, tau 0.1"
    parts = [*loss_table(rows), "", caption(what, loss, rows, link(loss))]
    for other in kept_memory(results, loss):
        parts += ["", f"{malloc_text(headline_losses(other.suite('loss')))}, [{other.path.name}]({link(other)})."]
    shapes = augment.suite("augment")
    photos = all(row.parameters.get("photos", True) for row in shapes if "photos" in row.case)
    pictures = "photos" if photos and not augment.on_gpu else "noise of their size"
    what = f"Measured: SimCLR's augmentation, two views of each image; 224 px from {pictures}"
    told = [f"{record_text(dict(each))}, [{path.name}]({FOLDER}/{path.name})." for path, each in records.items()]
    return {
        "memory": memory_table(results),
        "nt-xent": "\n".join(parts),
        "losses": losses_block(results),
        "augmentation": "\n".join(
            [*augment_table(shapes), "", caption(what, augment, shapes, link(augment), "medians")]
        ),
        "accuracy": "\n\n".join(told) or "Not measured yet: it needs a GPU, and `make record`.",
        "gpu": not_on_gpu(results),
    }


def memory_table(results: Sequence[Result]) -> str:
    """Counted bytes, their law, and what it says about 80 GB."""
    counted = curves(results)
    if counted is None:
        return "Not counted yet: `make bench`."
    source, found = counted
    head = ("", "bytes counted at the largest batch", "law for N images, in bytes", f"images within {LIMIT_GB} GB")
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---:|"]
    for name, curve in found.items():
        images, count = curve.points[-1]
        law = f"{curve.factor:,.1f} N{ {1: '', 2: '²', 3: '³'}[curve.degree] }"
        lines.append(f"| {name} | {size(count)} at {images:,} | {law} | {curve.within(LIMIT_GB * GB):,} |")
    rows = [row for row in source.suite("loss") if row.provider in found]
    what = f"Counted: bytes of PyTorch's allocator, NT-Xent, forward and backward, D = {DIM}, {DTYPE}"
    return "\n".join([*lines, "", caption(what, source, rows, link(source), "counts are exact")])


def losses_block(results: Sequence[Result]) -> str:
    """The table of the losses beside NT-Xent, and a caption for every file that it comes from."""
    shown = other_losses(results)
    if not shown:
        return "Not measured yet: `make bench-losses`."
    lines = losses_table([row for _, rows in shown for row in rows])
    sources = list(dict.fromkeys(result.path for result, _ in shown))
    for path in sources:
        result = next(result for result, _ in shown if result.path == path)
        rows = [row for source, found in shown if source is result for row in found]
        names = dict.fromkeys(LOSS_NAMES[row.parameters["loss"]].partition(",")[0] for row in rows)
        which = f"{', '.join(names)}: " if len(sources) > 1 else ""
        what = f"Measured: {which}N pairs (SupCon: N images in two views), forward and backward, float32"
        lines += ["", caption(what, result, rows, link(result))]
    return "\n".join(lines)


def kept_memory(results: Sequence[Result], shown: Result) -> list[Result]:
    """Return the CPU results other than `shown` for which the C library kept freed memory."""
    cpus = [] if shown.on_gpu else [result for result in results if not result.on_gpu and result is not shown]
    return [result for result in cpus if result.malloc != DEFAULT_MALLOC and result.suite("loss")]


def on_gpu(results: Sequence[Result]) -> set[str]:
    """Return the suites that have numbers from a GPU."""
    return {row.suite for result in results if result.on_gpu for row in result.rows if row.time}


def not_on_gpu(results: Sequence[Result]) -> str:
    """State plainly which suites have no numbers from a GPU."""
    measured = on_gpu(results)
    missing = [title.lower() for suite, title in TITLES.items() if suite not in measured]
    if not missing:
        return "Every suite has been measured on a GPU."
    if not measured:
        return "**Not measured on a GPU: everything.** No number of this project comes from a GPU yet."
    return f"**Not measured on a GPU:** {'; '.join(missing)}."


def link(result: Result) -> str:
    """Return the path of a results file as seen from docs/."""
    return f"{FOLDER}/{result.path.name}"
