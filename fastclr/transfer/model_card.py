"""The model card of an exported encoder, which states only what is known about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastclr import __version__
from fastclr.environment import read_environment
from fastclr.files import fits
from fastclr.methods import METHODS
from fastclr.methods.own_encoder import is_own
from fastclr.methods.start import timm_title
from fastclr.training.results import current_results, score_rows
from fastclr.training.run import Run

MARK = "<!-- model card written by fastclr -->"
TOWERS = (
    "The text tower is there too, and the tokens that it takes. Both towers embed into one space, not at unit length: "
    "cosines compare an image and a text."
)
MIXIN = ("model_hub_mixin", "pytorch_model_hub_mixin")  # by these tags the Hugging Face Hub knows such models
LIBRARIES = {"timm": "timm", "onnx": "onnx"}  # whose loading code hubs show
DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}  # their names on the Hugging Face Hub
# results that other models have too
INDEXED = {"knn": "kNN", **dict.fromkeys(("probe-lbfgs", "probe-precomputed", "probe-augmented"), "linear classifier")}
USE = """\
Image features for nearest neighbours, clustering, linear classifiers and fine-tuning. The encoder is not a classifier,
and it inherits the biases of its training images. Nothing beyond the scores above was evaluated."""


def model_card(run: Run, kind: str, lines: str | None, inputs: dict[str, Any], licence: str | None) -> str:
    """Return the card as Markdown with the YAML front matter that model hubs read.

    Args:
        run: the encoder's run; its ``results.json`` and ``environment.json`` are read.
        kind: the format of the file.
        lines: the Python that loads it, or None.
        inputs: the preprocessing, see `fastclr.transfer.export.preprocessing`.
        licence: of the weights; None: not stated.
    """
    config, method = run.config, METHODS[run.config.method]
    title = method.title
    words = "with captions, " if method.uses_texts else ""
    words += "with its labels" if method.uses_labels else "without its labels"
    load = f"```python\n{lines}\n```" if lines is not None else only_weights(config.encoder)
    environment = read_environment(run.folder)
    trained = (
        "Not recorded."
        if environment is None
        else "\n".join(["| | |", "|---|---|", *(table_row(name, value) for name, value in environment.items())])
    )
    blocks = [
        front_matter(run, kind, licence),
        MARK,
        f"# {config.encoder}, {title}",
        f"An image encoder, trained by {title} with fastclr {__version__}; format: {kind}. "
        f"The file holds, and the scores are of, {method.evaluated}." + (f" {TOWERS}" if kind == "towers" else ""),
        f"## Load\n\n{load}",
        f"## Input\n\n{input_text(kind, inputs)}",
        f"## Training data\n\n`{Path(config.data).name}`, {words}.",
        *([f"## Starting weights\n\n{start}, further trained on the images above."] if (start := origin(run)) else []),
        f"## Scores\n\n{scores_text(run)}",
        f"## Configuration\n\n```json\n{json.dumps(without_paths(run), indent=2)}\n```",
        f"## Training environment\n\n{trained}",
        f"## Intended use\n\n{USE}",
        f"## Licence\n\n{licence or 'Not stated.'}",
    ]
    return "\n\n".join(blocks) + "\n"


def front_matter(run: Run, kind: str, licence: str | None) -> str:
    """Return the card's head in YAML, each value as JSON: what hubs list a model by.

    The accuracies are those of the frozen features, by kNN and by a linear classifier, as shares of 1.
    """
    config = run.config
    values: dict[str, Any] = {"license": licence} if licence else {}
    kinds = [] if METHODS[config.method].uses_labels else ["self-supervised"]
    values["tags"] = [*dict.fromkeys([config.method, *kinds]), *(MIXIN if kind == "hub" else ())]
    values["pipeline_tag"] = "image-feature-extraction"
    values["library_name"] = LIBRARIES.get(kind, "fastclr")
    name = Path(config.data).name
    if name in DATASETS:
        values["datasets"] = [DATASETS[name]]
    if config.init is None and config.pretrained:
        values["base_model"] = timm_title(config.encoder).replace("timm's ", "timm/")
    current = current_results(run)  # not those of the weights of a shorter training
    results = [
        {
            "task": {"type": "image-classification", "name": f"{title} on frozen features"},
            "dataset": {"type": DATASETS.get(name, name), "name": name},
            "metrics": [{"type": "accuracy", "name": "top-1", "value": stored["accuracy"]}],
        }
        for entry, title in INDEXED.items()
        if isinstance(stored := current.get(entry), dict) and fits(stored.get("accuracy"), float)
    ]
    if results:
        values["model-index"] = [{"name": f"{config.encoder}, {METHODS[config.method].title}", "results": results}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def origin(run: Run) -> str | None:
    """Return what the run started from, if not from random weights; of a path the last part alone."""
    config = run.config
    if config.init is not None:
        return f"`{Path(config.init).name}`"
    return f"`{timm_title(config.encoder)}`" if config.pretrained else None


def only_weights(encoder: str) -> str:
    """Say how to load a file of weights that no library builds an encoder for."""
    if is_own(encoder):
        return f"Build `{encoder.strip('<>')}` and load this state dict into it; feature maps are averaged."
    return "Only fastclr can build this encoder: `fastclr.Run(folder).encoder`."


def input_text(kind: str, inputs: dict[str, Any]) -> str:
    """Describe in words the preprocessing that the encoder expects."""
    channels, size, _ = inputs["input_size"]
    share = "the whole shorter side" if inputs["crop_pct"] == 1.0 else f"{inputs['crop_pct']:.1%} of the shorter side"
    normalise = (
        "no normalisation"
        if inputs["mean"] is None
        else f"then minus mean {inputs['mean']}, divided by std {inputs['std']}"
    )
    values, depth = inputs.get("values"), ""
    if isinstance(values, list):
        depth = (
            f" Values of more than 8 bits were scaled so that {values[0]:g} is 0 and {values[1]:g} is 1, and clipped."
        )
    elif values is not None:
        depth = " Values of more than 8 bits were scaled by the smallest and the largest of each file."
    name = "`images` (the output is named `features`)" if kind == "onnx" else "The input"
    return (
        f"{name}: float32 `[batch, {channels}, {size}, {size}]`, {inputs['colours']} in [0, 1], {normalise}. From a "
        f"picture, take the centre square of {share}, resized to {size} x {size} pixels "
        f"({inputs['interpolation']}).{depth}\n\n"
        f"```json\n{json.dumps(inputs)}\n```"
    )


def scores_text(run: Run) -> str:
    """Return a table of the run's results and their protocols."""
    rows = score_rows(run)
    table = ["| evaluation | score | protocol |", "|---|---|---|"]
    table += [table_row(*entry) for entry in rows]
    return "\n".join(table)


def table_row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def without_paths(run: Run) -> dict[str, Any]:
    """Return the configuration with paths reduced to their last part, since a machine's folders are private."""
    values = run.config.as_dict()
    for name in ("data", "test_data", "labels", "captions", "init", "data_root", "cache", "follow_links"):
        if values[name]:
            values[name] = Path(values[name]).name
    own = values[run.config.method]
    for name in ("tokenizer", "text"):  # folders, if they are not names
        if name in own:
            own[name] = Path(own[name]).name
    return values
