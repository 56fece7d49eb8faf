"""Fine-tuning the whole network on few labels, from any layer of the projection head (SimCLR v1 and v2)."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastclr.data import Splits
from fastclr.data.label_subsets import labelled_rows, parse_share, subset_name
from fastclr.evaluate import score
from fastclr.methods import Facts, Supervised, ViewPlan
from fastclr.methods.heads import split_layers
from fastclr.methods.model import build_model
from fastclr.methods.supervised import Classifier, build_classifier, check_labels
from fastclr.parallel import open_world, speaks
from fastclr.training.config import PretrainConfig
from fastclr.training.images import is_seen
from fastclr.training.run import Run
from fastclr.transfer.classifier import (
    Trained,
    as_supervised,
    check_free,
    check_fresh,
    check_test,
    make_room,
    predict,
    seed_folder,
    train_classifier,
)

Recipe = Literal["v1", "v2"]
RECIPES: dict[str, dict[str, Any]] = {
    # Chen et al. 2020, B.5: nesterov, 0.05 B / 256, no decay, no warm-up. Their B is 4096; the rate scales with B
    "v1": {"optimizer": "sgd", "nesterov": True, "lr": 0.05, "lr_scaling": "linear", "batch_size": 256},
    # google-research/simclr, README: LARS, 0.005 sqrt(B), no decay, no warm-up, B 1024
    "v2": {"optimizer": "lars", "nesterov": False, "lr": 0.005, "lr_scaling": "sqrt", "batch_size": 1024},
}
FEW = 0.05  # up to this share of labels use the papers' 60 epochs for 1%, above it their 30 for 10%
MIN_STEPS = 1000  # both papers take about as many, on far more images than a small dataset has


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The configuration of fine-tuning.

    Raises:
        ValueError: a value is out of range.
    """

    share: str = "10%"
    """Labels to use: a share of each class (`1%`, `10%`, `100%`), or a file with one image name per line."""
    from_layer: int | None = None
    """Projection head layer under the classifier, 0 for the encoder's features. Default: 1, as in SimCLR v2; 0 with
    all labels, or if the head has no hidden layer."""
    recipe: Recipe = "v1"
    """`v1`: SGD with Nesterov momentum at 0.05 B / 256. `v2`: LARS at 0.005 sqrt(B). Both without decay and warm-up."""
    from_scratch: bool = False
    """Start from random weights instead, as a control."""
    epochs: int | None = None
    """Passes over the selected images. Default: 60 up to 5% of the labels, otherwise 30; more if too few steps."""
    batch_size: int | None = None
    """Images per step, at most the number selected. Default: 256 (v1) or 1024 (v2)."""
    lr: float | None = None
    """Base learning rate, scaled with the batch size as in the recipe. Default: the recipe's."""
    seed: int = 0
    """Determines the labels, the order and the crops; from scratch also the weights."""
    seeds: int = 1
    """Repeat with this many seeds, starting at `seed`."""

    def __post_init__(self) -> None:
        """Check ranges."""
        parse_share(self.share)
        checks = [
            ("recipe", self.recipe in get_args(Recipe), f"one of {get_args(Recipe)}"),
            ("from_layer", self.from_layer is None or self.from_layer >= 0, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ]
        check_training(self, checks)

    def layer(self, head_layers: int) -> int:
        """Return the layer to use, for a head with `head_layers` layers."""
        if self.from_layer is not None:
            return self.from_layer
        return 0 if parse_share(self.share) == 1.0 or head_layers < 2 else 1

    @property
    def name(self) -> str:
        """Name of the folder and the result."""
        return f"{'scratch' if self.from_scratch else 'finetune'}-{subset_name(self.share)}"

    def settings(self) -> dict[str, Any]:
        """Return the requested settings, stored with the network, which is that of the first seed."""
        return {**dataclasses.asdict(self), "label_seed": self.seed}


def check_training(config: Any, checks: list[tuple[str, bool, str]]) -> None:
    """Raise a ValueError for the first failing check, of `checks` and of those common to all trainings."""
    shared = [
        ("epochs", config.epochs is None or config.epochs >= 1, "at least 1"),
        ("batch_size", config.batch_size is None or config.batch_size >= 2, "at least 2"),
        ("lr", config.lr is None or 0 < config.lr < float("inf"), "a positive number"),
        ("seeds", config.seeds >= 1, "at least 1"),
    ]
    for name, good, expected in [*checks, *shared]:
        if not good:
            raise ValueError(f"{name} must be {expected}, got {getattr(config, name)!r}")


def finetune(
    run: Run, data: Splits, config: FinetuneConfig, *, name: str | None = None, overwrite: bool = False
) -> Trained:
    """Fine-tune the network of `run`, score it on the test images after the last epoch, and save both.

    The network of the first seed goes to the run's folder `name`, the scores of all seeds to ``results.json``.

    Args:
        run: starts from its last checkpoint, on the device and with the precision of its configuration.
        data: its images, with labels.
        config: the fine-tuning.
        name: of folder and result. Default: for example ``finetune-1pct``, or ``scratch-1pct``.
        overwrite: replace the contents of that folder, also a training with other settings that was stopped.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there are no labelled test images, or the labels or the layer do not fit.
        Interrupted: SIGTERM or SIGINT came; the same call goes on from its checkpoint.
    """
    name = name or config.name
    if config.from_scratch:
        check_fresh(run.config)
    folder = run.folder / name
    check_free(folder, overwrite)
    check_test(data)
    layer = config.layer(len(split_layers(run.load_model().head)))
    known = int((data.train.labels >= 0).sum())

    def train(seed: int) -> tuple[Classifier, PretrainConfig, int]:
        rows = labelled_rows(data.train, config.share, seed)
        settings = training_config(run.config, config, len(rows), len(rows) / known, seed, layer)

        def make(_: PretrainConfig, facts: Facts) -> Supervised:
            check_labels(facts)
            model = build_model(run.config) if config.from_scratch else run.load_model()
            classifier = build_classifier(model, layer, facts.classes, run.config.augment.size)
            return Supervised(classifier, ViewPlan(settings.augment, 1))

        chosen = dataclasses.replace(data, train=data.train.select(rows))
        return train_classifier(seed_folder(folder, seed), settings, chosen, make), settings, len(rows)

    with open_world(run.config.device) as world:
        images = data.train.select(labelled_rows(data.train, config.share, config.seed))
        make_room(folder, config.settings(), images.fingerprint, overwrite, world)
        first, settings, scores = train_seeds(run, data, train, range(config.seed, config.seed + config.seeds))
        result = {**summarise_seeds(scores), "from_layer": layer, "recipe": config.recipe, "share": config.share}
        result["test_images_seen"] = is_seen(Run.open(run.folder), data, run.config)
        stored = Trained(
            kind="finetune",
            config=dataclasses.replace(settings, seed=run.config.seed),
            layer=layer,
            classes=data.train.classes,
            model=first,
            settings=config.settings(),
            result={**result, "name": name},
        )
        if world.is_main:
            stored.save(folder)
            run.add_result(name, result)
        world.barrier()
    return stored


def training_config(
    pretrained: PretrainConfig, config: FinetuneConfig, images: int, share: float, seed: int, layer: int
) -> PretrainConfig:
    """Return the configuration for training on `images` labelled images, which are `share` of all labelled ones.

    Raises:
        ValueError: there is only one image.
    """
    if images < 2:
        raise ValueError(f"fine-tuning needs at least 2 labelled images for batch norm, got {images}")
    recipe = RECIPES[config.recipe]
    batch = min(config.batch_size or recipe["batch_size"], images)
    fewest = -(-MIN_STEPS // (images // batch))
    return dataclasses.replace(
        as_supervised(pretrained, layer, config.epochs or max(60 if share <= FEW else 30, fewest)),
        optimizer=recipe["optimizer"],
        nesterov=recipe["nesterov"],
        momentum=0.9,
        lr=config.lr or recipe["lr"],
        lr_scaling=recipe["lr_scaling"],
        weight_decay=0.0,
        warmup_epochs=0.0,
        warmup_share=None,
        clip_grad=None,
        batch_size=batch,
        seed=seed,
    )


def train_seeds(
    run: Run,
    data: Splits,
    train: Callable[[int], tuple[Classifier, PretrainConfig, int]],
    seeds: Sequence[int],
) -> tuple[Classifier, PretrainConfig, list[dict[str, Any]]]:
    """Train once per seed, and score each network once on the test images.

    Args:
        run: prints the scores.
        data: with labelled test images.
        train: returns, for a seed, the network, the configuration of its training and the number of labels used.
        seeds: at least one.

    Returns:
        Network and configuration of the first seed, and each seed's scores with the settings behind them.
    """
    test = check_test(data)
    first: tuple[Classifier, PretrainConfig] | None = None
    scores: list[dict[str, Any]] = []
    for seed in seeds:
        model, config, labels = train(seed)
        answers = predict(model, test, config)
        found = score(answers.features, answers.labels)
        if speaks():
            run.say(f"seed {seed}: {100 * found.top1:.2f}% of {len(test)} test images")
        scores.append({"seed": seed, "accuracy": found.top1, "top5": found.top5, "n_labels": labels})
        scores[-1] |= {"test_images": len(test), "epochs": config.epochs, "batch_size": config.batch_size}
        first = first or (model, config)
    if first is None:
        raise ValueError("seeds must be at least one, got none")
    return *first, scores


def summarise_seeds(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation (n - 1; None for one seed) of `scores`, the seeds and common settings."""
    accuracies = [each["accuracy"] for each in scores]
    top5 = [each["top5"] for each in scores if each["top5"] is not None]
    return {
        "accuracy": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "top5": statistics.fmean(top5) if top5 else None,
        "n_labels": scores[0]["n_labels"],
        "test_images": scores[0]["test_images"],
        "epochs": scores[0]["epochs"],
        "batch_size": scores[0]["batch_size"],
        "seeds": [each["seed"] for each in scores],
        "accuracies": accuracies,
    }


def format_accuracy(result: dict[str, Any]) -> str:
    """Format an accuracy and what it was measured on."""
    spread = "" if result["std"] is None else f" +- {100 * result['std']:.2f} ({len(result['seeds'])} seeds)"
    top5 = "" if result["top5"] is None else f", top-5 {100 * result['top5']:.2f}%"
    counts = f"{result['n_labels']} labels, {result['test_images']} test images"
    return f"{100 * result['accuracy']:.2f}%{spread}{top5}, {counts}"
