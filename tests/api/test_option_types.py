"""What editors and type checkers are told of the keywords is what the configuration classes take."""

from __future__ import annotations

import os
import typing
from collections.abc import Sized
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from fastclr import AugmentConfig
from fastclr.api import option_types
from fastclr.methods import METHODS, MethodOptions
from fastclr.training.config import SHORT_OPTIONS, TRANSIENT, PretrainConfig
from fastclr.training.images import ImageOptions
from fastclr.training.keywords import ALIASES, configure
from fastclr.training.scoring import EvaluateOptions, ProbeOptions
from fastclr.transfer.distill import DistillConfig
from fastclr.transfer.finetune import FinetuneConfig
from fastclr.transfer.training_options import TrainingOptions

# what a call may take beside the type that a configuration stores
ALSO: set[Any] = {os.PathLike[str], Sized, torch.device, nn.Module, dict[str, Any]}
OWN = {"method", "encoder", "data"}  # parameters of `pretrain` itself


def hints_of(owner: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(owner).items() if name not in ("_", *TRANSIENT)}


def kinds(hint: Any) -> set[Any]:
    return set(get_args(hint)) if typing.get_origin(hint) in (typing.Union, type(int | str)) else {hint}


def same(keyword: Any, field: Any) -> bool:
    return kinds(field) <= kinds(keyword) and kinds(keyword) - kinds(field) <= ALSO


def pretraining() -> dict[str, Any]:
    """Every keyword of `pretrain` that stands for a field, with the type of that field."""
    fields = {name: hint for name, hint in hints_of(PretrainConfig).items() if name not in ("options", "extensions")}
    short = {name: get_type_hints(METHODS["simclr"].Options)[name] for name in SHORT_OPTIONS}
    families = dict.fromkeys({(m.flags or name).replace("-", "_") for name, m in METHODS.items()}, MethodOptions)
    found = fields | short | families | hints_of(AugmentConfig)
    return found | {alias: found[name] for alias, name in ALIASES.items()}


@pytest.mark.parametrize(
    ("typed", "owners", "without"),
    [
        (option_types.ImageKeywords, [ImageOptions], set()),
        (option_types.EvaluateKeywords, [EvaluateOptions], set()),
        (option_types.ProbeKeywords, [ProbeOptions], {"protocol"}),
        (option_types.TrainingKeywords, [TrainingOptions], set()),
        (option_types.FinetuneOwn, [FinetuneConfig], set()),
        (option_types.FinetuneKeywords, [FinetuneConfig, TrainingOptions], set()),
        (option_types.DistillOwn, [DistillConfig], set()),
        (option_types.DistillKeywords, [DistillConfig, TrainingOptions], set()),
        (option_types.AugmentKeywords, [AugmentConfig], set()),
        (option_types.PretrainKeywords, [], OWN),
        (option_types.ResumeKeywords, [], set()),
    ],
)
def test_keywords_are_those_of_the_configuration(typed: Any, owners: list[type], without: set[str]) -> None:
    wanted = {name: hint for owner in owners for name, hint in hints_of(owner).items()} if owners else pretraining()
    there = get_type_hints(typed)
    assert set(there) == set(wanted) - without
    assert [name for name, hint in there.items() if not same(hint, wanted[name])] == []
    assert not typed.__required_keys__


def test_every_method_takes_its_options_by_its_name() -> None:
    for name, method in METHODS.items():
        family = (method.flags or name).replace("-", "_")
        assert configure(PretrainConfig(), {"method": name, family: {}}).options == PretrainConfig(method=name).options
    chosen = configure(PretrainConfig(), {"method": "moco-v1", "moco": {"temperature": 0.5}})
    assert chosen.options.temperature == 0.5  # type: ignore[attr-defined]
