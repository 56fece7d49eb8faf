"""`fastclr.pretrain`: start a run from Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sized
from pathlib import Path
from typing import Any, Literal

from torch import nn
from typing_extensions import Unpack

from fastclr.api.option_types import PretrainKeywords
from fastclr.api.runs import Run
from fastclr.api.starting import AUTO, default_folder, start_or_return
from fastclr.sources.nearest import near
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import configure
from fastclr.training.phases import ExtensionKind
from fastclr.training.presets import PRESETS


def pretrain(
    data: str | os.PathLike[str] | Sized = "",
    *,
    method: str | None = None,
    encoder: str | nn.Module | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: Literal["auto"] | None = None,
    extend: ExtensionKind | None = None,
    **options: Unpack[PretrainKeywords],
) -> Run:
    """Pretrain an encoder, write its run to a folder with the report, and return the run.

    Under torchrun, or with an initialised process group, all processes train one model; each calls this function. In a
    notebook an interrupt (Ctrl-C, the stop button) ends the training between two steps, with a checkpoint, and returns
    the run as far as it came: `Run.resume` goes on.

    Args:
        data: the images: a folder, a tar, WebDataset shards, `shapes`, `cifar10`, `cifar100`, `stl10`, a map-style
            Dataset, arrays, or a dictionary of these by split; see `fastclr.data.load_splits`.
        method: the method. Default: the preset's, which is SimCLR.
        encoder: the name of a timm model, ``module:factory``, or a module from float32 images ``[N, 3, S, S]`` to
            features ``[N, F]`` or maps ``[N, F, h, w]``, which are averaged. A module is copied: the trained one is the
            run's. Default: the preset's, ``resnet18``.
        preset: start from the values of a preset, such as ``cifar10``; see docs/recipes.md.
        out: the folder. Default: ``runs/`` followed by the name of the preset, otherwise of the data.
        resume: ``auto`` goes on with the run in `out`, if there is one, so that one script serves a job that restarts.
        extend: as for `Run.resume`.
        options: every other option of ``fastclr pretrain``, with ``_`` for ``-``; see `PretrainConfig`. Those of the
            method are a dictionary, such as ``simclr={"temperature": 0.2}``, or the method's options; those of the
            augmentation, such as ``size``, stand among the others, or in ``augment``: a dictionary or `AugmentConfig`.

    Raises:
        TypeError: there is no such option.
        ValueError: a value does not fit, or the data are unsuitable.
        FileExistsError: the folder exists.
        Interrupted: a signal other than Ctrl-C came, or came under torchrun.
    """
    if resume not in (None, AUTO):
        raise ValueError(
            f"resume must be 'auto' or None, got {resume!r}: fastclr.Run(folder).resume() goes on with a run"
        )
    config = configured(preset, data, method, encoder, dict(options))
    folder = default_folder(config, preset) if out is None else Path(out)
    return Run._of(*start_or_return(config, folder, resume, extend))


def configured(
    preset: str | None,
    data: str | os.PathLike[str] | Sized,
    method: str | None,
    encoder: str | nn.Module | None,
    options: dict[str, Any],
    **defaults: Any,
) -> PretrainConfig:
    """Return the configuration that the keywords of a call stand for.

    Args:
        preset: where the values start; None is those of `PretrainConfig`.
        data: as for `pretrain`.
        method: likewise.
        encoder: likewise.
        options: all others.
        defaults: values that hold in place of the preset's.

    Raises:
        TypeError: there is no such option.
        ValueError: a value does not fit.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}{near(preset, PRESETS)}")
    base = dataclasses.replace(PretrainConfig() if preset is None else PRESETS[preset], **defaults)
    named = {"method": method, "encoder": encoder, "data": None if isinstance(data, str) and not data else data}
    given = {name: value for name, value in named.items() if value is not None}
    return configure(base, {**given, **options})
