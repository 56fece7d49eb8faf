"""The real Triton kernels in Triton's interpreter, on the CPU: ``TRITON_INTERPRET=1 python -m pytest tests/interpret``.

Triton decides at import whether it interprets, so these tests need a separate process, and any other run skips them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
REASON = "tests/interpret left out: run it alone, as `TRITON_INTERPRET=1 python -m pytest tests/interpret`"

if INTERPRETED and "triton" in sys.modules:
    import triton

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("triton was imported before TRITON_INTERPRET=1 was set: start a fresh process")
if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report why nothing here ran."""
    if not INTERPRETED:
        terminalreporter.write_line(REASON)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill new tensors with NaN, so that values a kernel fails to write are noticed; rows past the end are free."""

    def poisoned(create):
        def wrapper(*args, **kwargs):
            tensor = create(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return wrapper

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    with np.errstate(all="ignore"):
        yield
