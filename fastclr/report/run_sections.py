"""The sections of a page that need nothing but a run's folder: progress, scores, configuration, environment."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence

from fastclr.environment import environment, read_environment
from fastclr.report.charts import Series, line_chart
from fastclr.report.markup import Html, element, join, missing, paragraph, table
from fastclr.report.material import Material
from fastclr.training.config import PretrainConfig
from fastclr.training.presets import PRESETS
from fastclr.training.results import percent, score_rows


def tiles(material: Material) -> Html:
    """Return the few numbers that a reader looks for first."""
    train, evaluations = material.train, material.evaluations
    entries = [("state", state(material))]
    if train:
        rates = [r["images_per_s"] for r in train if "images_per_s" in r]
        entries += [
            ("loss, last record", f"{train[-1]['loss']:.3f}"),
            ("contrastive accuracy", percent(train[-1]["contrastive_accuracy"])),
        ]
        entries += [("images per second, median", f"{statistics.median(rates):,.0f}")] if rates else []
    if evaluations:
        entries.append((f"kNN after epoch {evaluations[-1]['epoch']}", percent(evaluations[-1]["knn"])))
    cells = [element("div", element("dt", name), element("dd", value)) for name, value in entries]
    return element("dl", *cells, class_="tiles")


def state(material: Material) -> str:
    """Say how far the run came."""
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


def training_charts(materials: Sequence[Material], names: Sequence[str], axis: str) -> Html:
    """Return the curves of one run or several over steps or epochs.

    Args:
        materials: the runs.
        names: how to call them.
        axis: ``step`` or ``epoch``.
    """
    single = len(materials) == 1

    def lines(key: str, kind: str = "train", factor: float = 1.0) -> list[Series]:
        found = []
        for colour, (material, name) in enumerate(zip(materials, names, strict=True)):
            scale = 1.0 if axis == "step" else steps_per_epoch(material)
            records = [r for r in (material.train if kind == "train" else material.evaluations) if key in r]
            x = [r["step"] / scale for r in records]
            found.append(Series(name, x, [factor * r[key] for r in records], colour, dots=kind == "eval"))
        return found

    accuracy, knn = lines("contrastive_accuracy", factor=100), lines("knn", "eval", 100)
    if single:
        both = [
            dataclasses.replace(accuracy[0], name="contrastive accuracy, training", colour=0),
            dataclasses.replace(knn[0], name="kNN accuracy, test", colour=1),
        ]
        caption = "Share of views that find their partner first among all views of the batch; and kNN on test images."
        if any("online_probe_accuracy" in record for record in materials[0].train):
            online = lines("online_probe_accuracy", factor=100)[0]
            both.append(dataclasses.replace(online, name="online probe, training", colour=2))
        accuracies = [line_chart("Accuracy", both, axis, caption, from_zero=True, unit="%")]
    else:
        caption = "Share of views that find their partner first among all views of the batch."
        knn_caption = "Test images classified by their nearest training images."
        accuracies = [
            line_chart("Contrastive accuracy", accuracy, axis, caption, from_zero=True, unit="%"),
            line_chart("kNN accuracy", knn, axis, knn_caption, from_zero=True, unit="%"),
        ]
    entropy = "Entropy of the softmax over all other views, in nats; high: many views look alike to the encoder."
    charts = [
        line_chart("NT-Xent loss", lines("loss"), axis, "Mean over the steps of each record."),
        *accuracies,
        line_chart("Contrastive entropy", lines("contrastive_entropy"), axis, entropy),
        line_chart("Learning rate", lines("lr"), axis, "Of the first parameter group.", from_zero=True),
        line_chart("Throughput", lines("images_per_s"), axis, "Images per second while training.", from_zero=True),
    ]
    if any(material.run.config.learnable_temperature for material in materials):
        charts.append(line_chart("Temperature", lines("temperature"), axis, "Learnt with the weights."))
    return element("div", *charts, class_="charts")


def steps_per_epoch(material: Material) -> float:
    """Return the steps of an epoch as the records tell; of a run in its first epoch, those that it has done."""
    if material.evaluations:
        return float(material.evaluations[-1]["step"] / material.evaluations[-1]["epoch"])
    train = material.train
    last = max((r["epoch"] for r in train), default=1)
    whole = [r["step"] for r in train if r["epoch"] == last - 1]
    if whole:
        return float(max(whole) / (last - 1))
    return float(max((r["step"] for r in train), default=1))


def results_table(material: Material) -> Html:
    """Return all scores with their protocols."""
    rows = score_rows(material.run)
    return table(("evaluation", "score", "protocol"), rows, "Scores on test images.", class_="text")


def flat(config: PretrainConfig) -> dict[str, str]:
    """Return the fields of a configuration as texts, those of the augmentation under ``augment.``."""
    values = dataclasses.asdict(config)
    augment = values.pop("augment")
    values |= {f"augment.{name}": value for name, value in augment.items()}
    return {name: json.dumps(value) if not isinstance(value, str) else value for name, value in values.items()}


def closest_preset(config: PretrainConfig) -> str:
    """Return the name of the preset with the fewest fields that differ."""
    mine = flat(config)
    return min(PRESETS, key=lambda name: sum(mine[field] != value for field, value in flat(PRESETS[name]).items()))


def config_tables(config: PretrainConfig) -> Html:
    """Return the configuration beside the preset that it is closest to; what differs stands out."""
    name = closest_preset(config)
    mine, theirs = flat(config), flat(PRESETS[name])
    changed = [(field, value, theirs[field]) for field, value in mine.items() if value != theirs[field]]
    head = ("option", "this run", f"preset {name}")
    text = f"The closest preset is {name}; {len(changed)} of {len(mine)} options differ from it."
    rows = [(field, value, theirs[field]) for field, value in mine.items()]
    marked = [index for index, (_, value, other) in enumerate(rows) if value != other]
    parts = [paragraph(text)]
    if changed:
        parts.append(table(head, changed, "Options that differ from the preset.", class_="text"))
    everything = table(head, rows, "All options; those that differ are marked.", marked=marked, class_="text")
    return join([*parts, element("details", element("summary", "All options"), everything)])


def environment_table(material: Material) -> Html:
    """Return where the run was computed, or, if that was not recorded, where this page was made."""
    recorded = read_environment(material.run.folder)
    if recorded is not None:
        return table(("", "value"), list(recorded.items()), "Recorded when the run began.")
    note = missing("The run has not recorded its environment. This is where the page was made:")
    return join([note, table(("", "value"), list(environment().items()), "The process that wrote this page.")])


def difference_table(materials: Sequence[Material], names: Sequence[str]) -> Html:
    """Return the options in which several runs differ."""
    configs = [flat(material.run.config) for material in materials]
    rows = [
        (field, *(config[field] for config in configs))
        for field in configs[0]
        if len({config[field] for config in configs}) > 1
    ]
    if not rows:
        return missing("The runs have the same configuration.")
    return table(("option", *names), rows, "Options that differ; all others are the same.", class_="text")


def score_comparison(materials: Sequence[Material], names: Sequence[str]) -> Html:
    """Return the scores of several runs side by side."""
    columns = [{label: (score, protocol) for label, score, protocol in score_rows(m.run)} for m in materials]
    labels = list(dict.fromkeys(label for column in columns for label in column))

    def cell(column: dict[str, tuple[str, str]], label: str) -> Html:
        score, protocol = column.get(label, ("\N{EM DASH}", ""))
        return join([score, element("br"), element("small", protocol)] if protocol else [score])

    rows = [(label, *(cell(column, label) for column in columns)) for label in labels]
    last = [
        (
            "loss, last record",
            *(
                f"{m.train[-1]['loss']:.3f}" if m.train and math.isfinite(m.train[-1]["loss"]) else "\N{EM DASH}"
                for m in materials
            ),
        ),
        ("state", *(state(m) for m in materials)),
    ]
    return table(("", *names), [*last, *rows], "Scores side by side; protocols in small print.", class_="text")
