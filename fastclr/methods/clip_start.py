"""What the text tower and the heads of a new run start from: those of CLIP in the file that the encoder starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fastclr.methods.clip_file import ClipFile, read_clip
from fastclr.methods.options import ModelOptions
from fastclr.methods.text import OpenClipText, TextTower
from fastclr.methods.weights import load_matched, match, read_weights


@dataclass
class Started:
    """What was found in the file beside the encoder.

    Args:
        lines: what was matched.
        scale: the factor of the cosines; None if the file has none.
        bias: what is added to them, likewise.
    """

    lines: list[str] = field(default_factory=list)
    scale: float | None = None
    bias: float | None = None


def start_texts(config: ModelOptions, head: nn.Module, text: TextTower, text_head: nn.Linear) -> Started:
    """Give text tower and heads the weights in the file that `config` names for the encoder, if they are of CLIP.

    Args:
        config: `init` and `init_partial` are used.
        head: of the images; unchanged unless it is one linear layer.
        text: the text tower.
        text_head: from its features to embeddings.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: the text tower or a head in the file does not fit; the message names the weights that do not.
    """
    if config.init is None:
        return Started()
    found = read_clip(read_weights(Path(config.init)))
    if found is None:
        return Started([f"the text tower starts from random weights: {config.init} has no text tower of CLIP"])
    names = found.plain_text if isinstance(text, OpenClipText) else found.text
    matched = match(text.model, names)
    load_matched(text.model, matched, config.init, config.init_partial, part="text tower")
    lines = [f"  {line}" for line in matched.lines("text tower")]
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    alone = layers[0] if len(layers) == 1 else None
    for title, layer, weight in (("image", alone, found.image_head), ("text", text_head, found.text_head)):
        if layer is not None and load_head(config, title, layer, weight):
            lines.append(f"  the head of the {title} tower matched")
    return Started(lines, number(found, "log_scale", exp=True), number(found, "bias"))


def load_head(config: ModelOptions, title: str, layer: nn.Linear, weight: Tensor | None) -> bool:
    """Give a head its weights; tell whether there are any that fit, which there must be unless `init_partial`."""
    fits = weight is not None and weight.shape == layer.weight.shape
    if not fits and not config.init_partial:
        there = "none" if weight is None else f"{list(weight.shape)}"
        raise ValueError(
            f"init: the head of the {title} tower must be {list(layer.weight.shape)}, and in {config.init} it is "
            f"{there}: --head-dim gives it the file's width, and --init-partial starts it from random weights"
        )
    if weight is None or not fits:
        return False
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
    return True


def number(found: ClipFile, name: str, *, exp: bool = False) -> float | None:
    """Return a scalar of the file, or its exponential."""
    value: Tensor | None = getattr(found, name)
    if value is None:
        return None
    return float(value.double().exp()) if exp else float(value)
