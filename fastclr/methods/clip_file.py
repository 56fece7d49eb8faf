"""Weights of CLIP as open_clip and transformers store them, by the names that the towers here have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# part of a block: in open_clip and OpenAI's files, in transformers
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
# around the blocks of the text tower
TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
# around those of the image tower; the misspelling is theirs
IMAGE = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
OURS = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
THEIRS = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
QKV = ("q_proj", "k_proj", "v_proj")


@dataclass
class ClipFile:
    """The parts of a file of CLIP.

    Args:
        image: the image tower as OpenAI's files have it, under ``visual.``, which timm reads.
        text: the text tower under the names of transformers.
        plain_text: the same under those of open_clip.
        image_head: ``[D, F]``, from the features of an image to its embedding.
        text_head: ``[D, F']``, likewise of a text.
        log_scale: logarithm of the factor of the cosines.
        bias: what SigLIP adds to them.
    """

    image: dict[str, Tensor] = field(default_factory=dict)
    text: dict[str, Tensor] = field(default_factory=dict)
    plain_text: dict[str, Tensor] = field(default_factory=dict)
    image_head: Tensor | None = None
    text_head: Tensor | None = None
    log_scale: Tensor | None = None
    bias: Tensor | None = None


def read_clip(weights: Mapping[str, Tensor]) -> ClipFile | None:
    """Return the parts of CLIP in the tensors of a file; None if it has no text tower of CLIP.

    Args:
        weights: of a file of open_clip or OpenAI, with or without a wrapper's prefix such as ``state_dict.module.``, or
            of transformers' ``CLIPModel``, or the exported towers or a checkpoint of a run.
    """
    for marker, read in (
        ("text_head.weight", from_fastclr),
        ("text_model.embeddings.token_embedding.weight", from_transformers),
        ("text.token_embedding.weight", from_open_clip),
        ("token_embedding.weight", from_open_clip),
    ):
        for name in weights:
            prefix = name.removesuffix(marker)
            if prefix != name and (not prefix or prefix.endswith(".")):
                return read({n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)})
    return None


def from_open_clip(weights: Mapping[str, Tensor]) -> ClipFile:
    """Return the parts of a file of open_clip; those that keep the text tower apart have it under ``text.``."""
    found = ClipFile(log_scale=weights.get("logit_scale"), bias=weights.get("logit_bias"))
    for name, tensor in weights.items():
        if name.startswith("visual."):
            found.image[name] = tensor
        elif (plain := name.removeprefix("text.")) not in ("text_projection", "logit_scale", "logit_bias"):
            found.plain_text[plain] = tensor
    found.text = renamed(found.plain_text, TEXT)
    head = weights.get("text.text_projection", weights.get("text_projection"))
    found.text_head = None if head is None else head.T
    head = found.image.get("visual.proj")
    found.image_head = found.image.get("visual.head.proj.weight") if head is None else head.T
    return found


def from_fastclr(weights: Mapping[str, Tensor]) -> ClipFile:
    """Return the parts of a method of images and texts; the encoder lies there as it is."""
    start = "text.model."
    text = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
    scale, temperature = weights.get("criterion.log_scale"), weights.get("criterion.log_temperature")
    return ClipFile(
        text=text,
        plain_text=text,
        image_head=weights.get("head.0.weight"),
        text_head=weights["text_head.weight"],
        log_scale=-temperature if temperature is not None else scale,
        bias=weights.get("criterion.bias"),
    )


def from_transformers(weights: Mapping[str, Tensor]) -> ClipFile:
    """Return the parts of a file of transformers' CLIP."""
    found = ClipFile(log_scale=weights.get("logit_scale"))
    text, image = (
        {name.removeprefix(part): tensor for name, tensor in weights.items() if name.startswith(part)}
        for part in ("text_model.", "vision_model.")
    )
    found.text = {name: tensor for name, tensor in text.items() if not name.endswith("position_ids")}
    found.plain_text = restored(found.text, TEXT)
    found.image = {f"visual.{name}": tensor for name, tensor in restored(image, IMAGE).items()}
    found.image_head, found.text_head = weights.get("visual_projection.weight"), weights.get("text_projection.weight")
    if found.image_head is not None:
        found.image["visual.proj"] = found.image_head.T
    return found


def renamed(weights: Mapping[str, Tensor], around: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of a tower of open_clip under the names of transformers; others keep their names."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not (match := OURS.fullmatch(name)):
            found[around.get(name, name)] = tensor
            continue
        start, (part, _, kind) = f"encoder.layers.{match[1]}.", match[2].rpartition(".")
        if match[2].startswith("attn.in_proj_"):
            kind = match[2].removeprefix("attn.in_proj_")
            for one, piece in zip(QKV, tensor.chunk(3), strict=True):
                found[f"{start}self_attn.{one}.{kind}"] = piece
        else:
            found[f"{start}{BLOCK.get(part, part)}.{kind}"] = tensor
    return found


def restored(weights: Mapping[str, Tensor], around: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of a tower of transformers under the names of open_clip; others keep their names."""
    names = {there: here for here, there in around.items()}
    blocks = {there: here for here, there in BLOCK.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not (match := THEIRS.fullmatch(name)):
            found[names.get(name, name)] = tensor
            continue
        start, (part, _, kind) = f"transformer.resblocks.{match[1]}.", match[2].rpartition(".")
        if part == "self_attn.q_proj":
            pieces = [weights.get(f"encoder.layers.{match[1]}.self_attn.{one}.{kind}") for one in QKV]
            if all(piece is not None for piece in pieces):
                found[f"{start}attn.in_proj_{kind}"] = torch.cat([piece for piece in pieces if piece is not None])
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            found[f"{start}{blocks.get(part, part)}.{kind}"] = tensor
    return found
