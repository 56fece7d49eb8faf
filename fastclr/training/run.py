"""The folder of a run: what is in it, under which name, and how it is found again."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from fastclr.files import locked, read_json, sync_folder, write_atomically, write_text_atomically
from fastclr.sources.printable import printable, progress_bar
from fastclr.training.checkpoint import Checkpoint, list_checkpoints, load_latest, load_state
from fastclr.training.checkpoint_writer import CheckpointWriter
from fastclr.training.config import PretrainConfig, difference
from fastclr.training.config_yaml import to_yaml
from fastclr.training.metrics import MetricsLog
from fastclr.training.train_log import TrainLog

if TYPE_CHECKING:
    from fastclr.methods import Method
    from fastclr.methods.model import EncoderHead
    from fastclr.methods.tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
HELD_OUT = "held_out.json"
Built = TypeVar("Built", bound=nn.Module)

# these change where and how often, not what is learnt
FREE_TO_CHANGE = {
    "device",
    "log_every",
    "checkpoint_every",
    "data",
    "workers",
    "prefetch",
    "test_data",
    "labels",
    "captions",
    "caption_columns",
    "caption_key",
    "data_root",
    "download",
    "cache",
    "checkpoint_epochs",
    "keep_checkpoints",
    "tensorboard",
    "wandb",
    "mlflow",
}


@dataclass(frozen=True)
class Run:
    """One run: config, environment, metrics, checkpoints, encoder, results and report, each a file of its folder."""

    folder: Path
    config: PretrainConfig
    told: TrainLog | None = field(default=None, repr=False, compare=False)  # keeps what is said, in a training

    def with_config(self, config: PretrainConfig) -> Run:
        """Return the same run with other settings."""
        return dataclasses.replace(self, config=config)

    @cached_property
    def metrics(self) -> MetricsLog:
        """The log of losses and accuracies."""
        return MetricsLog(self.folder / "metrics.jsonl")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def latest_checkpoint(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies, and say which newer ones do not; None if there are none.

        Raises:
            ValueError: there are checkpoints, but none can be used.
        """
        checkpoint = load_latest(self.checkpoints, self.say)
        old = self.folder / "checkpoint.pt"
        if checkpoint is None and old.exists():
            raise ValueError(
                f"{old} is a checkpoint of format 1, of a fastclr before 0.1.0, which this version does not read: "
                "start a new run"
            )
        return checkpoint

    def checkpoint_writer(self) -> CheckpointWriter:
        """Return the writer of this run's checkpoints, as a context manager.

        Before a checkpoint is written, the log up to its step and the encoder's file are on disk.
        """
        return CheckpointWriter(self.checkpoints, self.config.keep_checkpoints, self._before_checkpoint)

    def _before_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.metrics.sync()
        self.save_encoder(checkpoint)

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raise a FileExistsError if there is something at `folder` already."""
        # a run that was killed before its configuration was written has left nothing but a temporary file
        if folder.exists() and (not folder.is_dir() or any(path.suffix != ".tmp" for path in folder.iterdir())):
            raise FileExistsError(
                f"{folder} exists already: go on with `fastclr pretrain --resume {folder}`, or give another --out"
            )

    @staticmethod
    def create(folder: Path, config: PretrainConfig) -> Run:
        """Make the folder of a new run.

        Raises:
            FileExistsError: there is something at `folder` already.
        """
        Run.check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder, config)
        run.save_config()
        sync_folder(folder.parent)
        return run

    def save_config(self) -> None:
        """Write the configuration, as JSON for `open` and as YAML for people and for ``--config``."""
        self.config.save(self.folder / "config.json")
        write_text_atomically(self.folder / "config.yaml", to_yaml(self.config))

    @staticmethod
    def open(folder: Path, config: PretrainConfig | None = None) -> Run:
        """Open the folder of a run, to go on with `config` if one is given.

        Raises:
            FileNotFoundError: `folder` holds no run.
            ValueError: `config` means another run than the one that is there.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json")
        stored = PretrainConfig.load(path)
        if config is not None and config.loader == "auto":
            config = dataclasses.replace(config, loader=stored.loader)
        if config is not None and config.range == "auto":  # as it was found when the run began
            config = dataclasses.replace(config, range=stored.range)
        free = FREE_TO_CHANGE | ({"epochs", "extensions"} if config and config.goes_on(stored) else set())
        changed = {k: v for k, v in difference(stored, config or stored).items() if k not in free}
        if changed:
            listed = ", ".join(f"{name}: {old!r} there, {new!r} now" for name, (old, new) in changed.items())
            raise ValueError(
                f"{folder} was made with another configuration ({listed}): drop these options, or give --out"
            )
        return Run(folder, config or stored)

    def say(self, message: str) -> None:
        """Print a line, above the progress bar if there is one; a training also keeps it in ``train.log``."""
        from tqdm import tqdm

        tqdm.write(printable(message), file=sys.stderr)
        sys.stderr.flush()
        if self.told is not None:
            self.told.add(printable(message))

    def bar(self, total: int, initial: int, title: str, progress: bool) -> Any:
        """Return a tqdm bar of steps, silent where the output is no terminal."""
        return progress_bar(progress, total=total, initial=initial, desc=title, leave=False, unit="step")

    def save_encoder(self, checkpoint: Checkpoint) -> None:
        """Write the encoder's weights as safetensors, with the step and what is needed to rebuild it as metadata."""
        from safetensors.torch import save

        state = {name: tensor.contiguous() for name, tensor in encoder_state(checkpoint).items()}
        metadata = {"fastclr": json.dumps({**encoder_facts(self.config), "step": checkpoint.step})}
        contents = save(state, metadata)
        write_atomically(self.folder / "encoder.safetensors", lambda file: file.write(contents))

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer of captions is stored."""
        return (self.folder / TOKENIZER).is_file()

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Store the tokenizer of the captions, so that every later use makes the same tokens."""
        write_text_atomically(self.folder / TOKENIZER, tokenizer.stored())

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the captions.

        Raises:
            FileNotFoundError: the run has none: its method uses no texts, or it has not begun.
            ModuleNotFoundError: a package of ``fastclr[text]`` is missing.
            ValueError: the file is damaged.
        """
        from fastclr.methods.tokenizers import restored

        path = self.folder / TOKENIZER
        if not self.has_tokenizer:
            raise FileNotFoundError(f"{self.folder} has no tokenizer: its method, {self.config.method}, uses no texts")
        try:
            return restored(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def load_method(self) -> Method:
        """Rebuild all networks of a method of images and texts with the weights of the last checkpoint, for inference.

        Raises:
            FileNotFoundError: there is no checkpoint yet, or no tokenizer.
            ValueError: there are checkpoints, but none can be used.
        """
        from fastclr.methods import METHODS, Facts

        vocabulary = self.load_tokenizer().vocabulary
        checkpoint = self._existing_checkpoint()
        facts = Facts(
            images=1, labelled=0, classes=0, world_size=1, batch_size=self.config.batch_size, vocabulary=vocabulary
        )

        def build(config: PretrainConfig) -> Method:
            return METHODS[config.method].build(config, facts)

        method = built(build, self.config, str(self.folder / "config.json"))
        load_state(method, checkpoint.method, f"the checkpoint of step {checkpoint.step} in {self.folder}")
        return method.eval()

    def load_encoder(self) -> nn.Module:
        """Rebuild the encoder with the weights of the last checkpoint; errors are those of `load_model`."""
        from fastclr.methods.model import encoder_from

        checkpoint = self._existing_checkpoint()
        encoder = built(encoder_from, self.config, str(self.folder / "config.json"))
        load_state(encoder, encoder_state(checkpoint), f"the checkpoint of step {checkpoint.step} in {self.folder}")
        return encoder

    def load_model(self) -> EncoderHead:
        """Rebuild encoder and projection head with the weights of the last checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint yet.
            ValueError: there are checkpoints, but none can be used, or the method has no projection head.
        """
        from fastclr.methods.model import build_model

        checkpoint = self._existing_checkpoint()
        model = built(build_model, self.config, str(self.folder / "config.json"))
        kept = {name: value for name, value in checkpoint.method.items() if name.startswith(("encoder.", "head."))}
        if not any(name.startswith("head.") for name in kept):
            raise ValueError(f"a run of method {self.config.method} has no projection head")
        load_state(model, kept, f"the checkpoint of step {checkpoint.step} in {self.folder}")
        return model

    def _existing_checkpoint(self) -> Checkpoint:
        checkpoint = self.latest_checkpoint()
        if checkpoint is None:
            raise FileNotFoundError(f"there is no checkpoint in {self.checkpoints}")
        return checkpoint

    def record_held_out(self, names: Sequence[str]) -> None:
        """Store the names of the images that are kept out of the training to be tested on, unless that is done."""
        if not (path := self.folder / HELD_OUT).exists():
            write_text_atomically(path, json.dumps({"names": names}, indent=0) + "\n")

    def held_out(self) -> set[str] | None:
        """Return the names of the images that were kept out of the training; None where they are not recorded."""
        path = self.folder / HELD_OUT
        return set(read_json(path, {"names": list[str]})["names"]) if path.is_file() else None

    def newest_step(self) -> int | None:
        """Return the step of the newest checkpoint by its name; None if there is none."""
        return max((step for step, _ in list_checkpoints(self.checkpoints)), default=None)

    def add_result(self, name: str, result: dict[str, Any]) -> None:
        """Store a result under `name` in ``results.json``, beside those already there and those of other processes."""
        path = self.folder / "results.json"
        with locked(self.folder / ".results.lock", f"another process adds a result to {path}", wait=True):
            results = read_json(path) if path.exists() else {}
            results[name] = result
            write_text_atomically(path, json.dumps(results, indent=2) + "\n")


def encoder_facts(config: PretrainConfig) -> dict[str, Any]:
    """Return what a file of weights says of its encoder, so that it can be rebuilt and given the images it knows."""
    about = {name: getattr(config, name) for name in ("encoder", "width", "stem", "patch_size", "norm")}
    augment = config.augment
    about |= {"size": augment.size}
    about |= {} if augment.channels == 3 else {"channels": augment.channels}
    return about if augment.mean is None else about | {"mean": augment.mean, "std": augment.std}


def built(build: Callable[[PretrainConfig], Built], config: PretrainConfig, source: str) -> Built:
    """Build a network of a stored configuration; one that cannot be made is a ValueError that names the file."""
    try:
        return build(config)
    except RuntimeError as error:  # torch has no other for sizes that make no sense, or too little memory
        raise ValueError(f"{source} asks for what cannot be built: {str(error).partition(chr(10))[0]}") from error


def encoder_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the state of the encoder alone."""
    prefix = "encoder."
    return {name[len(prefix) :]: value for name, value in checkpoint.method.items() if name.startswith(prefix)}
