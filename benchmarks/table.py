"""Rows as text."""

from __future__ import annotations

from collections.abc import Sequence

from fastclr.bench.rows import Row, Spread


def seconds(value: float) -> str:
    """Format a time with three significant digits and its unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or unit == "us":
            scaled = value * factor
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    raise ValueError(f"not a time: {value}")


def size(count: float) -> str:
    """Format bytes with three significant digits."""
    for exponent, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**exponent:
            return (
                f"{count / 2**exponent:.3g} {unit}"
                if count < 100 * 2**exponent
                else f"{count / 2**exponent:.0f} {unit}"
            )
    return f"{count:.0f} B"


def rate(value: float) -> str:
    """Format units per second."""
    for factor, unit in ((1e9, " G"), (1e6, " M")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(value: Spread, show: str = "time") -> str:
    """Format a median with its [p20, p80]; a tilde marks a noisy one."""
    text = seconds if show == "time" else lambda x: f"{x:.3g}x"
    mark = "~" if value.noisy else ""
    return f"{mark}{text(value.median)} [{text(value.p20)}, {text(value.p80)}]"


def text_table(title: str, rows: Sequence[Row]) -> str:
    """Return the rows of one case as aligned text; rows without a time say why."""
    reference = next((row.reference for row in rows if row.reference), "")
    lines = [title + (f"   (factors are times over those of {reference})" if reference else "")]
    width = max([26, *(len(row.provider) + 2 for row in rows)])
    for row in rows:
        name = f"  {row.provider:<{width}}"
        if row.time is None:
            lines.append(f"{name}{row.status}: {row.note}")
            continue
        parts = [f"{spread(row.time):<36}"]
        if row.ratio is not None:
            own = row.provider == row.reference
            parts.append(" " * 9 if own else f"{row.ratio.median:>7.3g}x")
        if row.rate and row.unit:
            parts.append(f"{rate(row.rate):>9} {row.unit}/s")
        if row.peak_bytes is not None:
            parts.append(f"{size(row.peak_bytes):>10} extra")
        if row.share is not None:
            parts.append(f"{row.share:>5.0%} of the floor's speed")
        if row.error is not None:
            parts.append(f"error {row.error:.0e}")
        lines.append(name + "  ".join(parts) + f"  n={row.n}")
    return "\n".join(lines)
