"""An encoder without a run: weights that timm publishes, or a file, to embed with and to score as a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.methods.model import EncoderHead, encoder_from
from fastclr.methods.own_encoder import is_own
from fastclr.methods.start import architecture, check_tag, start
from fastclr.methods.weights import weight_file
from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run, built

NO_RUN = "an encoder without a run has no folder, log or head: `fastclr pretrain --init` starts a run from its weights"


class BareEncoder(Run):
    """As much of a run as its encoder: what reads the folder of a run is a ValueError, and results are not stored."""

    def __init__(self, config: PretrainConfig) -> None:
        object.__setattr__(self, "config", config)
        object.__setattr__(self, "told", None)

    def __repr__(self) -> str:
        """Return the name of the encoder."""
        return f"BareEncoder({self.config.encoder!r})"

    @property
    def folder(self) -> Path:
        """Raise a ValueError: there is none."""
        raise ValueError(NO_RUN)

    def with_config(self, config: PretrainConfig) -> BareEncoder:
        """Return the same with other settings."""
        return BareEncoder(config)

    def load_encoder(self) -> nn.Module:
        """Build the encoder with its weights, and say what was matched; errors are those of `start`."""
        with torch.random.fork_rng(devices=[]):
            encoder = built(encoder_from, self.config, "the encoder")
            for line in start(encoder, self.config, download=self.config.download):
                self.say(line)
        return encoder

    def load_model(self) -> EncoderHead:
        """Raise a ValueError: there is no head."""
        raise ValueError(NO_RUN)

    def held_out(self) -> set[str] | None:
        """Return None: nobody knows."""
        return None

    def newest_step(self) -> int | None:
        """Return None: it was trained elsewhere."""
        return None

    def add_result(self, name: str, result: dict[str, Any]) -> None:
        """Store nothing."""


def bare_encoder(
    encoder: str | None,
    *,
    pretrained: bool = False,
    init: str | None = None,
    init_prefix: str | None = None,
    download: bool = False,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **places: Any,
) -> BareEncoder:
    """Return an encoder that was trained elsewhere, in the place of a run.

    Args:
        encoder: name of a timm model, or ``module:factory``; None: as a file that fastclr wrote says.
        pretrained: take the weights that timm publishes for it.
        init: take those of a file, of any library; see `fastclr.methods.weights`.
        init_prefix: where in the file they lie.
        download: fetch timm's weights if they are not on this machine.
        size: side of the images in pixels. Default: as timm's description of the model, or the file, says.
        mean: subtracted from the channels. Default: likewise.
        std: divides them.
        places: ``data``, ``test_data`` and ``labels``, for evaluations.

    Raises:
        ValueError: it is not said whose weights, they do not fit, or there is no such encoder.
        FileNotFoundError: the weights are not there.
    """
    if pretrained == (init is not None):
        given = "both" if pretrained else "neither"
        raise ValueError(f"say whose weights the encoder has: pretrained for timm's, or init with a file; got {given}")
    own = stored_about(weight_file(Path(init))) if init is not None else {}
    if encoder is None and not own:
        raise ValueError("encoder must be the name of a timm model, or module:factory, got none")
    name = encoder or str(own["encoder"])
    about = own if name == own.get("encoder") else {}
    if not pretrained:
        check_tag(name)
    known = about or ({} if is_own(name) else timm_values(name))
    side, channels = size or known.get("size") or 224, about.get("channels", 3)
    wanted = [known.get("mean"), known.get("std")] if mean is None and std is None else [mean, std]
    numbers = [None if each is None else tuple(float(value) for value in each) for each in wanted]
    augment = AugmentConfig(side, mean=numbers[0], std=numbers[1])
    shape = {key: about[key] for key in ("width", "stem", "patch_size", "norm") if key in about}
    # a pretrained ResNet has the stem of large images, whatever the size now
    shape = shape or ({} if is_own(name) else {"stem": "imagenet"})
    return BareEncoder(
        PretrainConfig(
            encoder=name,
            pretrained=pretrained,
            init=init,
            init_prefix=init_prefix,
            download=download,
            augment=augment.with_channels(channels),
            **shape,
            **places,
        )
    )


def stored_about(file: Path) -> dict[str, Any]:
    """Return what an `encoder.safetensors` of a run says of its encoder; empty for any other file."""
    if file.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("fastclr", "{}")
        about = json.loads(text)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return about if isinstance(about, dict) and isinstance(about.get("encoder"), str) else {}


def timm_values(name: str) -> dict[str, Any]:
    """Return size, mean and std of the images that timm's weights of a model were trained on; empty if it has none."""
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(architecture(name)) else None
    if known is None:
        return {}
    return {"size": known.input_size[-1], "mean": known.mean, "std": known.std}
