"""What an encoder starts from: random weights, those of a file, or those that timm publishes for it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from fastclr.methods.clip_file import read_clip
from fastclr.methods.options import ModelOptions
from fastclr.methods.weights import Node, by_timm, load_matched, match, read_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def start(encoder: nn.Module, config: ModelOptions, *, download: bool = False) -> list[str]:
    """Give a new encoder the starting weights that `config` names, and return lines that say what was matched.

    Args:
        encoder: as `config` describes it; unchanged where `config` names no weights.
        config: `init`, `init_prefix`, `init_partial` and `pretrained` are used.
        download: fetch timm's weights if they are not on this machine.

    Raises:
        FileNotFoundError: the weights are not there.
        OSError: they could not be fetched.
        ValueError: they do not fit, or timm has none for this encoder.
    """
    if config.init is None and not config.pretrained:
        return []
    if config.init is not None:
        path, source = Path(config.init), config.init
    else:
        path, source = timm_weights(config.encoder, download=download)
    weights = read_weights(path)
    if config.init_prefix is None and (clip := read_clip(weights)) is not None and clip.image:
        # both towers of CLIP: timm has the names of its ViTs, others are as open_clip has them
        weights = by_timm(encoder, clip.image, Node()) or clip.image
    found = match(encoder, weights, config.init_prefix)
    load_matched(encoder, found, source, config.init_partial)
    return [f"starting weights: {source}", *(f"  {line}" for line in found.lines())]


def architecture(name: str) -> str:
    """Return the name of a timm model without the tag of published weights, ``resnet18`` for ``resnet18.tv_in1k``."""
    plain, dot, _ = name.partition(".")
    if not dot:  # timm takes two seconds to import, and a run says what it does before that
        return name
    import timm

    return plain if timm.is_model(name) else name


def check_tag(name: str) -> None:
    """Raise a ValueError if an encoder that starts from other weights is named after weights that timm publishes."""
    plain = architecture(name)
    if plain != name:
        raise ValueError(
            f"{name} names weights of timm's {plain}, which are loaded with --pretrained only: add it, or give "
            f"--encoder {plain} to start from other weights"
        )


def timm_title(name: str) -> str:
    """Return the full name of the weights that timm publishes for a model, ``timm's resnet18.a1_in1k``."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return f"timm's {architecture(name)}" + (f".{known.tag}" if known is not None and known.tag else "")


def timm_weights(name: str, *, download: bool) -> tuple[Path, str]:
    """Return the file of the weights that timm publishes for a model, and their name.

    Raises:
        FileNotFoundError: they are not on this machine, and `download` is off.
        OSError: they could not be fetched.
        ValueError: timm has none for this model.
    """
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None or not (known.hf_hub_id or known.url):
        near = timm.list_pretrained(f"*{architecture(name)}*")[:5]
        raise ValueError(
            f"pretrained: timm has no weights for {name!r}" + (f"; it has them for {', '.join(near)}" if near else "")
        )
    title = timm_title(name)
    if known.hf_hub_id:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        place = f"{constants.ENDPOINT.removeprefix('https://')}/{known.hf_hub_id}"

        names = [known.hf_hub_filename] if known.hf_hub_filename else HUB_FILES
        for file in names:
            if isinstance(kept := try_to_load_from_cache(known.hf_hub_id, file), str):
                return Path(kept), title
        if download:
            try:
                return Path(hf_hub_download(known.hf_hub_id, names[0])), title
            except Exception as error:  # of the network, in many types
                reason = str(error).strip().partition("\n")[0]
                raise OSError(f"{title} could not be fetched from {place}: {reason}") from error
    else:
        path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(known.url).path)
        if path.is_file():
            return path, title
        if download:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(known.url, str(path), progress=False)
            return path, title
        place = known.url
    raise FileNotFoundError(
        f"pretrained: the weights of {title} are not on this machine: --download fetches them from {place}; or give a "
        "file of yours with --init"
    )
