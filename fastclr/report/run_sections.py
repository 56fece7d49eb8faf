"""The sections of a page that need only a run's folder: progress, scores, configuration, environment."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence

from fastclr.environment import environment, read_environment
from fastclr.methods import METHODS
from fastclr.report.blocks import Block, Charts, Figure, Missing, Paragraph, Table, Tiles
from fastclr.report.charts import Series, line_chart
from fastclr.report.material import Material
from fastclr.training.config import PretrainConfig, difference, flat
from fastclr.training.health import find_collapse
from fastclr.training.metric_names import (
    FIRST,
    KNN,
    LINEAR,
    LOSS,
    ONLINE,
    PEAK,
    PLAIN,
    PROCESSOR,
    RANK,
    RATE,
    SECONDS,
    SPEED,
    STD,
    is_share,
    short_name,
)
from fastclr.training.presets import PRESETS
from fastclr.training.results import percent, score_rows

# logged by every training; the rest is specific to the method
COMMON = (*PLAIN, LOSS, RATE, SPEED, SECONDS, FIRST, PROCESSOR, PEAK)
CAPTIONS = {
    "train/contrastive_accuracy": "Share of views whose partner is the most similar of all views in the batch.",
    "train/contrastive_entropy": "Entropy of the softmax over all other views, in nats; high: many views look alike to "
    "the encoder.",
    "train/temperature": "Learnt together with the weights.",
    ONLINE: "Online probe: a linear classifier that learns beside the encoder, on the views that it is about to learn "
    "from, and on test images.",
    STD: "Standard deviation of the unit embeddings: 1 if they are spread evenly, 0 if they are all alike.",
    RANK: "Effective rank of a few hundred embeddings: in how many directions they vary.",
}
WORDS = {STD: "embedding std", RANK: "embedding rank", ONLINE: "online probe"}  # as titles
RATE_CAPTION = "Of the first parameter group that has the whole rate."
KNN_CAPTION = "Test images classified by their nearest training images."
ABSENT = "\N{EM DASH}"  # for an option that only the other method has


def tiles(material: Material) -> Tiles:
    """Return the few numbers that readers look for first."""
    train, evaluations = material.train, material.evaluations
    entries = [("state", state(material))]
    if train:
        rates = [r[SPEED] for r in train if SPEED in r]
        entries.append(("loss, last record", f"{train[-1][LOSS]:.3f}"))
        entries += [(to_words(name), percent(train[-1][name])) for name in train[-1] if is_share(name)]
        entries += [("images per second, median", f"{statistics.median(rates):,.0f}")] if rates else []
    if evaluations and not evaluations[0]["epoch"]:
        entries.append(("kNN before training", percent(evaluations[0][KNN])))
    if evaluations and evaluations[-1]["epoch"]:
        last = evaluations[-1]
        entries.append((f"kNN after epoch {last['epoch']}", percent(last[KNN])))
        entries += [(f"online probe after epoch {last['epoch']}", percent(last[LINEAR]))] if LINEAR in last else []
    return Tiles(entries)


def state(material: Material) -> str:
    """Describe how far the run got."""
    train, planned = material.train, material.run.config.epochs
    if not train:
        return "nothing recorded yet"
    epoch = train[-1]["epoch"]
    if epoch < planned:
        return f"stopped in epoch {epoch} of {planned}"
    evaluated = any(r["epoch"] == planned for r in material.evaluations)
    before = max((r["step"] for r in train if r["epoch"] == planned - 1), default=None)
    whole = before is not None and train[-1]["step"] * (planned - 1) >= before * planned
    return f"finished, {planned} epochs" if evaluated or whole else f"in epoch {epoch} of {planned}"


def training_charts(materials: Sequence[Material], names: Sequence[str], axis: str) -> Charts:
    """Return the curves of one or more runs over steps or epochs.

    Args:
        materials: the runs.
        names: their names.
        axis: ``step`` or ``epoch``.
    """
    single = len(materials) == 1

    def lines(key: str, kind: str = "train", factor: float = 1.0) -> list[Series]:
        series = []
        for colour, (material, name) in enumerate(zip(materials, names, strict=True)):
            scale = 1.0 if axis == "step" else steps_per_epoch(material)
            records = [
                r for r in (material.train if kind == "train" else material.evaluations) if is_number(r.get(key))
            ]
            x = [r["step"] / scale for r in records]
            series.append(Series(name, x, [factor * r[key] for r in records], colour, dots=kind == "eval"))
        return series

    train = [record for material in materials for record in material.train]
    recorded = dict.fromkeys(name for record in train for name, value in record.items() if is_number(value))
    shares = [name for name in recorded if is_share(name)]
    knn, linear = lines(KNN, "eval", 100), lines(LINEAR, "eval", 100)
    probed = any(line.y for line in linear)
    if single:
        named = [(f"{to_words(name)}, training", lines(name, factor=100)[0]) for name in shares]
        named.append(("kNN accuracy, test", knn[0]))
        named += [(f"{WORDS[ONLINE]}, test", linear[0])] if probed else []
        both = [dataclasses.replace(line, name=name, colour=colour) for colour, (name, line) in enumerate(named)]
        caption = " ".join(CAPTIONS[name] for name in shares if name in CAPTIONS) + f" kNN: {KNN_CAPTION}"
        accuracies = [line_chart("Accuracy", both, axis, caption.strip(), from_zero=True, unit="%")]
    else:
        accuracies = [method_chart(name, lines(name, factor=100), axis, from_zero=True, unit="%") for name in shares]
        accuracies.append(line_chart("kNN accuracy", knn, axis, KNN_CAPTION, from_zero=True, unit="%"))
        if probed:
            title = f"{WORDS[ONLINE]}, test".capitalize()
            accuracies.append(line_chart(title, linear, axis, CAPTIONS[ONLINE], from_zero=True, unit="%"))
    others = [name for name in recorded if name not in COMMON and name not in shares and varies(materials, name)]
    charts = [
        line_chart("Loss", lines(LOSS), axis, f"{method_titles(materials)}; mean over the steps of each record."),
        *accuracies,
        *(method_chart(name, lines(name), axis) for name in others),
        line_chart("Learning rate", lines(RATE), axis, RATE_CAPTION, from_zero=True),
        line_chart("Throughput", lines(SPEED), axis, "Images per second during training.", from_zero=True),
    ]
    return Charts(charts)


def is_number(value: object) -> bool:
    """Tell whether a logged value can be drawn."""
    return isinstance(value, (int, float))


def method_chart(name: str, lines: Sequence[Series], axis: str, *, from_zero: bool = False, unit: str = "") -> Figure:
    """Return the chart of a quantity that a method logs under `name`."""
    caption = CAPTIONS.get(name, "Mean over the steps of each record.")
    return line_chart(to_words(name).capitalize(), lines, axis, caption, from_zero=from_zero, unit=unit)


def to_words(name: str) -> str:
    """Return the name of a logged quantity in plain words."""
    return WORDS.get(name, short_name(name).replace("_", " "))


def varies(materials: Sequence[Material], name: str) -> bool:
    """Tell whether a logged quantity varies; a temperature that is not learnt, for example, is constant."""
    return any(len({record[name] for record in material.train if name in record}) > 1 for material in materials)


def method_titles(materials: Sequence[Material]) -> str:
    """Return the titles of the methods whose loss is shown."""
    return ", ".join(dict.fromkeys(METHODS[material.run.config.method].title for material in materials))


def steps_per_epoch(material: Material) -> float:
    """Return the steps per epoch according to the records; for a run in its first epoch, the steps done so far."""
    if material.evaluations and (epoch := material.evaluations[-1]["epoch"]):
        return float(material.evaluations[-1]["step"] / epoch)
    train = material.train
    last = max((r["epoch"] for r in train), default=1)
    whole = [r["step"] for r in train if r["epoch"] == last - 1]
    if whole:
        return float(max(whole) / (last - 1))
    return float(max((r["step"] for r in train), default=1))


def collapse_note(material: Material) -> list[Block]:
    """Return a warning if the embeddings of the last steps were all alike; otherwise nothing."""
    warning = find_collapse(material.train, METHODS[material.run.config.method].cause)
    return [Paragraph(f"Warning: {warning}", warning=True)] if warning else []


def results_table(material: Material) -> Table:
    """Return all scores with their protocols."""
    return Table(("evaluation", "score", "protocol"), score_rows(material.run), "Scores on test images.")


def config_texts(config: PretrainConfig) -> dict[str, str]:
    """Return the values of a configuration as text."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat(config).items()}


