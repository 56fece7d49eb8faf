"""Distillation: a student learns a fine-tuned teacher's predictions on all images, without their labels (SimCLR v2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment.fixed_view import crop_and_flip
from fastclr.data import ImageDataset, ImageIndex, Splits
from fastclr.data.label_subsets import labelled_rows, subset_name
from fastclr.device import resolve_device, uses_bf16
from fastclr.evaluate import frozen
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig
from fastclr.training.fit import Objective, check_test, describe, fit
from fastclr.training.run import Run
from fastclr.transfer.classifier import Classifier, Trained, build_classifier, check_free, is_trained, read_about
from fastclr.transfer.finetune import check_training, repeat, summary


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What a distillation is.

    Raises:
        ValueError: a value is outside of its range.
    """

    student: str | None = None
    """Encoder of the student, as in pretrain --encoder. Default: the teacher's (self-distillation)."""
    student_width: float | None = None
    """Multiplies the channels of the student. Default: the teacher's width for its own encoder, else 1."""
    temperature: float = 1.0
    """Divides the logits of teacher and student."""
    labels: str | None = None
    """Labels for --label-weight and --no-teacher. Default: those that the teacher was fine-tuned on."""
    label_weight: float = 0.0
    """Weight w of the labels' cross-entropy; the distillation has 1 - w (alpha in the paper)."""
    no_teacher: bool = False
    """Train the student on the labels alone instead, for as many steps: the control."""
    epochs: int | None = None
    """Passes over all training images. Default: half of the pretraining's."""
    batch_size: int | None = None
    """Images per step. Default: the pretraining's."""
    lr: float | None = None
    """Base learning rate, scaled by the batch as in the pretraining. Default: the pretraining's."""
    seed: int = 0
    """Decides the weights, the order and the crops."""
    seeds: int = 1
    """Repeat with this many seeds, from `seed` on; the teacher and its labels stay the same."""

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

        encoder = self.student or teacher.encoder
        same = encoder == teacher.encoder
        return dataclasses.replace(
            run,
            encoder=encoder,
            width=self.student_width or (teacher.width if same else 1.0),
            stem=teacher.stem if is_resnet(encoder) else "auto",
            patch_size=teacher.patch_size if same else None,
        )

    def name(self, labels: str, teacher: PretrainConfig) -> str:
        """Return the name of the folder and of the result, for a teacher of these labels."""
        student = self.student_config(teacher, teacher)
        width = f"-{student.width:g}x" if student.width != 1.0 else ""
        same = (student.encoder, student.width) == (teacher.encoder, teacher.width)
        who = "self" if same else f"{student.encoder}{width}"
        return f"{'labels' if self.no_teacher else 'distill'}-{subset_name(self.labels or labels)}-{who}"

    def settings(self, teacher: Trained) -> dict[str, Any]:
        """Return what is stored beside a student to tell what was asked for."""
        labels, seed = self.labels or teacher.settings["labels"], teacher.settings["label_seed"]
        return {**dataclasses.asdict(self), "labels": labels, "label_seed": seed, "teacher": teacher.result["name"]}


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ``-T^2 mean_i sum_c softmax(t_i / T)_c log_softmax(s_i / T)_c``.

    The factor keeps the gradient's size when T changes. The loss is T^2 (KL(teacher || student) + the teacher's
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

    Eq. 4 of SimCLR v2 with w = 1 - alpha, divided by the images of the batch: it sums over the labelled images only, so
    that few labels have little weight beside many images.

    Args:
        student: logits ``[N, C]``.
        teacher: logits ``[N, C]``, without gradient.
        labels: int64 ``[N]``, -1 where the label is not used.
        temperature: T of the distillation.
        label_weight: w, in [0, 1).
    """
    soft = distillation_loss(student, teacher, temperature)
    if label_weight == 0.0:
        return soft
    hard = F.cross_entropy(student, labels, ignore_index=-1, reduction="sum") / len(labels)
    return (1 - label_weight) * soft + label_weight * hard


@contextmanager
def teaching(teacher: nn.Module, config: DistillConfig, device: torch.device, autocast: bool) -> Iterator[Objective]:
    """Yield the loss of a distillation from `teacher`, which sees the student's view and must not change.

    Raises:
        RuntimeError: a weight or a batch statistic of the teacher differs afterwards.
    """
    with frozen(teacher.to(device)), torch.enable_grad():

        def objective(logits: Tensor, view: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                taught = teacher(view)
            return semi_supervised_loss(logits, taught.float(), labels, config.temperature, config.label_weight)

        yield objective


def find_teacher(folder: Path) -> Path:
    """Return `folder` if it holds a trained classifier, or the only fine-tuned one in it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several, or `folder` is a classifier that lies in no run.
    """
    if is_trained(folder):
        if not (folder.parent / "config.json").is_file():
            raise ValueError(f"{folder} must lie in the folder of its run, but {folder.parent} has no config.json")
        return folder
    found = []
    for path in sorted(folder.glob("*/finetune.json")):
        if not read_about(path.parent)[1]["settings"].get("from_scratch"):
            found.append(path.parent)
    if not found:
        raise FileNotFoundError(f"{folder} has no fine-tuned network: make one with fastclr finetune {folder}")
    if len(found) > 1:
        raise ValueError(f"{folder} has several fine-tuned networks: name one of {', '.join(map(str, found))}")
    return found[0]


def distill(
    run: Run, data: Splits, teacher: Trained, config: DistillConfig, *, name: str | None = None, overwrite: bool = False
) -> Trained:
    """Train a student on the predictions of `teacher` for all training images, score it, and store both.

    Every image is used, with or without a label. Teacher and student see the same random crop and flip. The student
    starts from random weights, and has its classifier on the encoder's features. See `finetune` for what is stored.

    Args:
        run: of the teacher; its configuration gives device, precision, optimiser and schedule.
        data: its images.
        teacher: a fine-tuned network, or a student of an earlier distillation.
        config: the distillation.
        name: of folder and result. Default: such as ``distill-1pct-resnet18``, or without teacher ``labels-...``.
        overwrite: replace what is in that folder.

    Raises:
        FileExistsError: the folder exists.
        ValueError: there are no labelled test images, or these are not the teacher's classes.
        RuntimeError: the teacher changed.
        Interrupted: SIGTERM or SIGINT came; nothing was written.
    """
    labels, label_seed = teacher.settings["labels"], teacher.settings["label_seed"]
    name = name or config.name(labels, teacher.config)
    check_free(run.folder / name, overwrite)
    check_test(data)
    if data.train.classes != teacher.classes:
        there, here = (", ".join(names[:5]) for names in (teacher.classes, data.train.classes))
        raise ValueError(f"the teacher knows other classes ({there}, ...) than {data.train.source} has ({here}, ...)")
    student = config.student_config(run.config, teacher.config)
    rows = labelled_rows(data.train, config.labels or labels, label_seed)
    uses_labels = config.no_teacher or config.label_weight > 0
    if config.no_teacher:
        images = data.train.select(rows)
    else:
        images = show_labels(data.train, rows if uses_labels else rows[:0])
    device = resolve_device(run.config.device)
    autocast = uses_bf16(run.config.amp, device)

    def train(seed: int) -> tuple[Classifier, PretrainConfig, int]:
        settings = training_config(student, config, len(data.train), len(images), seed)
        torch.manual_seed(seed)
        size = settings.augment.size
        classifier = build_classifier(build_model(settings), 0, len(data.train.classes), size)
        run.say(describe("student on labels alone" if config.no_teacher else "distilling", settings, len(images)))
        title = f"{name}, seed {seed}"
        if config.no_teacher:
            fit(classifier, images, settings, title=title)
        else:
            with teaching(teacher.model, config, device, autocast) as objective:
                fit(classifier, images, settings, objective, title=title)
        return classifier, settings, len(rows) if uses_labels else 0

    first, settings, scores = repeat(run, data, train, range(config.seed, config.seed + config.seeds))
    result = {**summary(scores), "teacher": None if config.no_teacher else teacher.result["name"]}
    result |= {
        "teacher_accuracy": teacher.result["accuracies"][0],
        "encoder": settings.encoder,
        "width": settings.width,
    }
    asked = config.settings(teacher)
    trained_with = dataclasses.replace(settings, seed=run.config.seed)
    stored = Trained("distill", trained_with, 0, data.train.classes, first, asked, {**result, "name": name})
    stored.save(run.folder / name)
    run.add_result(name, result)
    return stored


def show_labels(dataset: ImageDataset | ImageIndex, rows: Tensor) -> ImageDataset | ImageIndex:
    """Return the same images with the labels of `rows` only, all others -1: what is hidden cannot reach a loss."""
    labels = torch.full_like(dataset.labels, -1)
    labels[rows] = dataset.labels[rows]
    return dataclasses.replace(dataset, labels=labels)


def training_config(
    student: PretrainConfig, config: DistillConfig, everything: int, images: int, seed: int
) -> PretrainConfig:
    """Return the configuration of a student's training.

    Optimiser, rate, decay and warm-up are those of the pretraining, as in SimCLR v2; crops and flips only.

    Args:
        student: the run's configuration, with the student's encoder.
        config: the distillation.
        everything: number of training images, which fixes the number of steps.
        images: number of those that this training sees: fewer without a teacher.
        seed: of this training.

    Raises:
        ValueError: there is only one image.
    """
    if images < 2:
        raise ValueError(f"a student needs at least 2 images, got {images}: its batch norms see them all")
    asked = config.batch_size or student.batch_size
    batch, epochs = min(asked, images), config.epochs or max(1, student.epochs // 2)
    steps = epochs * (everything // min(asked, everything))
    share = student.warmup_epochs / student.epochs if student.warmup_share is None else student.warmup_share
    return dataclasses.replace(
        student,
        augment=crop_and_flip(student.augment),
        batch_size=batch,
        epochs=-(-steps // (images // batch)),
        lr=config.lr or student.lr,
        warmup_epochs=0.0,
        warmup_share=share,
        seed=seed,
    )
