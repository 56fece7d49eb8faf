"""A linear classifier on an encoder and part of its projection head: built from a run, saved and loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastclr.augment.fixed_view import crop_and_flip
from fastclr.data import ImageDataset, ImageIndex, Splits
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import Extracted, evaluation_batches, extract_features
from fastclr.files import check_types, make_folder, read_json, refuse_other, write_text_atomically, written
from fastclr.methods.model import build_model
from fastclr.methods.own_encoder import is_given
from fastclr.methods.start import architecture
from fastclr.methods.supervised import Classifier, Supervised, SupervisedOptions, build_classifier
from fastclr.parallel import World
from fastclr.training.build import MakeMethod
from fastclr.training.checkpoint import load_state
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import train_in
from fastclr.training.run import Run, built

KINDS = ("finetune", "distill")
WEIGHTS = "model.safetensors"
FORMAT = 1
CHECKPOINTS = 20  # over a training
SEED = "seed-"  # how the folders of the trainings of each seed begin
BEGUN = "settings.json"  # what was asked for, until there is a network
ABOUT: dict[str, Any] = {
    "format": int,
    "layer": int,
    "classes": list[str],
    "settings": dict[str, Any],
    "result": dict[str, Any],
    "config": dict[str, Any],
}
SETTINGS: dict[str, Any] = {"share": str, "label_seed": int}
RESULT: dict[str, Any] = {"name": str, "accuracy": float, "accuracies": list[float]}


def is_pretrained(run: Run) -> bool:
    """Tell whether a run has completed its last epoch."""
    checkpoint = run.latest_checkpoint()
    return checkpoint is not None and checkpoint.epoch >= run.config.epochs


@dataclass(frozen=True)
class Trained:
    """A classifier and what rebuilds it: ``model.safetensors`` plus ``finetune.json`` or ``distill.json`` in a folder.

    Args:
        kind: ``finetune`` or ``distill``.
        config: of its training; `model` was built from its encoder, head, size and normalisation. Its seed is the
            run's, which also determines the held-out images; the training's own seeds are in `settings`.
        layer: number of projection head layers under the classifier.
        classes: class names, in the order of the logits.
        model: the network.
        settings: the requested settings, to tell whether a stored result was made with others.
        result: scores and counts, as in ``results.json``.
    """

    kind: str
    config: PretrainConfig
    layer: int
    classes: tuple[str, ...]
    model: Classifier
    settings: dict[str, Any]
    result: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write both files; the JSON file comes last and marks the folder as complete.

        What was there stays whole if there is no space for the new files.
        """
        from safetensors.torch import save

        make_folder(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        weights = save(state)
        about = {
            "format": FORMAT,
            "layer": self.layer,
            "classes": self.classes,
            "settings": self.settings,
            "result": self.result,
            "config": self.config.as_dict(),
        }
        text = json.dumps(about, indent=2) + "\n"
        with (
            written(folder / f"{self.kind}.json", lambda file: file.write(text.encode())),
            written(folder / WEIGHTS, lambda file: file.write(weights)),
        ):
            for kind in KINDS:  # so that no kill leaves these weights under another description
                (folder / f"{kind}.json").unlink(missing_ok=True)
        (folder / BEGUN).unlink(missing_ok=True)
        for training in folder.glob(f"{SEED}*"):  # their logs stay
            shutil.rmtree(training / "checkpoints", ignore_errors=True)
            (training / "encoder.safetensors").unlink(missing_ok=True)

    @staticmethod
    def load(folder: Path, given: nn.Module | None = None) -> Trained:
        """Load what `save` wrote, onto the CPU.

        Args:
            folder: where it was written.
            given: the encoder, if the run was made with one that was given as a module.

        Raises:
            FileNotFoundError: `folder` holds no trained classifier.
            ValueError: its format is not supported by this version, or the weights do not match.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        kind, about = read_about(folder)
        if about.get("format") != FORMAT:
            raise ValueError(f"{folder / kind}.json must have format {FORMAT}, got {about.get('format')!r}")
        if "share" not in about["settings"] and "labels" in about["settings"]:  # its name before 0.1.0
            about["settings"]["share"] = about["settings"].pop("labels")
        for name, fields in (("settings", SETTINGS), ("result", RESULT)):
            check_types(about[name], fields, f"the {name} of {folder / kind}.json")
        config = dataclasses.replace(PretrainConfig.from_dict(about["config"]), given=given)
        layer, classes = about["layer"], tuple(about["classes"])
        with torch.random.fork_rng():  # the initial weights drawn here are overwritten below
            network = built(build_model, config, str(folder / f"{kind}.json"))
            model = build_classifier(network, layer, len(classes), config.augment.size)
        try:
            state = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from error
        load_state(model, state, str(folder / WEIGHTS), f"{kind}.json next to it")
        return Trained(kind, config, layer, classes, model, about["settings"], about["result"])


def check_fresh(config: PretrainConfig) -> None:
    """Raise a ValueError if the encoder cannot be made anew with random weights, because it was given as a module."""
    if is_given(config.encoder):
        raise ValueError(
            f"an encoder that was given as a module ({config.encoder}) cannot start from random weights: name its "
            "factory, as in --encoder module:factory, or another encoder"
        )


def is_trained(folder: Path) -> bool:
    """Tell whether `folder` holds a finished classifier."""
    return any((folder / f"{kind}.json").is_file() for kind in KINDS)


def read_about(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the kind and the JSON contents of a stored classifier; raises FileNotFoundError if there is none."""
    for kind in KINDS:
        path = folder / f"{kind}.json"
        if path.is_file():
            return kind, read_json(path, ABOUT)
    expected = " or ".join(f"{kind}.json" for kind in KINDS)
    raise FileNotFoundError(f"{folder} holds no trained classifier: it has no {expected}")


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise a FileExistsError if there is something at `folder` that may neither be replaced nor gone on with."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = {WEIGHTS, BEGUN, *(f"{kind}.json" for kind in KINDS)}
    names = {path.name.removesuffix(".tmp") for path in folder.iterdir()} if folder.is_dir() else {""}
    if any(name not in ours and not name.startswith(SEED) for name in names):
        raise FileExistsError(f"{folder} exists and is not a trained classifier: give another --name")
    if is_trained(folder) and not overwrite:
        raise FileExistsError(f"{folder} already exists: give another --name, or replace it with --overwrite")


def make_room(folder: Path, settings: dict[str, Any], images: str, overwrite: bool, world: World) -> None:
    """Make the folder of a network for a training that begins, or let one go on that was stopped.

    Args:
        folder: where the network will lie.
        settings: what is asked for; more or fewer seeds are no other settings.
        images: fingerprint of the images to train on.
        overwrite: replace what is there. A finished network stays until the new one is stored.
        world: all processes must call this function.

    Raises:
        ValueError: a training with other settings was stopped here, and `overwrite` is off.
    """
    path = folder / BEGUN
    asked = json.loads(json.dumps({**settings, "images": images}))
    there = read_json(path) if path.is_file() else None
    goes_on = there is not None and {**there, "seeds": asked["seeds"]} == asked
    if there is not None and not goes_on and not overwrite:
        refuse_other(there, asked, folder, "repeat them to go on, or replace it with --overwrite")
    world.barrier()  # all have read what is there
    if world.is_main:
        make_folder(folder)
        if overwrite and not goes_on:
            for training in folder.glob(f"{SEED}*"):
                shutil.rmtree(training)
        write_text_atomically(path, json.dumps(asked, indent=2) + "\n")
    world.barrier()


def seed_folder(folder: Path, seed: int) -> Path:
    """Return where the training of one seed lies while it goes on; its log stays there."""
    return folder / f"{SEED}{seed}"


def as_supervised(config: PretrainConfig, layer: int, epochs: int) -> PretrainConfig:
    """Return the configuration of a run as that of a training on labels: crops and flips only, one view.

    Args:
        config: of the pretraining; encoder, device, precision and loader stay.
        layer: layers of the projection head under the classifier.
        epochs: of the training; about twenty checkpoints are spread over them.
    """
    return dataclasses.replace(
        config,
        method="supervised",
        options=SupervisedOptions(layer=layer),
        augment=crop_and_flip(config.augment),
        epochs=epochs,
        extensions=(),
        warmup_epochs=0.0,
        warmup_share=None,
        weight_decay_end=None,
        encoder=architecture(config.encoder),  # its weights are those of the run, or random
        init=None,
        init_prefix=None,
        init_partial=False,
        pretrained=False,
        micro_batch=None,
        online_probe=False,
        knn_every=0,
        checkpoint_every=0,
        checkpoint_epochs=max(1, epochs // CHECKPOINTS),
        keep_checkpoints=1,
        tensorboard=False,
        wandb=None,
        mlflow=None,
    )


def train_classifier(
    folder: Path, config: PretrainConfig, data: Splits, make: MakeMethod | None = None, *, progress: bool = True
) -> Classifier:
    """Train a classifier as a run of its own, or go on where that was stopped, and return it in evaluation mode.

    Args:
        folder: of the run; what is in it must be of a run with the same configuration and images.
        config: with a method that is `Supervised`.
        data: the images; the run evaluates nothing, for whoever asked for it does.
        make: makes the method, such as one with the weights of another run.
        progress: show progress bars where the output is a terminal.

    Raises:
        ValueError: the folder holds another training.
        Interrupted: SIGTERM or SIGINT came; the same call goes on.
    """
    images = dataclasses.replace(data, test=None)
    started = (folder / "config.json").is_file()
    ended = train_in(folder, config, resume=started, progress=progress, data=images, make=make)
    method = ended.training.method
    if not isinstance(method, Supervised):
        raise TypeError(f"the method must be supervised, got {type(method).__name__}")
    return method.classifier.eval()


def check_test(data: Splits) -> ImageDataset | ImageIndex:
    """Return the test images whose class is known.

    Raises:
        ValueError: there are none.
    """
    if data.test is None or int(data.test.labels.max()) < 0:
        raise ValueError(
            "there are no labelled test images: give a CSV file of labels with --labels, or a folder with --test-data"
        )
    return data.test if data.test.labelled else data.test.select((data.test.labels >= 0).nonzero().flatten())


def predict(model: nn.Module, images: ImageDataset | ImageIndex, config: PretrainConfig) -> Extracted:
    """Return logits ``[N, C]`` (as features) and labels for the fixed view of every image, with `model` frozen."""
    device = resolve_device(config.device)
    batches = evaluation_batches(images, device, loader=config.loader, workers=config.workers)
    return extract_features(model, batches, config.augment, autocast=uses_bf16(config.amp, device))
