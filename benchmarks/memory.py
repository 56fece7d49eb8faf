"""Bytes that a computation holds at once; the tests of memory use it too."""

from __future__ import annotations

from fastclr.bench.memory import peak_bytes

__all__ = ["peak_bytes"]
