"""One training of a condition with a seed, from images to a file of numbers: a process of one thread.

Its cost is counted in seconds of the processor, which other processes change little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastclr.bench.findings.images import Images
from fastclr.bench.findings.measures import MEASURES, Outcome, accuracy
from fastclr.bench.findings.studied import Branches, studied
from fastclr.data import Splits
from fastclr.files import read_json, write_text_atomically
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import train_in


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training to do, in values that JSON holds.

    Args:
        config: of the training.
        branches: operators behind the views.
        trained: False for the network as it starts.
        measures: names of `MEASURES`.
        images: arguments of `Images`.
    """

    config: dict[str, Any]
    branches: Branches
    trained: bool
    measures: tuple[str, ...]
    images: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Trial:
        """Read a trial from its file."""
        return cls(**read_json(path))

    def run(self, work: Path, cache: Path) -> dict[str, float]:
        """Train, measure, and return the numbers with their cost."""
        data = Images(**self.images).load(cache)
        config = PretrainConfig.from_dict(self.config)
        start = time.process_time()
        with tempfile.TemporaryDirectory(dir=work) as folder:
            if self.trained:
                outcome, found = self._train(Path(folder) / "run", config, data)
            else:
                torch.manual_seed(config.seed)
                outcome, found = Outcome(build_model(config), data, config), {}
            found["training_s"] = time.process_time() - start
            found |= accuracy(outcome)
            for name in self.measures:
                found |= MEASURES[name](outcome)
        return {**found, "processor_s": time.process_time() - start}

    def _train(self, folder: Path, config: PretrainConfig, data: Splits) -> tuple[Outcome, dict[str, float]]:
        """Train, and return the outcome with how well the last epoch picked positives."""
        config = dataclasses.replace(config, checkpoint_epochs=config.epochs)
        make = partial(studied, self.branches) if any(self.branches) else None
        # without test images nothing is evaluated during the training
        ended = train_in(folder, config, progress=False, data=Splits(data.train, None), make=make)
        last = [r for r in ended.run.metrics.read() if r["kind"] == "train" and r["epoch"] == config.epochs]
        names = [n for n in ("loss", "contrastive_accuracy", "contrastive_entropy") if f"train/{n}" in last[0]]
        found: dict[str, float] = {n: statistics.fmean(float(each[f"train/{n}"]) for each in last) for n in names}
        return Outcome(ended.training.method, data, config, ended.run), found


def main(arguments: list[str]) -> int:
    """Do one trial, and store its numbers; a training whose loss breaks is a result too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Path, help="file that describes the trial")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trial = Trial.read(options.trial)
    try:
        found: dict[str, Any] = {"status": "ok", "numbers": trial.run(options.work, options.cache)}
    except FloatingPointError as error:
        found = {"status": "diverged", "note": str(error).splitlines()[0]}
    found |= {"config": trial.config, "branches": trial.branches, "measures": trial.measures}
    write_text_atomically(options.out, json.dumps(found, indent=1) + "\n")
    return 0
