"""The description of an encoder as timm stores models on hubs: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from fastclr.training.run import Run
from fastclr.transfer.loading_code import timm_plan

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HINT = "use the format safetensors, which comes with the lines that build it, or pt2 or onnx"


def timm_config(encoder: nn.Module, run: Run, inputs: dict[str, Any], licence: str | None) -> dict[str, Any]:
    """Return what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` needs to know, as values of JSON.

    Args:
        encoder: the module whose weights the folder holds.
        run: the run of the encoder.
        inputs: the preprocessing, see `fastclr.transfer.export.preprocessing`.
        licence: of the weights; None: not stated.

    Raises:
        ValueError: timm has no such encoder, or none that a name and options describe: one with a stem for small
            images, or with a width that takes another stem.

    Source: timm's ``models/_hub.py``.
    """
    config = run.config
    plan = timm_plan(
        encoder, config.encoder, config.augment.size, width=config.width, patch_size=config.patch_size, norm=config.norm
    )
    if plan is None:
        raise ValueError(f"timm cannot build the encoder {config.encoder!r} of this run: use the format pt2 or onnx")
    if plan.stem:
        parts = ", ".join(line.split(" = ")[0].removeprefix("encoder.") for line in plan.stem)
        raise ValueError(
            f"timm has no name for a {config.encoder} of width {config.width} with this stem ({parts} differ): {HINT}"
        )
    try:
        options = json.loads(json.dumps(plan.options))
    except TypeError:
        names = ", ".join(plan.options)
        raise ValueError(f"timm's config.json cannot hold the options of this encoder ({names}): {HINT}") from None
    known, channels = plan.plain.pretrained_cfg, inputs["input_size"][0]
    pool = getattr(plan.plain, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    return {
        "architecture": config.encoder.partition(".")[0],
        "num_classes": 0,
        "num_features": plan.plain.num_features,
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        **({"model_args": options} if options else {}),
        "pretrained_cfg": {
            "tag": f"{config.method}_fastclr",
            "custom_load": False,
            "input_size": inputs["input_size"],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": inputs["interpolation"].partition(",")[0],
            "crop_pct": inputs["crop_pct"],
            "crop_mode": "center",
            "mean": inputs["mean"] or [0.0] * channels,
            "std": inputs["std"] or [1.0] * channels,
            "num_classes": 0,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            **({"license": licence} if licence else {}),
        },
    }


def check_config(path: Path, overwrite: bool, key: str) -> None:
    """Raise a ValueError if a file lies at `path` that may not be replaced: a run has a config.json of its own.

    Args:
        path: the config.json of an exported folder.
        overwrite: whether to replace an exported one.
        key: what an exported one of the format says, and no other file.
    """
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(f"{path} already exists: choose another --out, or use --overwrite")
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or key not in stored:
        raise ValueError(f"{path} describes no model of this format and would be lost: choose another --out")