def closest_preset(config: PretrainConfig) -> str:
    """Return the name of the preset that differs in the fewest fields."""
    return min(PRESETS, key=lambda name: len(difference(PRESETS[name], config)))


def config_tables(config: PretrainConfig) -> list[Block]:
    """Return the configuration next to its closest preset, with differences highlighted."""
    name = closest_preset(config)
    mine, theirs = config_texts(config), config_texts(PRESETS[name])
    rows = [(field, value, theirs.get(field, ABSENT)) for field, value in mine.items()]
    changed = [row for row in rows if row[1] != row[2]]
    head = ("option", "this run", f"preset {name}")
    text = f"The closest preset is {name}; {len(changed)} of {len(mine)} options differ from it."
    marked = [index for index, row in enumerate(rows) if row in changed]
    parts: list[Block] = [Paragraph(text)]
    if changed:
        parts.append(Table(head, changed, "Options that differ from the preset."))
    caption = "All options; those that differ are marked."
    return [*parts, Table(head, rows, caption, marked=marked, folded="All options")]


def environment_table(material: Material) -> list[Block]:
    """Return the environment of the run or, if it was not recorded, that of this page."""
    recorded = read_environment(material.run.folder)
    if recorded is not None:
        return [Table(("", "value"), list(recorded.items()), "Recorded when the run started.")]
    note = Missing("The run did not record its environment. This page was made in the following one:")
    return [note, Table(("", "value"), list(environment().items()), "The process that wrote this page.")]
