"""Markdown tables of rows, and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from report_data import Result

from fastclr.bench.machine import DEFAULT_MALLOC
from fastclr.bench.rows import OURS, Row
from fastclr.bench.table import rate, seconds, size, spread

NOT_TIMED = {"not installed": "not installed", "unsuitable": "-", "wrong": "wrong gradient", "failed": "fails"}


def by_case(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Group rows by case and provider, both in order of appearance."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.case, {})[row.provider] = row
    return found


def headline_losses(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of NT-Xent at D = 128 in the main dtype (bfloat16 on a GPU, else float32), by M."""
    dtypes = {row.parameters["dtype"] for row in rows if row.parameters.get("device", "cpu") != "cpu"}
    dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
    wanted = {"layout": "ntxent", "dim": 128, "dtype": dtype, "learnable": False}
    chosen = [row for row in rows if all(row.parameters.get(name) == value for name, value in wanted.items())]
    return sorted(chosen, key=lambda row: int(row.parameters["rows"]))


def loss_table(rows: Sequence[Row]) -> list[str]:
    """NT-Xent over N = M / 2: time and memory of fastclr, and each peer's factors relative to it."""
    cases = by_case(headline_losses(rows))
    peers = list(dict.fromkeys(name for found in cases.values() for name in found if not name.startswith(OURS)))
    lines = ["| images N | fastclr | extra memory | of the ceiling |" + "".join(f" {p} |" for p in peers)]
    lines.append("|---:|---:|---:|---:|" + "---:|" * len(peers))
    for found in cases.values():
        ours = found[OURS]
        cells = [f"{int(ours.parameters['rows']) // 2:,}", *own_cells(ours)]
        cells += [factor(found[name], ours) if name in found else "-" for name in peers]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


LOSS_NAMES = {
    "clip": "CLIP",
    "siglip": "SigLIP",
    "sup_con": "SupCon, 100 classes",
    "multiple_negatives": "multiple negatives, one hard",
    "barlow_twins": "Barlow Twins",
    "vicreg": "VICReg",
}


