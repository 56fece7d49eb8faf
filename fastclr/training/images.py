"""Which images a finished run is evaluated or trained on: its own, or those and the labels that are named now."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastclr.data import Splits
from fastclr.methods import METHODS
from fastclr.methods.own_encoder import is_given
from fastclr.parallel import speaks
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The images, their labels, and the device."""

    data: str | None = None
    """Where the images are now. Default: as in the run."""
    test_data: str | None = None
    """Labelled test images. Default: as in the run."""
    labels: str | None = None
    """CSV file with the columns name (or file_name) and label. Default: as in the run."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device: `cpu`, `cuda:1`, `mps`."""

    def config_for(self, run: Run) -> PretrainConfig:
        """Return the configuration of a run with these options in place of its own."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("data", "test_data", "labels")}
        chosen = {name: value for name, value in given.items() if value is not None}
        if {"data", "test_data"} & set(chosen):  # other images need no captions to be classified
            chosen["captions"] = None
        return dataclasses.replace(run.config, device=self.device, **chosen)

    def load(self, run: Run, at_hand: Splits | None = None) -> Splits:
        """Return the images, and say so if the test images among them were trained on.

        Args:
            run: the run.
            at_hand: its own images, which are returned if no others are named.
        """
        config = self.config_for(run)
        if at_hand is not None and (self.data, self.test_data, self.labels) == (None, None, None):
            return at_hand
        images = load_data(config)
        if images.test is not None and speaks() and is_seen(run, images, config):
            same = same_file(config.labels, run.config.labels)
            unlabelled = "" if METHODS[run.config.method].uses_labels else ", though not their labels"
            run.say(
                f"{len(images.test)} test images are held out "
                + (
                    f"of {config.data}, where files came or went: the encoder has seen some of them in pretraining"
                    if same
                    else f"by the labels in {config.labels}: the encoder has seen them in pretraining"
                )
                + unlabelled
            )
        return images

    def result_name(self, run: Run, kind: str) -> str:
        """Return the name of a result; that of other images than the run's own has theirs in it."""
        config = run.config
        for given, own in ((self.data, config.data), (self.test_data, config.test_data)):
            if given is not None and own is not None and Path(given).name != Path(own).name:
                return named_after(kind, given)
        return kind


def named_after(kind: str, data: str | None) -> str:
    """Return the name of a result: other images than the run's own have theirs in it."""
    if data is None:
        return kind
    return f"{kind}-{data[1:-1].rpartition('.')[2] if is_given(data) else Path(data).name}"


def is_seen(run: Run, images: Splits, config: PretrainConfig) -> bool:
    """Tell whether test images that are held out now were trained on.

    So it is if other labels than the run's own hold them out, or if files came or went and others are drawn.
    """
    if not images.held_out or images.test is None:
        return False
    if not same_file(config.labels, run.config.labels):
        return True
    kept = run.held_out() if Path(config.data).name == Path(run.config.data).name else None
    return kept is not None and not kept.issuperset(images.test.names)


def same_file(one: str | None, other: str | None) -> bool:
    """Tell whether two tables are the same, wherever they lie."""
    if one is None or other is None or one == other:
        return one == other
    try:
        return Path(one).expanduser().read_bytes() == Path(other).expanduser().read_bytes()
    except OSError:
        return False
