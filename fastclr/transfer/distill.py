"""Distillation: a student learns a fine-tuned teacher's predictions on all images, without labels (SimCLR v2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.data import Batch, ImageDataset, ImageIndex, Splits
from fastclr.data.label_subsets import labelled_rows, subset_name
from fastclr.device import vector_dtype
from fastclr.evaluate import frozen, state_hash
from fastclr.methods import Facts, Supervised, ViewPlan, Views
from fastclr.methods.base import rows_of
from fastclr.methods.model import build_model
from fastclr.methods.supervised import Classifier, build_classifier
from fastclr.parallel import open_world
from fastclr.training.config import PretrainConfig
from fastclr.training.images import is_seen
from fastclr.training.run import Run
from fastclr.transfer.classifier import (
    Trained,
    as_supervised,
    check_free,
    check_fresh,
    check_test,
    is_trained,
    make_room,
    read_about,
    seed_folder,
    train_classifier,
)
from fastclr.transfer.finetune import check_training, summarise_seeds, train_seeds


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The configuration of a distillation.

    Raises:
        ValueError: a value is out of range.
    """

    student: str | None = None
    """The student's encoder, as in pretrain --encoder. Default: the teacher's (self-distillation)."""
    student_width: float | None = None
    """Multiplies the student's channels. Default: the teacher's width if the encoder is the same, otherwise 1."""
    temperature: float = 1.0
    """Divides the logits of teacher and student."""
    share: str | None = None
    """Labels for --label-weight and --no-teacher. Default: those the teacher was fine-tuned on."""
    label_weight: float = 0.0
    """Weight w of the labels' cross-entropy; the distillation loss has weight 1 - w (alpha in the paper)."""
    no_teacher: bool = False
    """Train the student on the labels alone, for as many steps, as a control."""
    epochs: int | None = None
    """Passes over all training images. Default: half of pretraining's."""
    batch_size: int | None = None
    """Images per step. Default: that of pretraining."""
    lr: float | None = None
    """Base learning rate, scaled with the batch size as in pretraining. Default: that of pretraining."""
    seed: int = 0
    """Determines the weights, the order and the crops."""
    seeds: int = 1
    """Repeat with this many seeds, starting at `seed`; the teacher and its labels stay the same."""

    def __post_init__(self) -> None:
        """Check ranges."""
        width = self.student_width
        checks = [
            ("student_width", width is None or width > 0, "a positive number"),
            ("temperature", 0 < self.temperature < float("inf"), "a positive number"),
            ("label_weight", 0 <= self.label_weight < 1, "a number in [0, 1); --no-teacher is the weight 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ]
        check_training(self, checks)

    def student_config(self, run: PretrainConfig, teacher: PretrainConfig) -> PretrainConfig:
        """Return the configuration of a run with the student's encoder."""
        from fastclr.methods.resnets import is_resnet
        from fastclr.methods.start import check_tag

        if self.student is not None:
            check_tag(self.student)
        encoder = self.student or teacher.encoder
        same = encoder == teacher.encoder
        return dataclasses.replace(
            run,
            encoder=encoder,
            width=self.student_width or (teacher.width if same else 1.0),
            stem=teacher.stem if is_resnet(encoder) else "auto",
            patch_size=teacher.patch_size if same else None,
            norm=teacher.norm if same else "batch",
        )

    def name(self, labels: str, teacher: PretrainConfig) -> str:
        """Return the name of the folder and the result, for a teacher trained on `labels`."""
        student = self.student_config(teacher, teacher)
        width = f"-{student.width:g}x" if student.width != 1.0 else ""
        same = (student.encoder, student.width) == (teacher.encoder, teacher.width)
        who = "self" if same else f"{student.encoder}{width}"
        return f"{'labels' if self.no_teacher else 'distill'}-{subset_name(self.share or labels)}-{who}"

    def settings(self, teacher: Trained) -> dict[str, Any]:
        """Return the requested settings, stored with a student to recognise it later."""
        labels, seed = self.share or teacher.settings["share"], teacher.settings["label_seed"]
        who = {"teacher": teacher.result["name"], "teacher_weights": state_hash(teacher.model)}
        return {**dataclasses.asdict(self), "share": labels, "label_seed": seed, **who}


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``-T^2 mean_i sum_c softmax(t_i / T)_c log_softmax(s_i / T)_c``.

    The factor keeps the size of the gradient independent of T. The loss is T^2 (KL(teacher || student) + the teacher's
    entropy).

    Args:
        student: logits s ``[N, C]``.
        teacher: logits t ``[N, C]``, without gradient.
        temperature: T, above 0.

    Source: Hinton et al. 2015, arXiv:1503.02531; Chen et al. 2020b, arXiv:2006.10029, eq. 3.
    """
    return F.cross_entropy(student / temperature, (teacher / temperature).softmax(dim=1)) * temperature**2


def semi_supervised_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, label_weight: float = 0.0
) -> Tensor:
    """Return ``(1 - w) distillation_loss - w/N sum over labelled i of log_softmax(s_i)[y_i]``.

    Eq. 4 of SimCLR v2 with w = 1 - alpha, divided by the number of images in the batch. The second term sums over the
    labelled images only, so few labels carry little weight against many images.

    Args:
        student: logits ``[N, C]``.
        teacher: logits ``[N, C]``, without gradient.
        labels: int64 ``[N]``, -1 for images whose label is not used.
        temperature: T of the distillation.
        label_weight: w, in [0, 1).
    """
    soft = distillation_loss(student, teacher, temperature)
    if label_weight == 0.0:
        return soft
    hard = F.cross_entropy(student, labels, ignore_index=-1, reduction="sum") / len(labels)
    return (1 - label_weight) * soft + label_weight * hard


class Distillation(Supervised):
    """A student that learns what its teacher says of the same view; see `semi_supervised_loss`.

    Args:
        student: the network to train.
        teacher: gives logits; it lies outside of the state dict, and no gradient reaches it.
        views: what the augmenter makes.
        config: temperature and weight of the labels.
    """

    title = "distillation"

    def __init__(self, student: Classifier, teacher: nn.Module, views: ViewPlan, config: DistillConfig) -> None:
        super().__init__(student, views)
        self.config = config
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule

    def forward(self, views: Views) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the student's features, and the logits of student and teacher."""
        h, (logits,) = super().forward(views)
        with torch.no_grad():
            return h, (logits, self._teacher[0](rows_of(views)))

    def loss(
        self, embeddings: Sequence[Tensor], batch: Batch, step: int, total: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and how often student and teacher agree on the class."""
        student, teacher = (logits.float() for logits in embeddings)
        labels = batch.labels.to(student.device)
        loss = semi_supervised_loss(student, teacher, labels, self.config.temperature, self.config.label_weight)
        agree = (student.detach().argmax(dim=1) == teacher.argmax(dim=1)).to(vector_dtype(student.device)).mean()
        return loss, {"teacher_agreement": agree}


def find_teacher(folder: Path) -> Path:
    """Return `folder` if it holds a trained classifier, otherwise the only fine-tuned one inside it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several, or `folder` is a classifier outside any run.
    """
    if is_trained(folder):
        if not (folder.parent / "config.json").is_file():
            raise ValueError(f"{folder} must be inside its run's folder, but {folder.parent} has no config.json")
        return folder
    found = []
    for path in sorted(folder.glob("*/finetune.json")):
        if not read_about(path.parent)[1]["settings"].get("from_scratch"):
            found.append(path.parent)
    if not found:
        raise FileNotFoundError(f"{folder} has no fine-tuned network: train one with fastclr finetune {folder}")
    if len(found) > 1:
        raise ValueError(f"{folder} has several fine-tuned networks: name one of {', '.join(map(str, found))}")
    return found[0]


def distill(
    run: Run, data: Splits, teacher: Trained, config: DistillConfig, *, name: str | None = None, overwrite: bool = False
) -> Trained:
    """Train a student on the predictions of `teacher` for all training images, score it, and save both.

    Every image is used, labelled or not. Teacher and student see the same random crop and flip. The student starts
    from random weights, with its classifier on the encoder's features. See `finetune` for what is saved.

    Args:
        run: the teacher's run; its configuration provides device, precision, optimiser and schedule.
        data: its images.
        teacher: a fine-tuned network, or the student of an earlier distillation.
        config: the distillation.
        name: of folder and result. Default: for example ``distill-1pct-resnet18``, or ``labels-...`` without a teacher.
        overwrite: as in `finetune`.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there are no labelled test images, or their classes are not the teacher's.
        RuntimeError: the teacher changed.
        Interrupted: SIGTERM or SIGINT came; the same call goes on from its checkpoint.
    """
    labels, label_seed = teacher.settings["share"], teacher.settings["label_seed"]
    name = name or config.name(labels, teacher.config)
    check_free(run.folder / name, overwrite)
    check_test(data)
    if data.train.classes != teacher.classes:
        there, here = (", ".join(names[:5]) for names in (teacher.classes, data.train.classes))
        raise ValueError(f"the teacher's classes ({there}, ...) differ from those of {data.train.source} ({here}, ...)")
    student = config.student_config(run.config, teacher.config)
    check_fresh(student)
    rows = labelled_rows(data.train, config.share or labels, label_seed)
    uses_labels = config.no_teacher or config.label_weight > 0
    if config.no_teacher:
        images = data.train.select(rows)
    else:
        images = keep_labels(data.train, rows if uses_labels else rows[:0])
    folder, shown = run.folder / name, dataclasses.replace(data, train=images)

    def train(seed: int) -> tuple[Classifier, PretrainConfig, int]:
        settings = training_config(student, config, len(data.train), len(images), seed)

        def make(_: PretrainConfig, facts: Facts) -> Distillation:
            classifier = build_classifier(build_model(settings), 0, facts.classes, settings.augment.size)
            return Distillation(classifier, teacher.model, ViewPlan(settings.augment, 1), config)

        with frozen(teacher.model.to(world.device)), torch.enable_grad():  # the teacher must not change
            made = None if config.no_teacher else make
            classifier = train_classifier(seed_folder(folder, seed), settings, shown, made)
        return classifier, settings, len(rows) if uses_labels else 0

    with open_world(run.config.device) as world:
        make_room(folder, config.settings(teacher), images.fingerprint, overwrite, world)
        first, settings, scores = train_seeds(run, data, train, range(config.seed, config.seed + config.seeds))
        result = {**summarise_seeds(scores), "teacher": None if config.no_teacher else teacher.result["name"]}
        result |= {
            "teacher_accuracy": teacher.result["accuracies"][0],
            "encoder": settings.encoder,
            "width": settings.width,
            "test_images_seen": is_seen(Run.open(run.folder), data, run.config),
        }
        stored = Trained(
            kind="distill",
            config=dataclasses.replace(settings, seed=run.config.seed),
            layer=0,
            classes=data.train.classes,
            model=first,
            settings=config.settings(teacher),
            result={**result, "name": name},
        )
        if world.is_main:
            stored.save(folder)
            run.add_result(name, result)
        world.barrier()
    return stored


def keep_labels(dataset: ImageDataset | ImageIndex, rows: Tensor) -> ImageDataset | ImageIndex:
    """Return the same images with only the labels of `rows`; all others are -1 and thus cannot reach a loss."""
    labels = torch.full_like(dataset.labels, -1)
    labels[rows] = dataset.labels[rows]
    return dataclasses.replace(dataset, labels=labels)


def training_config(
    student: PretrainConfig, config: DistillConfig, everything: int, images: int, seed: int
) -> PretrainConfig:
    """Return the configuration of a student's training.

    Optimiser, rate, decay and warm-up are those of pretraining, as in SimCLR v2; augmentation is crops and flips only.

    Args:
        student: the run's configuration with the student's encoder.
        config: the distillation.
        everything: number of all training images, which determines the number of steps.
        images: number of images used in this training, fewer without a teacher.
        seed: of this training.

    Raises:
        ValueError: there is only one image.
    """
    if images < 2:
        raise ValueError(f"a student needs at least 2 images for batch norm, got {images}")
    asked = config.batch_size or student.batch_size
    batch, epochs = min(asked, images), config.epochs or max(1, student.epochs // 2)
    steps = epochs * (everything // min(asked, everything))
    share = student.warmup_epochs / student.epochs if student.warmup_share is None else student.warmup_share
    return dataclasses.replace(
        as_supervised(student, 0, -(-steps // (images // batch))),
        batch_size=batch,
        lr=config.lr or student.lr,
        warmup_share=share,
        seed=seed,
    )
