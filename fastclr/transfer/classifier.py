"""Encoder, part of the projection head, and a linear classifier: built from a run, stored, and loaded again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.files import check_types, make_folder, read_json, write_atomically, write_text_atomically
from fastclr.methods.encoders import feature_dim
from fastclr.methods.heads import first_layers, output_width
from fastclr.methods.model import EncoderHead, build_model
from fastclr.training.checkpoint import load_state
from fastclr.training.config import PretrainConfig
from fastclr.training.run import Run, built

KINDS = ("finetune", "distill")
WEIGHTS = "model.safetensors"
FORMAT = 1
ABOUT: dict[str, Any] = {
    "format": int,
    "layer": int,
    "classes": list[str],
    "settings": dict[str, Any],
    "result": dict[str, Any],
    "config": dict[str, Any],
}
SETTINGS: dict[str, Any] = {"labels": str, "label_seed": int}
RESULT: dict[str, Any] = {"name": str, "accuracy": float, "accuracies": list[float]}


class Classifier(nn.Module):
    """Logits of an image: a linear map of the encoder's features, or of a layer of the projection head.

    Args:
        encoder: module from images ``[N, 3, S, S]`` to features ``[N, F]``.
        layers: the first layers of the projection head, with their batch norms and ReLUs; may be empty.
        linear: from what the layers return to the classes.
    """

    def __init__(self, encoder: nn.Module, layers: nn.Sequential, linear: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.linear = linear

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, C]``."""
        logits: Tensor = self.linear(self.layers(self.encoder(images)))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that the encoder wants undecayed."""
        names: set[str] = getattr(self.encoder, "no_weight_decay", set)()
        return {f"encoder.{name}" for name in names}

    def no_adaptation(self) -> set[str]:
        """Return what LARS leaves at the plain rate: a rate in proportion to weights that start at zero is zero."""
        return {"linear.weight"}


def build_classifier(model: EncoderHead, layer: int, classes: int, size: int) -> Classifier:
    """Put a linear classifier on the first `layer` layers of the head of `model`, whose modules it takes over.

    Weights and bias start at zero, so that the first prediction is uniform (``zero_init_logits_layer`` of
    google-research/simclr).

    Args:
        model: encoder and projection head.
        layer: 0 for the encoder's features h; 1 is the choice of SimCLR v2 for few labels.
        classes: number of classes.
        size: side of the images in pixels.

    Raises:
        ValueError: the head has no such layer.
    """
    layers = first_layers(model.head, layer)
    linear = nn.Linear(output_width(layers) or feature_dim(model.encoder, size), classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Classifier(model.encoder, layers, linear)


def is_pretrained(run: Run) -> bool:
    """Tell whether a run has reached its last epoch."""
    checkpoint = run.latest_checkpoint()
    return checkpoint is not None and checkpoint.epoch >= run.config.epochs


@dataclass(frozen=True)
class Trained:
    """A classifier with what rebuilds it: ``model.safetensors`` and ``finetune.json`` or ``distill.json`` in a folder.

    Args:
        kind: ``finetune`` or ``distill``.
        config: of its training; encoder, head, size and normalisation are what `model` was built from. Its seed is that
            of the run, which also decides which images are held out; those of the training are in `settings`.
        layer: layers of the projection head under the classifier.
        classes: their names, in the order of the logits.
        model: the network.
        settings: what was asked for, to tell whether a stored result is that of another question.
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
        """Write both files; the JSON file comes last and says that the folder is whole."""
        from safetensors.torch import save

        make_folder(folder)
        for kind in KINDS:
            (folder / f"{kind}.json").unlink(missing_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        weights = save(state)
        write_atomically(folder / WEIGHTS, lambda file: file.write(weights))
        about = {
            "format": FORMAT,
            "layer": self.layer,
            "classes": self.classes,
            "settings": self.settings,
            "result": self.result,
            "config": self.config.as_dict(),
        }
        text = json.dumps(about, indent=2) + "\n"
        write_text_atomically(folder / f"{self.kind}.json", text)

    @staticmethod
    def load(folder: Path) -> Trained:
        """Read what `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: `folder` holds no trained classifier.
            ValueError: it is of a format that this version does not read, or the weights do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        kind, about = read_about(folder)
        if about.get("format") != FORMAT:
            raise ValueError(f"{folder / kind}.json must have format {FORMAT}, got {about.get('format')!r}")
        for name, fields in (("settings", SETTINGS), ("result", RESULT)):
            check_types(about[name], fields, f"the {name} of {folder / kind}.json")
        config, layer, classes = PretrainConfig.from_dict(about["config"]), about["layer"], tuple(about["classes"])
        with torch.random.fork_rng():  # the weights drawn here are replaced
            network = built(build_model, config, str(folder / f"{kind}.json"))
            model = build_classifier(network, layer, len(classes), config.augment.size)
        try:
            state = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from error
        load_state(model, state, str(folder / WEIGHTS), f"{kind}.json beside it")
        return Trained(kind, config, layer, classes, model, about["settings"], about["result"])


def is_trained(folder: Path) -> bool:
    """Tell whether `folder` holds a finished classifier."""
    return any((folder / f"{kind}.json").is_file() for kind in KINDS)


def read_about(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the kind of a stored classifier and its JSON file; a FileNotFoundError if there is none."""
    for kind in KINDS:
        path = folder / f"{kind}.json"
        if path.is_file():
            return kind, read_json(path, ABOUT)
    expected = " or ".join(f"{kind}.json" for kind in KINDS)
    raise FileNotFoundError(f"{folder} holds no trained classifier: it has no {expected}")


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise a FileExistsError if there is something at `folder` that may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = {WEIGHTS, *(f"{kind}.json" for kind in KINDS)}
    if not folder.is_dir() or any(path.name.removesuffix(".tmp") not in ours for path in folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is no trained classifier: give another --name")
    if not overwrite:
        raise FileExistsError(f"{folder} exists already: give another --name, or replace it with --overwrite")
