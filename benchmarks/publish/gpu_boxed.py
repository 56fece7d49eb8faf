"""Runs the cases of one stage of a day with a GPU, each in a process that may hang or break the device.

    python benchmarks/publish/gpu_boxed.py numerics|tiles --out FOLDER --minutes N [--rehearse]

The parent writes FOLDER/STAGE.json after every case. A case that takes too long is killed, one that ends its
process is noted; the next process goes on behind it. Cases that are in the file are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = ("numerics", "tiles")
CASE_S = 45.0  # a case that takes longer does not end: with kernels to compile they take some seconds
START_S = 120.0  # from the start of a process to its first case


def named(stage: str, rehearse: bool) -> dict[str, Any]:
    """The cases of a stage by name, in order."""
    import gpu_cases
    import gpu_tiles

    found: list[Any] = gpu_cases.cases(rehearse) if stage == "numerics" else gpu_tiles.comparisons(rehearse)
    return {case.name: case for case in found}


def run_case(case: Any, device: Any, rehearse: bool) -> dict[str, Any]:
    """Run one case: an entry of the file."""
    import gpu_cases
    import gpu_tiles

    if isinstance(case, gpu_tiles.Comparison):
        return case.run(device, rehearse)
    errors = gpu_cases.relative_errors(case.outcome(device), case.outcome(device, exact=True))
    return {
        "status": "ok" if all(error <= case.limit for error in errors) else "wrong",  # false for NaN too
        "errors": [float(f"{error:.3g}") for error in errors],
        "limit": float(f"{case.limit:.3g}"),
    }


def prepare() -> tuple[Any, Any, Any]:
    """The device, what counts kernels, and what waits for the device."""
    import torch
    from compiled_ahead import Counter

    if torch.cuda.is_available():
        return torch.device("cuda"), Counter(), torch.cuda.synchronize
    return torch.device("cpu"), Counter(), lambda: None


def child(stage: str, rehearse: bool) -> None:
    """Run the cases that standard input names, and print a line of JSON before and after each."""
    cases, (device, counter, synchronize) = named(stage, rehearse), prepare()
    for name in json.load(sys.stdin):
        print(json.dumps({"start": name}), flush=True)
        before, begin = (len(counter.compiled), len(counter.found)), time.monotonic()
        try:
            entry = run_case(cases[name], device, rehearse)
            synchronize()
        except Exception as error:
            entry = {"status": "failed", "note": f"{type(error).__name__}: {error}"[:500]}
        entry |= {"compiled": len(counter.compiled) - before[0], "cached": len(counter.found) - before[1]}
        entry["seconds"] = round(time.monotonic() - begin, 3)
        print(json.dumps({"end": name, "entry": entry}), flush=True)
        if entry["status"] == "failed" and getattr(device, "type", "") == "cuda":
            return  # the device may be broken: the next process has another context


def attempt(stage: str, rehearse: bool, left: list[str], end: float) -> Iterator[dict[str, dict[str, Any]]]:
    """Start a process for the cases `left`; yield entries as they come until it ends, hangs or the time is up."""
    command = [sys.executable, "-W", "ignore", __file__, stage, "--child"]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if rehearse else {})
    process = subprocess.Popen(
        [*command, *(["--rehearse"] if rehearse else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # a buffer would hide lines from the selector
        env=environment,
    )
    found: dict[str, dict[str, Any]] = {}
    current, limit = "", time.monotonic() + START_S
    if process.stdin is None or process.stdout is None:
        raise OSError("no pipes")
    with process, selectors.DefaultSelector() as selector:
        process.stdin.write(json.dumps(left).encode())
        process.stdin.close()
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, min(limit, end) - time.monotonic())):
                process.kill()
                if current and time.monotonic() >= limit:
                    found[current] = {"status": "hung", "note": f"did not end within {CASE_S:.0f} s"}
                break
            line = process.stdout.readline()
            if not line:
                process.wait()
                if current:
                    found[current] = {"status": "crashed", "note": f"the process ended with {process.returncode}"}
                break
            message = json.loads(line) if line.startswith(b"{") else {}
            if "start" in message:
                current, limit = message["start"], time.monotonic() + CASE_S
            elif "end" in message:
                found[message["end"]], current = message["entry"], ""
                yield found
                if time.monotonic() >= end:
                    process.kill()
                    break
    yield found


def run(stage: str, path: Path, minutes: float, rehearse: bool) -> int:
    """Run what is not in the file yet, for so long; return 1 if a case is not right."""
    import torch

    from fastclr.bench import machine
    from fastclr.bench.suite import check_same
    from fastclr.files import write_text_atomically

    end = time.monotonic() + 60 * minutes
    here = machine.describe(torch.device("cuda" if torch.cuda.is_available() else "cpu")) | {"rehearsal": rehearse}
    stored = json.loads(path.read_text()) if path.exists() else {"machine": here, "cases": {}}
    check_same(path, stored["machine"], here)
    names = list(named(stage, rehearse))
    commands = list(dict.fromkeys([*stored.get("commands", []), machine.command_line()]))

    def write() -> list[str]:
        left = [name for name in names if name not in stored["cases"]]
        entries = stored["cases"].values()
        counts = {
            status: sum(e["status"] == status for e in entries) for status in sorted({e["status"] for e in entries})
        }
        kernels = {kind: sum(e.get(kind, 0) for e in entries) for kind in ("compiled", "cached")}
        contents = {"format": 1, "stage": stage, "machine": stored["machine"], "commands": commands, "counts": counts}
        contents |= {"kernels": kernels, "missing": left, "cases": stored["cases"]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(contents, indent=1) + "\n")
        return left

    left = write()
    while left and time.monotonic() < end:
        before = len(left)
        for found in attempt(stage, rehearse, left, end):
            stored["cases"] |= found
            left = write()
        if len(left) == before:
            break  # a process that does not come to its first case
    wrong = {name: entry for name, entry in stored["cases"].items() if entry["status"] != "ok"}
    for name, entry in wrong.items():
        print(f"{stage}: {entry['status']}: {name}: {entry.get('note') or entry.get('errors') or entry.get('error')}")
    print(f"{stage}: {len(stored['cases']) - len(wrong)} right, {len(wrong)} not, {len(left)} to go: {path}")
    return int(bool(wrong))


def main(arguments: list[str]) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rehearse", action="store_true", help="few cases, tiny, in Triton's interpreter")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.stage, options.rehearse)
        return 0
    try:
        return run(options.stage, options.out / f"{options.stage}.json", options.minutes, options.rehearse)
    except (ValueError, OSError) as error:
        print(f"{options.stage}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
