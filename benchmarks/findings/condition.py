"""A condition of an experiment: in what its training differs from the base, and what is measured of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastclr.bench.findings.studied import Branches
from fastclr.training.config import PretrainConfig
from fastclr.training.keywords import configure

Change = Callable[[PretrainConfig], PretrainConfig]

FORMAT = 1  # of results; another one means that the same training would give other numbers
NOTHING: Branches = ((), ())


@dataclass(frozen=True)
class Condition:
    """A training of the base, changed.

    Args:
        name: for people.
        changes: made to the base's configuration, one after another.
        branches: operators behind the first and the second view, see `fastclr.bench.findings.operators`.
        measures: what is measured beside accuracy and cost, names of `fastclr.bench.findings.measures.MEASURES`.
        cost: of the training, as a multiple of the base's.
        trained: False for the networks as they start.
    """

    name: str
    changes: tuple[Change, ...] = ()
    branches: Branches = NOTHING
    measures: frozenset[str] = frozenset()
    cost: float = 1.0
    trained: bool = True

    def config(self, base: PretrainConfig, seed: int) -> PretrainConfig:
        """Return the configuration of the training with a seed."""
        for change in self.changes:
            base = change(base)
        return dataclasses.replace(base, seed=seed)

    def key(self, base: PretrainConfig, seed: int, images: str) -> str:
        """Return a name for the training, the same for the same training, whatever it is called in a finding.

        Args:
            base: of the tier.
            seed: of the training.
            images: fingerprint of the images.
        """
        config = self.config(base, seed).as_dict()
        what = [FORMAT, images, config, self.branches, self.trained]
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=10).hexdigest()


def options(**values: Any) -> Change:
    """Set options as `fastclr.pretrain` takes them."""
    return lambda base: configure(base, dict(values))


def epochs(share: float) -> Change:
    """Train for a share of the base's epochs, at least one; the warm-up shrinks with them."""

    def change(base: PretrainConfig) -> PretrainConfig:
        count = max(1, round(share * base.epochs))
        return dataclasses.replace(base, epochs=count, warmup_epochs=min(base.warmup_epochs, count / 2))

    return change


def rate(factor: float) -> Change:
    """Multiply the base's learning rate."""
    return lambda base: dataclasses.replace(base, lr=factor * base.lr)


def colour(strength: float) -> Change:
    """Multiply the strengths of the base's colour jitter."""

    def change(base: PretrainConfig) -> PretrainConfig:
        brightness, contrast, saturation, hue = (strength * x for x in base.augment.jitter)
        jitter = (brightness, contrast, saturation, min(hue, 0.5))
        return dataclasses.replace(base, augment=dataclasses.replace(base.augment, jitter=jitter))

    return change


def identity(base: PretrainConfig) -> PretrainConfig:
    """Show the whole image as it is: the operators of the branches are all that is random."""
    plain = dataclasses.replace(
        base.augment,
        crop_scale=(1.0, 1.0),
        crop_ratio=(1.0, 1.0),
        flip_p=0.0,
        jitter_p=0.0,
        gray_p=0.0,
        blur_p=0.0,
        solarize_p=0.0,
    )
    return dataclasses.replace(base, augment=plain)


NO_CROP = options(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0)
NO_COLOUR = options(jitter_p=0.0, gray_p=0.0)

BASE = Condition("crop and colour, nonlinear head, NT-Xent")
UNTRAINED = Condition("untrained", trained=False, cost=0.1)
