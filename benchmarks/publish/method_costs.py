"""What a step of each method costs: the median time of some steps, with one thread, the methods in turns.

Trainings of hours pass through busy and idle times of a machine, and their seconds compare methods badly. Here a round
takes a few minutes and all methods; nothing else should run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from method_run import FACTORS, TUNING_SEED, UNTRAINED, Images, Planned
from tqdm import tqdm

from fastclr.data import Splits
from fastclr.training.build import build
from fastclr.training.profile import endless_batches
from fastclr.training.step import train_step

ROUNDS, STEPS, WARMUP = 5, 10, 3


def rounds(names: Sequence[str], images: Images, rehearse: bool) -> list[dict[str, float]]:
    """Return seconds per epoch by method, of every round; those of the lowest rate, at which nothing breaks."""
    methods = [name for name in names if name != UNTRAINED]
    planned = {name: Planned(name, min(FACTORS), TUNING_SEED) for name in methods}
    found: list[dict[str, float]] = []
    with tqdm(total=ROUNDS * len(methods), leave=False, disable=None) as bar:
        for _ in range(ROUNDS):
            found.append({})
            for name in methods:
                bar.set_description(name)
                found[-1][name] = seconds_per_epoch(planned[name], images, rehearse)
                bar.update()
    return found


def seconds_per_epoch(planned: Planned, images: Images, rehearse: bool) -> float:
    """Return the median time of a step, with the loading of its images, times the steps of an epoch."""
    config = planned.config(rehearse)
    training = build(config, data=Splits(images.train, None))
    training.method.train()
    batches, took = endless_batches(training), []
    for _ in range(WARMUP + STEPS):
        start = time.perf_counter()
        train_step(training, next(batches))
        took.append(time.perf_counter() - start)
    return statistics.median(took[WARMUP:]) * len(training.loader)
