"""From the keywords of a call in Python to the options they stand for; a misspelt one comes with what was meant."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Sequence, Sized
from typing import Any, TypeVar

import torch
from torch import nn

from fastclr.augment import AugmentConfig
from fastclr.methods import METHODS
from fastclr.methods.own_encoder import is_given, name_of
from fastclr.sources.nearest import near
from fastclr.training.config import SHORT_OPTIONS, TRANSIENT, PretrainConfig
from fastclr.training.method_presets import with_method
from fastclr.training.presets import for_channels, for_encoder

Options = TypeVar("Options")

# what other libraries call an option
ALIASES = {
    "model": "encoder",
    "num_workers": "workers",
    "img_size": "size",
    "in_chans": "channels",
    "initial_checkpoint": "init",
}


def configure(base: PretrainConfig, options: dict[str, Any]) -> PretrainConfig:
    """Return `base` with options as `pretrain` takes them.

    Raises:
        TypeError: there is no such option.
        ValueError: a value has another type than its option, or is out of range.
    """
    options = {name: plain(value) for name, value in unaliased(options).items()}
    transient = {"given_data": base.given_data, "given_test_data": base.given_test_data, **take_images(options)}
    method, encoder = options.get("method", base.method), options.get("encoder", base.encoder)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}{near(method, METHODS)}")
    given = base.given
    if isinstance(encoder, nn.Module):
        given, options["encoder"] = encoder, name_of(encoder)
    elif not isinstance(encoder, str) or (is_given(encoder) and given is None and "encoder" in options):
        raise TypeError(f"encoder must be a torch.nn.Module, or the name of one, got {encoder!r}")
    family = family_of(method)
    owners: dict[str, type[Any]] = {family: METHODS[method].Options, "augment": AugmentConfig}
    nested = {name: options.pop(name, {}) for name in owners}
    known = {name: names_of(owner) for name, owner in owners.items()}
    flat = {family: SHORT_OPTIONS, "augment": known["augment"]}  # what needs not be nested
    single = {name: {n: options.pop(n) for n in flat[name] if n in options and n in known[name]} for name in owners}
    if missing := [name for name in SHORT_OPTIONS if name in options]:
        raise TypeError(f"the options of {method} have no {missing[0]!r}, only {', '.join(known[family]) or 'none'}")
    fields = set(names_of(PretrainConfig)) - {"options", "augment", "extensions", *TRANSIENT}
    check_names(options, [*fields, *owners, *(name for names in flat.values() for name in names), *ALIASES], "option")
    if method != base.method:
        base = with_method(base, method)
    wanted_channels = single["augment"].get("channels", given_channels(nested["augment"]))
    base = for_channels(for_encoder(base, options.get("encoder", base.encoder)), wanted_channels)
    values = base.as_dict() | options
    for name, owner in owners.items():
        wanted = dataclasses.asdict(nested[name]) if isinstance(nested[name], owner) else nested[name]
        if not isinstance(wanted, dict):
            raise TypeError(f"{name} must be a dictionary or {owner.__name__}, got {type(wanted).__name__}")
        check_names(wanted, known[name], f"option of {name}")
        values[method if name == family else name] |= {**wanted, **single[name]}
    config = PretrainConfig.from_dict(values)
    warn_of_ignored(base.augment, config)
    return dataclasses.replace(config, given=given, **transient)


def warn_of_ignored(before: AugmentConfig, config: PretrainConfig) -> None:
    """Warn of options of the augmentation that were changed to what none of the method's views has."""
    views = METHODS[config.method].plan(config).each
    for name in names_of(AugmentConfig):
        value, found = getattr(config.augment, name), [getattr(view, name) for view in views]
        if value != getattr(before, name) and value not in found:
            have = " and ".join(dict.fromkeys(map(str, found)))
            text = f"{name} {value} has no effect: the views of {config.method} have {have}, by its own options"
            warnings.warn(text, UserWarning, stacklevel=3)


def unaliased(options: dict[str, Any]) -> dict[str, Any]:
    """Return options under their own names.

    Raises:
        TypeError: one is given under both of its names.
    """
    if twice := [alias for alias, name in ALIASES.items() if alias in options and name in options]:
        raise TypeError(f"{twice[0]} is another name of {ALIASES[twice[0]]}: give one of them")
    return {ALIASES.get(name, name): value for name, value in options.items()}


def family_of(method: str) -> str:
    """Return the keyword that holds a method's own options: its name, or that of its family, as ``moco``."""
    return (METHODS[method].flags or method).replace("-", "_")


def given_channels(augment: object) -> object:
    """Return the number of channels in an augmentation, given as a dictionary or a configuration."""
    return augment.get("channels") if isinstance(augment, dict) else getattr(augment, "channels", None)


def take_images(options: dict[str, Any]) -> dict[str, Any]:
    """Put names in the place of images that are given themselves, and return these as fields of a `PretrainConfig`.

    Raises:
        TypeError: what is given holds no images.
    """
    found = {}
    for name in ("data", "test_data"):
        value = options.get(name)
        if value is None or isinstance(value, str):
            continue
        if not isinstance(value, Sized) or isinstance(value, nn.Module):
            raise TypeError(f"{name} must be a path, a Dataset with a length or arrays, got {type(value).__name__}")
        found[f"given_{name}"], options[name] = value, name_of(value)
    return found


def plain(value: Any) -> Any:
    """Return an option's value as a configuration stores it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value) if isinstance(value, torch.device) else value


def check_names(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise a TypeError, with what may have been meant, for a name that is not known."""
    for name in given:
        if name not in known:
            raise TypeError(f"there is no {what} {name!r}{near(name, known)}")


def options_of(owner: type[Options], options: dict[str, Any]) -> Options:
    """Remove the fields of a dataclass from `options`, and return it with them."""
    return owner(**{name: plain(options.pop(name)) for name in names_of(owner) if name in options})


def names_of(owner: type[Any]) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [field.name for field in dataclasses.fields(owner)]


def take(owner: type[Options], options: dict[str, Any]) -> Options:
    """Return a dataclass made of `options`; a name that it lacks is a TypeError."""
    check_names(options, names_of(owner), "option")
    return options_of(owner, options)
