"""The configuration of a pretraining run: its parts' options in one dataclass, their checks, and the JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from fastclr.augment import AugmentConfig
from fastclr.data.options import DataOptions
from fastclr.files import check_types, read_json, write_text_atomically
from fastclr.methods import METHODS, MethodOptions, ModelOptions
from fastclr.methods.options import Check
from fastclr.sources.captions import KINDS
from fastclr.sources.published import PUBLISHED
from fastclr.sources.reading import Reading
from fastclr.training.optim import OptimizerOptions

AmpKind = Literal["auto", "bf16", "off"]
# what a process knows of its run and no file does
TRANSIENT = ("given", "fresh", "given_data", "given_test_data")
# options of a method that are also known without the method's name, because nearly every method has them
SHORT_OPTIONS = ("temperature", "learnable_temperature")
CompileKind = Literal["off", "default", "reduce-overhead", "max-autotune"]
FOLDER = "started_in"  # in the file of a configuration, not of it
PATHS = ("data", "test_data", "labels", "captions", "data_root")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Device, precision and reproducibility of a run, and how often it logs, saves and evaluates."""

    seed: int = 0
    """Seeds the weights, the data order and the augmentation."""
    device: str = "auto"
    """`auto` (CUDA if available), or a torch device: `cpu`, `cuda:1`, `mps`."""
    amp: AmpKind = "auto"
    """bfloat16 autocast of the encoder: `auto` enables it where the device supports bfloat16 natively."""
    channels_last: bool = True
    """Memory format of images and weights; affects speed only."""
    compile: CompileKind = "off"
    """torch.compile mode for the encoder and head; `reduce-overhead` replays CUDA graphs."""
    deterministic: bool = False
    """Bit-reproducible on the same machine and number of threads; may be slower."""
    online_probe: bool = False
    """Train a linear classifier on the detached features during pretraining, and log its accuracy."""
    knn_every: int = 10
    """Epochs between kNN evaluations, the first before training; 0: only at the end."""
    knn_k: int = 20
    """Number of neighbours that vote."""
    knn_temperature: float | None = 0.1
    """Votes are weighted by exp(cosine/temperature); None: all equally."""
    log_every: int = 10
    """Steps between log records."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0: none."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints; one is also written before every evaluation, at the end, and on SIGTERM or Ctrl-C."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; an older one is used if the newest is damaged."""
    tensorboard: bool = False
    """Also log to TensorBoard: event files in the `tensorboard` subfolder of the run."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""
    mlflow: str | None = None
    """Also log to this MLflow experiment, on the server that MLFLOW_TRACKING_URI names."""

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("seed", 0 <= self.seed < 2**63, "an integer in [0, 2**63)"),
            ("amp", self.amp in get_args(AmpKind), f"one of {get_args(AmpKind)}"),
            ("compile", self.compile in get_args(CompileKind), f"one of {get_args(CompileKind)}"),
            ("knn_every", self.knn_every >= 0, "at least 0"),
            ("knn_k", self.knn_k >= 1, "at least 1"),
            ("knn_temperature", self.knn_temperature is None or self.knn_temperature > 0, "positive or None"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("checkpoint_every", self.checkpoint_every >= 0, "at least 0"),
            ("checkpoint_epochs", self.checkpoint_epochs >= 1, "at least 1"),
            ("keep_checkpoints", self.keep_checkpoints >= 1, "at least 1"),
            ("wandb", self.wandb != "", "the name of a project or None"),
            ("mlflow", self.mlflow != "", "the name of an experiment or None"),
        ]


# bases in reverse order, because a dataclass lists the fields of its last base first
@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunOptions, OptimizerOptions, ModelOptions, DataOptions):
    """A pretraining run; every field is an option of ``fastclr pretrain``.

    Each part of a run defines its own options and checks; code that needs only those accepts a `PretrainConfig` too.

    Raises:
        TypeError: the method's options belong to another method.
        ValueError: a value is out of range; the message names the field, the expected and the actual value.
    """

    def __post_init__(self) -> None:
        """Fill in the method's options and check ranges."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        expected = METHODS[self.method].Options
        if type(self.options) is MethodOptions:
            object.__setattr__(self, "options", expected())
        if type(self.options) is not expected:
            raise TypeError(
                f"options of method {self.method} must be {expected.__name__}, got {type(self.options).__name__}"
            )
        own = [(self.options, check) for check in self.options.checks()]
        parts: tuple[Any, ...] = (DataOptions, ModelOptions, OptimizerOptions, RunOptions)
        for owner, (name, good, wanted) in [*own, *((self, check) for part in parts for check in part.checks(self))]:
            if not good:
                raise ValueError(f"{name} must be {wanted}, got {getattr(owner, name)!r}")
        if self.online_probe and self.micro_batch:
            raise ValueError(f"online_probe must be off with micro_batch, got {self.online_probe!r}")

    @property
    def reading(self) -> Reading:
        """How images become bytes: their channels, and the range of more than 8 bits."""
        return Reading(self.augment.channels, self.range, self.channel_axis, self.pages)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in JSON and checkpoints; the method's options go under the method's name."""
        values = dataclasses.asdict(dataclasses.replace(self, given=None, given_data=None, given_test_data=None))
        for name in TRANSIENT:
            del values[name]
        values[self.method] = values.pop("options")
        return values

    def save(self, path: Path) -> None:
        """Write the configuration as JSON, with the current folder, from which relative paths are found again."""
        values = self.as_dict() | {FOLDER: os.getcwd()}
        write_text_atomically(path, json.dumps(values, indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> PretrainConfig:
        """Read what `save` wrote; an unknown or ill-typed field raises ValueError, which names the file."""
        values = read_json(path)
        folder = values.pop(FOLDER, None)
        try:
            return found_from(PretrainConfig.from_dict(values), folder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def from_dict(values: dict[str, Any]) -> PretrainConfig:
        """Build from plain values, as found in a checkpoint or a JSON file.

        Configurations that predate the `method` option keep SimCLR's options at the top level.
        """
        values = dict(values)
        method = values.setdefault("method", "simclr")
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"unknown method {method!r} in the configuration; was it made by a newer fastclr?")
        for name in {method, "augment"} & set(values):
            check_types(values, {name: dict[str, Any]}, "the configuration")
        own: dict[str, Any] = dict(values.pop(method, {}))
        own |= {name: values.pop(name) for name in SHORT_OPTIONS if name in values}
        if isinstance(values.get("caption_columns"), list):  # JSON has no tuples
            values["caption_columns"] = tuple(values["caption_columns"])
        if isinstance(values.get("extensions"), list):
            values["extensions"] = tuple(tuple(e) if isinstance(e, list) else e for e in values["extensions"])
        if isinstance(values.get("range"), list):
            values["range"] = tuple(values["range"])
        if "augment" in values:
            drawn: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in values["augment"].items()
            }
            check_options(AugmentConfig, drawn)
            values["augment"] = AugmentConfig(**drawn)
        for owner, given in ((PretrainConfig, values), (METHODS[method].Options, own)):
            check_options(owner, given)
        options = METHODS[method].Options(**own)
        return PretrainConfig(**{**values, "options": options})


def found_from(config: PretrainConfig, folder: object) -> PretrainConfig:
    """Return a configuration whose relative paths are absolute, where they lead to something from `folder`."""
    if not isinstance(folder, str):  # a run of before 0.1.0
        return config
    values = {name: getattr(config, name) for name in PATHS}
    found: dict[str, Any] = {
        name: str(Path(folder, value))
        for name, value in values.items()
        if value
        and value not in ("shapes", *PUBLISHED, *KINDS)
        and not Path(value).expanduser().is_absolute()
        and leads(Path(folder, value))
    }
    return dataclasses.replace(config, **found)


def leads(path: Path) -> bool:
    """Tell whether there is something at a path, or where a pattern looks."""
    fixed = str(path).partition("{")[0].partition("*")[0]
    return path.exists() if fixed == str(path) else Path(f"{fixed}_").parent.is_dir()


def check_options(owner: type, given: dict[str, Any]) -> None:
    """Raise a ValueError unless all options are fields of a dataclass and have their types."""
    hints = {name: hint for name, hint in get_type_hints(owner).items() if name not in ("options", "_", *TRANSIENT)}
    if unknown := sorted(set(given) - set(hints)):
        raise ValueError(f"unknown option(s) {unknown} in the configuration; was it made by a newer fastclr?")
    check_types(given, {name: hints[name] for name in given}, "the configuration")


def flat(config: PretrainConfig) -> dict[str, Any]:
    """Return all values flat: the method's own as ``METHOD.name``, those of the augmentation as ``augment.name``."""
    values: dict[str, Any] = {}
    for name, value in config.as_dict().items():
        nested = value.items() if isinstance(value, dict) else None
        values |= {name: value} if nested is None else {f"{name}.{inner}": each for inner, each in nested}
    return values


def difference(old: PretrainConfig, new: PretrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ, as ``{name: (old, new)}``; None where one of the two methods lacks the option."""
    there, here = flat(old), flat(new)
    names = dict.fromkeys([*there, *here])
    return {n: (there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n)}
