"""Everything about a suite in one record: what was fixed before, what came out, and on which machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastclr.bench import machine
from fastclr.bench.findings.outcome import outcomes
from fastclr.bench.findings.plan import Plan
from fastclr.files import read_json

FORMAT = 1


def make_record(plan: Plan, out: Path) -> dict[str, Any]:
    """Return the record of what is done so far."""
    done = [each["numbers"] for each in plan.done.values() if each["status"] == "ok"]
    here = machine.describe(torch.device("cpu"))
    return {
        "format": FORMAT,
        **read_json(out / "suite.json"),
        "data": plan.data if plan.data == "shapes" else Path(plan.data).name,
        "void": plan.void(),
        "dropped": [finding.name for finding in plan.dropped],
        "findings": outcomes(plan),
        "trainings": len(done),
        "processor_s": sum(float(each["processor_s"]) for each in done),
        "machine": here,
        "commit": machine.commit(),
    }
