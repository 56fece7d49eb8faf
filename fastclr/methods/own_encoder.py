"""Encoders that users bring: a module given in Python, or the name ``module:factory`` of a function that makes one."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def name_of(value: object) -> str:
    """Return the name under which a configuration stores an encoder, or images, that were given in Python."""
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def is_given(name: str) -> bool:
    """Tell whether what has this name was given in Python, so that only its owner can make it again."""
    return name.startswith("<")


def is_own(name: str) -> bool:
    """Tell whether an encoder of this name is the user's, given as a module or made by ``module:factory``."""
    return is_given(name) or FACTORY.fullmatch(name) is not None


def channels_of(encoder: nn.Module) -> int:
    """Return how many channels the images of an encoder have; 3 where nothing else is known."""
    channels: Any = getattr(encoder, "fastclr_channels", 3)
    return channels if isinstance(channels, int) else 3


def own_encoder(name: str, given: nn.Module | None, size: int, channels: int = 3) -> nn.Module:
    """Return a user's encoder, from images ``[N, C, size, size]`` to features ``[N, F]``, on the CPU.

    A module that returns maps ``[N, F, h, w]`` gets a forward hook that averages them, so that the names of its weights
    stay.

    Args:
        name: as `name_of` has it, or ``module:factory``.
        given: the module that was given, of which a copy is returned.
        size: side of the images in pixels.
        channels: C.

    Raises:
        ValueError: the module is missing, the factory cannot be called, or the module is no encoder of such images.
    """
    if not is_given(name):
        encoder = call_factory(name)
    elif given is None:
        raise ValueError(
            f"the encoder is a {name[1:-1]} that was given as a module, which only you can make again: open the run "
            "with fastclr.Run(folder, encoder=module). With --encoder module:factory a run makes its encoder itself"
        )
    else:
        encoder = copy.deepcopy(given).cpu()
    if check_features(encoder, name, size, channels) == 4:
        encoder.register_forward_hook(average)
    return encoder


def average(module: nn.Module, inputs: Any, features: Tensor) -> Tensor:
    """Average feature maps ``[N, F, h, w]`` over their positions."""
    return features.mean(dim=(2, 3))


def check_features(encoder: nn.Module, name: str, size: int, channels: int) -> int:
    """Return how many dimensions the features have, 2 or 4; anything else is a ValueError."""
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ValueError(f"the encoder {name} has no parameters to train")
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            found: object = encoder(torch.zeros(2, channels, size, size))
    except Exception as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(
            f"the encoder {name} must take images [N, {channels}, {size}, {size}] of float32, but it raises {reason}"
        ) from error
    encoder.train(was_training)
    if isinstance(found, Tensor) and found.is_floating_point() and found.ndim in (2, 4) and len(found) == 2:
        return found.ndim
    got = f"shape {tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(f"the encoder {name} must return features [N, F] or [N, F, h, w] of N images, got {got} for N=2")


def call_factory(name: str) -> nn.Module:
    """Return what the function or class ``module:factory`` makes; the current folder is searched for the module too.

    Raises:
        ValueError: it cannot be imported or called, or makes no module.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # of an installed command the first entry is the folder of the command
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"encoder {name}: {module_name} cannot be imported: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [each for each in vars(found) if not each.startswith("_")]
            raise ValueError(f"encoder {name}: {found.__name__} has no {part!r}, but {', '.join(names[:20])}")
        found = getattr(found, part)
    # a stored run may name anything: at least no builtin, such as os.abort, is called
    if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))):
        raise ValueError(f"encoder {name} must name a function or a class of torch.nn.Module, got {found!r}")
    try:
        encoder = found()
    except Exception as error:
        raise ValueError(f"encoder {name}: {path}() raises {type(error).__name__}: {error}") from error
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"encoder {name}: {path}() must return a torch.nn.Module, got {type(encoder).__name__}")
    return encoder