def losses_table(rows: Sequence[Row]) -> list[str]:
    """The other losses, a case a line: time and memory of fastclr, and every peer's factors relative to it."""
    lines = [
        "| loss | N | D | fastclr | extra memory | of the ceiling | others |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for found in by_case(rows).values():
        ours = found[OURS]
        size = [LOSS_NAMES[ours.parameters["loss"]], f"{ours.parameters['rows']:,}", f"{ours.parameters['dim']:,}"]
        others = {name: row for name, row in found.items() if name != OURS and row.status != "unsuitable"}
        peers = "; ".join(f"{name} {factor(row, ours)}" for name, row in others.items())
        lines.append("| " + " | ".join([*size, *own_cells(ours), peers]) + " |")
    return lines


def own_cells(row: Row) -> list[str]:
    """Time, memory and share of the ceiling."""
    share = "-" if row.share is None else f"{row.share:.0%}"
    memory = "-" if row.peak_bytes is None else size(row.peak_bytes)
    return [spread(row.time) if row.time else row.status, memory, share]


def factor(row: Row, ours: Row) -> str:
    """A peer's time and memory relative to those of fastclr, or why they are unknown."""
    if row.time is None or row.ratio is None:
        return NOT_TIMED.get(row.status, row.status)
    mark = "~" if row.ratio.noisy else ""
    text = f"{mark}{row.ratio.median:.1f}x time"
    if row.peak_bytes and ours.peak_bytes:
        text += f", {row.peak_bytes / ours.peak_bytes:.1f}x memory"
    return text


def augment_table(rows: Sequence[Row]) -> list[str]:
    """Views per second of every provider, and how many times as fast fastclr is."""
    cases = by_case([row for row in rows if "float32" not in row.case])
    providers = list(dict.fromkeys(name for found in cases.values() for name in found))
    lines = ["| two views per image | " + " | ".join(f"{name}, views/s | fastclr is faster" for name in cases) + " |"]
    lines.append("|---|" + "---:|---:|" * len(cases))
    for name in providers:
        cells = [name]
        for found in cases.values():
            row = found.get(name)
            if row is None or row.rate is None or row.ratio is None:
                cells += ["-" if row is None else NOT_TIMED.get(row.status, row.status), ""]
                continue
            mark = "~" if row.ratio.noisy else ""
            cells += [
                ("~" if row.time and row.time.noisy else "") + rate(row.rate),
                "" if name == OURS else f"{mark}{row.ratio.median:.1f}x",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


PLAIN = ("", "time [p20, p80]", "factor", "rate", "extra memory", "of the floor", "error", "n", "")


def plain_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Every row of one case, for the page, under the headings `PLAIN`."""
    lines = []
    for row in rows:
        if row.time is None:
            lines.append((row.provider, row.status, *[""] * 6, row.note))
            continue
        stages = ", ".join(f"{name} {seconds(value.median)}" for name, value in row.stages.items())
        known = " ".join(f"{name} {version}" for name, version in row.versions.items())
        cells = (
            spread(row.time),
            f"{row.ratio.median:.3g}x" if row.ratio else "",
            f"{rate(row.rate)} {row.unit}/s" if row.rate and row.unit else "",
            size(row.peak_bytes) if row.peak_bytes is not None else "",
            f"{row.share:.0%}" if row.share is not None else "",
            f"{row.error:.0e}" if row.error is not None else "",
            str(row.n),
        )
        lines.append((row.provider, *cells, "; ".join(filter(None, [known, row.note, stages]))))
    return lines


def malloc_text(rows: Sequence[Row]) -> str:
    """The largest case of NT-Xent where the C library keeps freed memory."""
    found = list(by_case(rows).values())[-1]
    ours = found[OURS]
    peers = [f"{row.provider} {factor(row, ours)}" for row in found.values() if row.time and row is not ours]
    where = f"N = {int(ours.parameters['rows']) // 2:,} takes {own_cells(ours)[0]} in fastclr"
    return (
        "By default glibc gives large freed blocks back, so that losses with the whole matrix pay for its pages in "
        f"every call. Where it keeps them, as jemalloc and TCMalloc do, {where}, {', '.join(peers)}"
    )


def record_text(record: dict[str, Any]) -> str:
    """A time-to-accuracy record in one sentence, which says so if the run is not finished."""
    config = record["config"]
    parts = [f"CIFAR-10, {config['encoder']}, epoch {record['epochs_done']} of {record['epochs']}"]
    if record["passed"] is None:
        parts.append(f"has not passed {100 * record['target']:.1f}% kNN (k = 10, cosine) yet")
    else:
        clock = "a clock that was not kept" if record["clock_s"] is None else f"{record['clock_s']:,.1f} s of training"
        compiled = f" and {record['compile_s']:,.1f} s of compilation" if record["compile_s"] is not None else ""
        at = f"at epoch {record['passed']['epoch']}, after {clock}{compiled}"
        parts.append(f"passed {100 * record['target']:.1f}% kNN (k = 10, cosine) {at}")
    if record["final"]:
        final = record["final"]
        parts.append(f"its exported file at the end kNN {100 * final['knn']:.2f}%, probe {100 * final['probe']:.2f}%")
    if record["supervised"]:
        ceiling = record["supervised"]
        parts.append(f"with labels {100 * ceiling['accuracy']:.2f}% after {ceiling['epochs']} epochs")
    return f"{', '.join(parts)}; {machine_text(record['machine'])}; `{record['commands'][-1]}`"


def machine_text(machine: dict[str, Any]) -> str:
    """A one-line description of the machine and the source tree."""
    commit = f"commit {machine['commit'][:10]}" if machine.get("commit") else "commit unknown"
    dirty = " with uncommitted changes" if machine.get("dirty") else ""
    return f"{hardware_text(machine)}, {commit}{dirty}"


def hardware_text(machine: dict[str, Any]) -> str:
    """A one-line description of the machine."""
    if machine["device"] == "cuda":
        parts = [machine["gpu"], f"{machine['power_limit']} limit" if machine.get("power_limit") else ""]
        parts += [f"driver {machine['driver']}" if machine.get("driver") else ""]
    else:
        malloc = "" if machine["malloc"] == DEFAULT_MALLOC else f"malloc {machine['malloc']}"
        threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
        parts = [f"{threads} of {machine['cpu']}", malloc]
    known = machine["versions"]
    parts += [f"PyTorch {known['torch']}", f"Triton {known['triton']}" if "triton" in known else ""]
    return ", ".join(filter(None, parts))


def caption(what: str, result: Result, rows: Sequence[Row], link: str, shown: str = "median [p20, p80]") -> str:
    """The caption: where, with what and how the table above it was measured."""
    counts = [row.n for row in rows if row.time]
    n = f"n = {min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"n = {counts[0]}"
    peers: dict[str, str] = {}
    for row in rows:
        peers |= row.versions
    known = ", ".join(f"{name} {version}" for name, version in sorted(peers.items()))
    noisy = (
        "; ~ marks a spread above 15%"
        if any(r.time and (r.time.noisy or (r.ratio and r.ratio.noisy)) for r in rows)
        else ""
    )
    parts = [what, f"{shown}, {n}{noisy}", machine_text(result.machine), known]
    return "; ".join(filter(None, parts)) + f"; `{result.commands[-1]}`, [{result.path.name}]({link})."
