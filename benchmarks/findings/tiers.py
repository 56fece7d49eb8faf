"""What is checked where: the base training, images, seeds and findings of each tier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from fastclr.augment import AugmentConfig
from fastclr.bench.findings.augmentation import AUGMENTATION_GRID, COMPOSITION
from fastclr.bench.findings.finding import Finding
from fastclr.bench.findings.head import H_AND_Z, HEAD, TRANSFORMATION
from fastclr.bench.findings.images import SHAPES, Images
from fastclr.bench.findings.loss import LOSS, SMALL_BATCHES, TEMPERATURE
from fastclr.bench.findings.training import BATCH, COLOUR, FEW_LABELS, FIELD, LONGER, WIDTH
from fastclr.methods import SimCLROptions
from fastclr.training.config import PretrainConfig
from fastclr.training.presets import PRESETS

# in the order in which they run: the budget drops the last ones
FINDINGS: Mapping[str, Finding] = {
    finding.name: finding
    for finding in (
        COMPOSITION,
        H_AND_Z,
        HEAD,
        FEW_LABELS,
        TRANSFORMATION,
        TEMPERATURE,
        COLOUR,
        SMALL_BATCHES,
        LONGER,
        LOSS,
        AUGMENTATION_GRID,
        BATCH,
        WIDTH,
        FIELD,
    )
}
OTHER_TEST = 5000  # most test images of the user's own data


@dataclass(frozen=True)
class Tier:
    """A tier.

    Args:
        name: of the tier.
        base: the training that all conditions are compared with.
        train: number of training images.
        test: most test images.
        seeds: number of paired seeds.
        margin: points of kNN by which every seed's base must beat the untrained network.
        first_seed: of the paired ones; seed 0 chooses rates.
    """

    name: str
    base: PretrainConfig
    train: int
    test: int
    seeds: int
    margin: float = 10.0
    first_seed: int = 1

    def findings(self) -> list[Finding]:
        """Return the findings that belong to the tier, in the order in which they run."""
        return [finding for finding in FINDINGS.values() if self.name in finding.tiers]

    def images(self, data: str) -> Images:
        """Return what to read: the tier's shapes, or as many images of the user's own."""
        test = self.test if data == SHAPES else max(self.test, OTHER_TEST)
        return Images(data, self.train, test, self.base.augment.size)

    def on(self, data: str) -> PretrainConfig:
        """Return the base for other images than shapes: those survive stronger crops, and give less away by colour."""
        if data == SHAPES:
            return self.base
        return dataclasses.replace(self.base, augment=AugmentConfig.cifar(self.base.augment.size))


# the demo's training, shorter; knn_every 0: evaluated at the end only
CPU_BASE = dataclasses.replace(
    PRESETS["demo"],
    epochs=12,  # after nine, one seed in ten was not clear of the untrained network
    warmup_epochs=1.0,
    knn_every=0,
    knn_k=20,
    knn_temperature=0.1,
    options=SimCLROptions(temperature=0.2),
    device="cpu",
    amp="off",
    loader="resident",
)
CI_BASE = dataclasses.replace(
    CPU_BASE, epochs=6, batch_size=128, augment=dataclasses.replace(CPU_BASE.augment, size=16), width=0.125
)
GPU_BASE = dataclasses.replace(PRESETS["cifar10-short"], knn_every=0, knn_k=20, knn_temperature=0.1, epochs=100)

TIERS = {
    "ci": Tier("ci", CI_BASE, train=600, test=300, seeds=1, margin=1.0),
    "cpu": Tier("cpu", CPU_BASE, train=4000, test=1000, seeds=5),
    "grid": Tier("grid", CPU_BASE, train=4000, test=1000, seeds=3),
    "gpu": Tier("gpu", GPU_BASE, train=50_000, test=10_000, seeds=3),
}
