"""The scores in a run's ``results.json`` as table rows, whichever evaluations wrote them."""

from __future__ import annotations

import json
from typing import Any

from fastclr.files import fits, read_json
from fastclr.training.metric_names import KNN, LINEAR
from fastclr.training.run import Run

# evaluations every reader looks for, and substrings of the names they are stored under
EXPECTED = {"kNN": ("knn",), "linear probe": ("probe", "linear"), "fine-tuning": ("finetune", "fine-tune")}
SHARES = ("accuracy", "top1", "top5", "knn", "linear", "mean", "std", "recall")
DETAILS = {"per_class", "confusion", "seeds", "by_k", "top5_by_k"}  # breakdowns rather than overall scores
MAX_LISTED = 20  # a longer list (a confusion matrix, the scores of many classes) does not describe a protocol
NOT_EVALUATED = "not evaluated"


def read_results(run: Run) -> dict[str, Any]:
    """Return the contents of ``results.json``; empty if there is none."""
    path = run.folder / "results.json"
    if not path.is_file():
        return {}
    return read_json(path)


def current_results(run: Run) -> dict[str, Any]:
    """Return the results without those of other weights than the newest checkpoint's: before the run was made longer.

    A result without a step is kept: of what is not evaluated by itself, such as fine-tuning.
    """
    step = run.newest_step()
    return {
        name: result
        for name, result in read_results(run).items()
        if not isinstance(result, dict) or result.get("step", step) == step
    }


def score_rows(run: Run) -> list[tuple[str, str, str]]:
    """Return (evaluation, score, protocol) for each result, and `NOT_EVALUATED` for expected ones that are missing.

    A mapping of mappings, such as the demo's table, gives one row per inner mapping. The name of a result tells whose
    weights it is of, if they are not those of the newest checkpoint.
    """
    rows: list[tuple[str, str, str]] = []
    results, current = read_results(run), current_results(run)
    for key, result in results.items():
        name = key if key in current else f"{key}, of step {result['step']}"
        if isinstance(result, dict) and result and all(isinstance(value, dict) for value in result.values()):
            rows += [(f"{name}: {inner}", *describe(value)) for inner, value in result.items()]
        else:
            rows.append((name, *describe(result if isinstance(result, dict) else {"value": result})))
    evaluated = {r["epoch"]: r for r in run.metrics.read() if r["kind"] == "eval" and fits(r.get(KNN), float)}
    config = run.config
    votes = f"k={config.knn_k}, temperature={config.knn_temperature}"
    if (before := evaluated.pop(0, None)) is not None:
        rows.append(("kNN before training", percent(before[KNN]), f"the network as it started, {votes}"))
    last = evaluated[max(evaluated)] if evaluated else None
    if last is not None:
        protocol = f"after epoch {last['epoch']} of {config.epochs}, "
        rows.append(("kNN while training, last", percent(last[KNN]), protocol + votes))
        if LINEAR in last:
            rows.append(("online probe, last", percent(last[LINEAR]), protocol + "learnt beside the encoder"))
    present = f"{json.dumps(current)} {'knn' if last is not None else ''}"
    for label, names in EXPECTED.items():
        if not any(name in present for name in names):
            rows.append((label, NOT_EVALUATED, ""))
    return rows


def describe(result: dict[str, Any]) -> tuple[str, str]:
    """Return the scores of one result, and its remaining values as the protocol."""
    scores = {n: v for n, v in result.items() if n.partition("_")[0] in SHARES and fits(v, float)}
    rest = {name: value for name, value in result.items() if name not in {*scores, *DETAILS} and is_short(value)}
    if list(scores) == ["accuracy"]:
        score = percent(scores["accuracy"])
    else:
        score = ", ".join(f"{name} {percent(value)}" for name, value in scores.items())
    return score, ", ".join(f"{name}={format_value(value)}" for name, value in rest.items())


def is_short(value: Any) -> bool:
    """Tell whether a value fits on one line."""
    return not isinstance(value, (list, dict)) or len(json.dumps(value)) <= 4 * MAX_LISTED


def format_value(value: Any) -> str:
    """Format a value as short text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * share:.2f}%"
