"""A run of seconds, which many tests start from."""

from __future__ import annotations

from fastclr.augment import AugmentConfig
from fastclr.training.config import PretrainConfig

# what a record has of the machine, other in every run
TIMES = {"train/images_per_s", "time/train_s", "time/first_step_s", "time/processor_s", "memory/peak_bytes"}

TINY = PretrainConfig(
    width=0.125,
    augment=AugmentConfig.cifar(32),
    epochs=3,
    batch_size=32,
    lr=0.1,
    knn_every=2,
    log_every=2,
    amp="off",
    device="cpu",
    deterministic=True,
)
