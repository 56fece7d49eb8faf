"""The table of methods in docs/methods.md, from the file that methods.py writes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from method_run import FACTORS, SEEDS, SHARED, TUNING_SEED, UNTRAINED, Planned
from report_data import contents
from report_tables import hardware_text

from fastclr.methods import METHODS

Trainings = Sequence[Mapping[str, Any]]
HEAD = ("method", "rate", "views", "kNN", "linear", "seconds per epoch", "peak memory", "encoder")
COLLAPSED = "*"


def load_tables(folder: Path) -> dict[Path, dict[str, Any]]:
    """Read the tables of methods in a folder, without rehearsals."""
    found = {path: contents(path) for path in sorted(folder.glob("methods-*.json"))}
    return {p: each for p, each in found.items() if "trainings" in each and not each["machine"]["rehearsal"]}


def of(name: str, trainings: Trainings) -> tuple[Trainings, Trainings]:
    """Return the trainings of a method that chose its rate, and those that are reported."""
    own = [each for each in trainings if each["method"] == name]
    tuning = [each for each in own if each["seed"] == TUNING_SEED]
    good = [each for each in tuning if each["status"] == "ok"]
    factor = max(good, key=lambda each: float(each["linear"]))["factor"] if good else 1.0
    return tuning, [each for each in own if each["seed"] in SEEDS and each["factor"] == factor]


def is_whole(name: str, trainings: Trainings) -> bool:
    """Tell whether a method has all of its trainings."""
    tuning, reported = of(name, trainings)
    if name == UNTRAINED:
        return len(reported) == len(SEEDS)
    failed = all(each["status"] != "ok" for each in tuning)
    return len(tuning) == len(FACTORS) and (failed or len(reported) == len(SEEDS))


def missing(stored: Mapping[str, Any]) -> list[str]:
    """Return the methods that lack a training."""
    return [name for name in stored["methods"] if not is_whole(name, stored["trainings"])]


def table(stored: Mapping[str, Any]) -> str:
    """Return the table of the methods that have all of their trainings, in the order of the registry."""
    names = [name for name in stored["methods"] if name not in missing(stored)]
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [f"| {' | '.join(row(name, stored))} |" for name in names]
    return "\n".join(lines)


def row(name: str, stored: Mapping[str, Any]) -> Sequence[str]:
    """Return the cells of a method."""
    tuning, reported = of(name, stored["trainings"])
    good = [each for each in reported if each["status"] == "ok"]
    if not good:
        reasons = sorted({f"{each['status']}: {each['note']}" for each in (reported or tuning)})
        return (title(name), "; ".join(reasons), *[""] * (len(HEAD) - 2))
    scored = [percent([each[score] for each in good]) for score in ("knn", "linear")]
    if name == UNTRAINED:
        return (title(name), "", "", *scored, "", "", "")
    mark = COLLAPSED if any(each["collapsed"] for each in good) else ""
    first, every = good[0], [each for each in (*tuning, *reported) if each["status"] == "ok"]
    took = [each[name] for each in rounds(stored) if name in each]
    seconds = f"{statistics.median(took):.1f}" if took else ""
    memory = statistics.median(each["peak_bytes"] for each in every)
    rate = f"{first['config']['optimizer']} {first['lr']:.3g}"
    views = f"{first['views']}"
    file = f"{Planned(name, first['factor'], SEEDS[0]).name}.safetensors"
    cost = seconds, f"{memory / 2**20:,.0f} MiB"
    return title(name) + mark, rate, views, *scored, *cost, f"`{file}`" if file in stored["encoders"] else ""


def rounds(stored: Mapping[str, Any]) -> Sequence[Mapping[str, float]]:
    """Return seconds per epoch by method, of every round in which they were measured."""
    return stored["costs"]["rounds"] if stored.get("costs") else []


def title(name: str) -> str:
    """Return what a method is called; one that is gone from the registry keeps its name."""
    if name == UNTRAINED:
        return "untrained network"
    return f"{METHODS[name].title} (`{name}`)" if name in METHODS else f"`{name}`"


def percent(shares: Sequence[float]) -> str:
    """Return the mean of accuracies in percent, and half of the distance between the seeds."""
    return f"{100 * statistics.fmean(shares):.1f} ± {50 * (max(shares) - min(shares)):.1f}"


def commit_text(commit: Mapping[str, Any]) -> str:
    """Return a commit's first digits."""
    return f"{commit['commit'] or 'unknown'}"[:10] + (" with uncommitted changes" if commit["dirty"] else "")


def block(tables: Mapping[Path, Mapping[str, Any]]) -> str:
    """Return the text between the markers of docs/methods.md."""
    if not tables:
        return "Not measured yet: `make bench-methods DATA=cifar10.tar.gz` makes the table."
    path, stored = next(iter(tables.items()))
    trainings, lacking = stored["trainings"], missing(stored)
    tested = next((each["scored_images"] for each in trainings if each["seed"] in SEEDS and each["status"] == "ok"), 0)
    commits = sorted({commit_text(each["commit"]) for each in trainings})
    images, epochs = trainings[0]["train_images"], SHARED["epochs"]
    broken = [f"{each['method']} at {each['factor']:g} times" for each in trainings if each["status"] != "ok"]
    parts = [
        f"Measured: {images:,} training images of CIFAR-10 (JPEG), {tested:,} test images; ResNet-18 of a quarter of "
        f"the width with the ImageNet stem; {epochs} epochs at {SHARED['batch_size']} images, so about "
        f"{images * epochs:,} images drawn by every method, however many views of each it makes",
        "heads, temperatures, optimiser and decay are those of each method's preset or recipe, so the loss alone "
        "explains no difference",
        "of the rate of the preset or recipe (BYOL and MoCo v2: of the recipe, with its decay) and "
        f"{' and '.join(f'{f:g}' for f in FACTORS[1:])} times it, the best on "
        f"seed {TUNING_SEED} by linear accuracy on other training images; mean of the seeds {SEEDS[0]} and {SEEDS[1]} "
        f"± half of their distance; kNN with k = {SHARED['knn_k']}, temperature {SHARED['knn_temperature']:g}; linear: "
        "logistic regression",
        "peak memory of the process, Python and PyTorch included",
        f"encoder: the file of seed {SEEDS[0]}, its SHA-256 in the results",
    ]
    if rounds(stored):
        parts.append(
            f"seconds: one thread, with nothing else running, the median of {len(rounds(stored))} rounds over these "
            "methods of a step's median time, its views and images included, times the steps of an epoch"
        )
    else:
        parts.append("seconds not measured yet")
    if any(each.get("collapsed") for each in trainings if each["seed"] in SEEDS):
        parts.append(f"{COLLAPSED} the embeddings of a training collapsed")
    if broken:
        parts.append(f"the loss broke with {', '.join(broken)} the rate")
    if "cpc" not in lacking:
        parts.append("CPC with 9 patches of 16 px an image, not its preset's 49 of 8 px: it compares all of a batch")
    if "pirl" not in lacking:
        parts.append("PIRL with the softmax (`--pirl.loss info-nce`), which short runs want")
    if lacking:
        parts.append(f"not measured yet: {', '.join(lacking)}")
    parts += [hardware_text(stored["machine"]), f"commits {', '.join(commits)}"]
    if calls := stored["commands"]:
        several = f", in {len(calls)} calls of some methods each" if len(calls) > 1 else ""
        parts.append(f"`{min(calls, key=len)}`{several}")
    caption = "; ".join(parts) + f"; [{path.name}](../benchmarks/results/{path.name})."
    return f"{table(stored)}\n\n{caption}"
