"""The clock: contestants take turns, so that a machine that slows down slows down for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastclr.bench.memory import peak_bytes
from fastclr.bench.rows import OURS, Attempt, Contestant, Program, Row, Spread, Unsuitable, WrongResultError
from fastclr.environment import package_versions

SAMPLE_S = {"cpu": 0.1, "cuda": 0.01}  # a sample repeats a short program until it takes about this long
MOST_INNER = 2000
FEWEST_ROUNDS, MOST_ROUNDS = 5, 51
HURRIED_ROUNDS, PATIENCE = 3, 6.0  # only this many rounds if FEWEST_ROUNDS would take PATIENCE times the budget
CROWDED = 0.5  # share of the GPU's memory beyond which contestants' cached blocks no longer fit side by side
TOTAL = "total"


@dataclass(frozen=True)
class Effort:
    """How much time to spend: `budget_s` of samples per case, or in a `toy` run a single minimal sample."""

    budget_s: float = 15.0
    toy: bool = False


@dataclass
class _Runner:
    """A contestant that has passed its gate."""

    row: Row
    program: Program
    inner: int = 1
    samples: list[dict[str, float]] = field(default_factory=list)


def run(program: Program) -> Any:
    """Run all stages once and return what the last one returns."""
    value = None
    for stage in program.values():
        value = stage(value)
    return value


def sample(program: Program, inner: int, device: torch.device) -> dict[str, float]:
    """Run a program `inner` times and return seconds per run of every stage, and of all of them as `TOTAL`.

    On CUDA these are times between events on the current stream: host work counts only if the device waits for it.
    """
    return _sample_cuda(program, inner, device) if device.type == "cuda" else _sample_cpu(program, inner)


def _sample_cpu(program: Program, inner: int) -> dict[str, float]:
    spent = dict.fromkeys(program, 0.0)
    begin = time.perf_counter()
    for _ in range(inner):
        value = None
        for name, stage in program.items():
            start = time.perf_counter()
            value = stage(value)
            spent[name] += time.perf_counter() - start
        del value
    total = time.perf_counter() - begin
    return {name: seconds / inner for name, seconds in (spent | {TOTAL: total}).items()}


def _sample_cuda(program: Program, inner: int, device: torch.device) -> dict[str, float]:
    torch.cuda.synchronize(device)
    marks: list[list[torch.cuda.Event]] = []
    for _ in range(inner):
        value, events = None, [torch.cuda.Event(enable_timing=True)]
        events[0].record()
        for stage in program.values():
            value = stage(value)
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()
        del value
        marks.append(events)
    torch.cuda.synchronize(device)
    spent = dict.fromkeys(program, 0.0)
    for events in marks:
        for name, start, end in zip(program, events, events[1:], strict=False):
            spent[name] += start.elapsed_time(end) / 1000
    total = marks[0][0].elapsed_time(marks[-1][-1]) / 1000
    return {name: seconds / inner for name, seconds in (spent | {TOTAL: total}).items()}


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def enter(contestant: Contestant, base: Callable[[], Row], device: torch.device, memory: bool) -> Row | _Runner:
    """Prepare a contestant, run its gate and measure its memory; return a Row without a time if one of these fails."""
    row = base()
    row.provider, row.note, row.versions = contestant.name, contestant.note, package_versions(contestant.packages)
    try:
        attempt: Attempt = contestant.prepare()
        row.error = attempt.check()
        row.work = attempt.work
        if memory and attempt.allocates:
            row.peak_bytes = peak_bytes(lambda: run(attempt.program), device)
    except ModuleNotFoundError as error:
        row.status, row.note = "not installed", str(error)
    except Unsuitable as error:
        row.status, row.note = "unsuitable", str(error)
    except WrongResultError as error:
        row.status, row.note, row.error = "wrong", str(error), error.error
    except Exception as error:
        # an exception from a library is a result too: the other contestants continue
        row.status = "out of memory" if out_of_memory(error) else "failed"
        row.note = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
    else:
        return _Runner(row, attempt.program)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def contest(
    contestants: Sequence[Contestant],
    base: Callable[[], Row],
    device: torch.device,
    effort: Effort,
    *,
    memory: bool = True,
    floor_s: float | None = None,
) -> list[Row]:
    """Time all contestants in turn and return their rows in the given order.

    Args:
        contestants: the contestants of one case.
        base: makes a row with suite, case, parameters and unit.
        device: the device whose clock counts.
        effort: the time to spend.
        memory: also measure peak extra bytes.
        floor_s: seconds that a run would take at the machine's ceilings.
    """
    entered = [enter(contestant, base, device, memory) for contestant in contestants]
    runners = [entry for entry in entered if isinstance(entry, _Runner)]
    if runners:
        _take_turns(runners, device, effort)
    timed = [runner for runner in runners if runner.row.status == "ok"]
    named = [runner for runner in timed if runner.row.provider == OURS]
    ours = next(iter(named or [runner for runner in timed if runner.row.provider.startswith(OURS)]), None)
    for runner in timed:
        runner.row.floor_s = floor_s
        _summarise(runner, ours)
    return [entry.row if isinstance(entry, _Runner) else entry for entry in entered]


def _take_turns(runners: list[_Runner], device: torch.device, effort: Effort) -> None:
    """Take samples of all runners, round by round, starting each round with the next one."""
    if effort.toy:
        for runner in runners:
            _guarded(runner, device, 1, crowded=False)
        return
    cost = 0.0
    for runner in runners:
        first = _guarded(runner, device, 1, crowded=False)
        runner.inner = min(MOST_INNER, max(1, math.ceil(SAMPLE_S[device.type] / max(first, 1e-9))))
        cost += first * runner.inner
        runner.samples.clear()
    fewest = FEWEST_ROUNDS if FEWEST_ROUNDS * cost <= PATIENCE * effort.budget_s else HURRIED_ROUNDS
    rounds = min(MOST_ROUNDS, max(fewest, int(effort.budget_s / max(cost, 1e-9))))
    crowded = False
    if device.type == "cuda":
        together = sum(runner.row.peak_bytes or 0 for runner in runners)
        crowded = together > CROWDED * torch.cuda.get_device_properties(device).total_memory
    for turn in range(rounds):
        shift = turn % len(runners)
        for runner in runners[shift:] + runners[:shift]:
            _guarded(runner, device, runner.inner, crowded=crowded)


def _guarded(runner: _Runner, device: torch.device, inner: int, *, crowded: bool) -> float:
    """Take a sample, unless the runner failed before or fails now; return its total."""
    if runner.row.status not in ("ok",):
        return 0.0
    try:
        if crowded:
            torch.cuda.empty_cache()
            run(runner.program)
        runner.samples.append(sample(runner.program, inner, device))
    except Exception as error:
        runner.row.status = "out of memory" if out_of_memory(error) else "failed"
        runner.row.note = f"{type(error).__name__} while timed: {error}"[:300]
        return 0.0
    return runner.samples[-1][TOTAL]


def _summarise(runner: _Runner, ours: _Runner | None) -> None:
    """Turn samples into medians and spreads."""
    row = runner.row
    row.n, row.inner = len(runner.samples), runner.inner
    row.time = Spread.of([s[TOTAL] for s in runner.samples])
    if len(runner.program) > 1:
        row.stages = {name: Spread.of([s[name] for s in runner.samples]) for name in runner.program}
    if ours is not None:
        row.reference = ours.row.provider
        pairs = zip(runner.samples, ours.samples, strict=False)
        row.ratio = Spread.of([(a[TOTAL] / row.work) / (b[TOTAL] / ours.row.work) for a, b in pairs])
