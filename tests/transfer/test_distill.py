"""Distillation, and the three stages of SimCLR v2 as one command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY
from torch import Tensor, nn
from torch.nn import functional as F

import fastclr.transfer.distill
from fastclr.cli import main
from fastclr.data import Batch, Splits, make_shapes
from fastclr.evaluate import frozen, state_hash
from fastclr.methods import ViewPlan
from fastclr.methods.supervised import Classifier
from fastclr.training.build import load_data
from fastclr.training.config import PretrainConfig
from fastclr.training.loop import pretrain_in
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained, as_supervised, train_classifier
from fastclr.transfer.distill import (
    Distillation,
    DistillConfig,
    distill,
    distillation_loss,
    find_teacher,
    keep_labels,
    semi_supervised_loss,
    training_config,
)
from fastclr.transfer.finetune import FinetuneConfig, finetune

SHORT = DistillConfig(epochs=1, batch_size=32)


def logits(seed: int, requires_grad: bool = False) -> Tensor:
    drawn = torch.randn(9, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * drawn).requires_grad_(requires_grad)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_the_loss_is_kldivloss_plus_the_teachers_entropy(temperature: float) -> None:
    s, t = logits(0, True), logits(1)
    p = F.softmax(t / temperature, 1)
    entropy = torch.special.entr(p).sum(1).mean()
    divergence = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(s / temperature, 1), p)
    loss = distillation_loss(s, t, temperature)
    torch.testing.assert_close(loss, temperature**2 * (divergence + entropy), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss, s)
    expected = temperature * (F.softmax(s.detach() / temperature, 1) - p) / len(s)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_the_semi_supervised_loss_is_equation_4() -> None:
    s, t = logits(0), logits(1)
    labels = torch.tensor([-1, 3, -1, -1, 0, -1, -1, 4, -1])
    total = 0.0
    for i in range(9):
        log_p, q = F.log_softmax(s[i], 0), F.softmax(t[i] / 2, 0)
        total -= 0.7 * 4 * float((q * F.log_softmax(s[i] / 2, 0)).sum())
        if labels[i] >= 0:
            total -= 0.3 * float(log_p[labels[i]])
    ours = semi_supervised_loss(s, t, labels, temperature=2.0, label_weight=0.3)
    assert float(ours) == pytest.approx(total / 9, rel=1e-12)


def test_without_a_label_the_loss_is_the_distillation() -> None:
    s, t, none = logits(0), logits(1), torch.full((9,), -1)
    torch.testing.assert_close(semi_supervised_loss(s, t, none, 1.0, 0.25), 0.75 * distillation_loss(s, t))
    assert torch.equal(semi_supervised_loss(s, t, torch.arange(9) % 5), distillation_loss(s, t))


def test_only_the_chosen_labels_are_shown() -> None:
    data = make_shapes(train=16, test=1).train
    shown = keep_labels(data, torch.tensor([3, 12]))
    assert {i: int(label) for i, label in enumerate(shown.labels) if label >= 0} == {3: 3, 12: 4}
    assert shown.images is data.images


def net(seed: int) -> Classifier:
    torch.manual_seed(seed)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *pool)
    return Classifier(encoder, nn.Sequential(), nn.Linear(6, 8))


def test_the_teacher_sees_the_students_view_and_stays_as_it_was(tmp_path: Path) -> None:
    data, teacher, seen = make_shapes(train=32, test=1), net(0).eval(), []
    teacher.encoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], module.training)))
    student = net(1)
    student.encoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], module.training)))
    before = state_hash(teacher)
    config = dataclasses.replace(as_supervised(TINY, 0, 3), batch_size=16)
    with frozen(teacher), torch.enable_grad():
        trained = train_classifier(
            tmp_path / "run",
            config,
            data,
            lambda config, _: Distillation(student, teacher, ViewPlan(config.augment, 1), DistillConfig()),
            progress=False,
        )
    assert state_hash(teacher) == before and state_hash(trained) != state_hash(net(1))
    assert len(seen) == 2 * 6 and not any("teacher" in name for name in trained.state_dict())
    for (view, training), (taught, teaches) in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(view, taught) and training and not teaches
    record = Run.open(tmp_path / "run").metrics.read()[-1]
    assert 0 <= record["train/teacher_agreement"] <= 1


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = net(1), net(0).eval()
    method = Distillation(student, teacher, ViewPlan(TINY.augment, 1), DistillConfig(label_weight=0.5))
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    batch = Batch(images, torch.arange(4), torch.tensor([1, -1, -1, 0]))
    _, embeddings = method(torch.randn(1, 4, 3, 8, 8))
    loss, _ = method.loss(embeddings, batch, 0, 1)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    expected = semi_supervised_loss(*embeddings, batch.labels, label_weight=0.5)
    assert torch.equal(loss, expected) and set(method.state_dict()) == set(student.state_dict())


def test_the_control_takes_as_many_steps() -> None:
    run = dataclasses.replace(TINY, epochs=20, batch_size=100, warmup_epochs=5.0, lr=0.4)
    full = training_config(run, DistillConfig(), 1000, 1000, seed=3)
    assert (full.epochs, full.batch_size, full.lr, full.warmup_share, full.seed) == (10, 100, 0.4, 0.25, 3)
    few = training_config(run, DistillConfig(), 1000, 40, seed=3)
    assert few.epochs * (40 // few.batch_size) == full.epochs * (1000 // full.batch_size) == 100
    assert few.augment == full.augment and few.augment.jitter_p == 0


def test_architecture_of_the_student() -> None:
    teacher = dataclasses.replace(TINY, encoder="resnet34", width=2.0, stem="imagenet")
    alone = DistillConfig().student_config(TINY, teacher)
    assert (alone.encoder, alone.width, alone.stem) == ("resnet34", 2.0, "imagenet")
    small = DistillConfig(student="resnet18").student_config(TINY, teacher)
    assert (small.encoder, small.width, small.stem) == ("resnet18", 1.0, "imagenet")
    names = [DistillConfig(**o).name("1%", teacher) for o in ({}, {"student": "resnet18"}, {"student_width": 0.5})]
    assert names == ["distill-1pct-self", "distill-1pct-resnet18", "distill-1pct-resnet34-0.5x"]
    assert DistillConfig(no_teacher=True).name("1%", teacher) == "labels-1pct-self"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures), head_layers=3, epochs=1)).run
    finetune(run, load_data(run.config), FinetuneConfig(share="25%", epochs=1, batch_size=16, lr=5.0, seed=4, seeds=2))
    return folder


@pytest.fixture
def run(tuned: Path, tmp_path: Path) -> Run:
    return Run.open(Path(shutil.copytree(tuned, tmp_path / "run")))


def test_which_images_and_labels_the_student_gets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides all labels; with --label-weight shows the teacher's subset; without a teacher uses only that subset."""
    data, teacher, seen = load_data(run.config), Trained.load(run.folder / "finetune-25pct"), []

    def spy(folder: Path, config: PretrainConfig, data: Splits, make: Any) -> Classifier:
        seen.append(data.train)
        return teacher.model

    monkeypatch.setattr(fastclr.transfer.distill, "train_classifier", spy)
    for number, change in enumerate(({}, {"label_weight": 0.5}, {"no_teacher": True})):
        distill(run, data, teacher, dataclasses.replace(SHORT, **change), name=str(number))
    blind, some, alone = seen
    assert len(blind) == len(some) == 128 and (blind.labels == -1).all()
    known = some.labels >= 0
    assert torch.bincount(some.labels[known]).tolist() == [4] * 8
    assert torch.equal(alone.ids, some.ids[known]) and alone.labelled
    from fastclr.data.label_subsets import label_subset

    assert torch.equal(alone.ids, data.train.ids[label_subset(data.train.labels, 0.25, seed=4)])
    results = json.loads((run.folder / "results.json").read_text())
    assert [results[name]["n_labels"] for name in "012"] == [0, 32, 32]
    accuracies = [results["finetune-25pct"]["accuracies"][0]] * 3  # of the network that teaches, not of all seeds
    assert [results[name]["teacher_accuracy"] for name in "012"] == accuracies
    assert [results[name]["teacher"] for name in "012"] == ["finetune-25pct", "finetune-25pct", None]


def test_a_student_knows_its_teacher_by_the_weights(run: Run) -> None:
    """A teacher that was trained anew under the same name has other students."""
    teacher = Trained.load(run.folder / "finetune-25pct")
    again = Trained.load(run.folder / "finetune-25pct")
    assert SHORT.settings(teacher) == SHORT.settings(again)
    with torch.no_grad():
        next(again.model.parameters()).add_(1e-3)
    assert SHORT.settings(teacher) != SHORT.settings(again)


def test_unlabelled_images_are_learnt_from(run: Run) -> None:
    data = load_data(run.config)
    labels = data.train.labels.clone()
    labels[::2] = -1
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=labels))
    teacher = Trained.load(run.folder / "finetune-25pct")
    stored = distill(run, data, teacher, dataclasses.replace(SHORT, student_width=0.25, label_weight=0.5))
    assert stored.result["name"] == "distill-25pct-resnet18-0.25x"
    again = Trained.load(run.folder / stored.result["name"])
    assert (again.kind, again.layer, again.config.width) == ("distill", 0, 0.25)
    assert state_hash(again.model) == state_hash(stored.model)
    student_of_student = distill(run, data, again, SHORT, name="second")
    assert student_of_student.result["teacher"] == stored.result["name"]


def test_other_classes_are_refused(run: Run) -> None:
    data, teacher = load_data(run.config), Trained.load(run.folder / "finetune-25pct")
    with pytest.raises(ValueError, match="the teacher's classes"):
        distill(run, data, dataclasses.replace(teacher, classes=("a", "b")), SHORT)


def test_finding_the_teacher(run: Run, tmp_path: Path) -> None:
    folder = run.folder / "finetune-25pct"
    assert find_teacher(run.folder) == find_teacher(folder) == folder
    shutil.copytree(folder, run.folder / "finetune-more")
    with pytest.raises(ValueError, match="has several fine-tuned networks"):
        find_teacher(run.folder)
    shutil.copytree(folder, tmp_path / "lone" / "net")
    with pytest.raises(ValueError, match="must be inside its run's folder"):
        find_teacher(tmp_path / "lone" / "net")
    with pytest.raises(FileNotFoundError, match="train one with fastclr finetune"):
        find_teacher(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"label_weight": 1.0}, r"label_weight must be a number in \[0, 1\)"),
        ({"student_width": 0.0}, "student_width must be a positive number"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillConfig(**change)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distill", str(run.folder), "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    assert main([*arguments, "--student", "resnet10t", "--temperature", "2"]) == 0
    accuracy = json.loads((run.folder / "results.json").read_text())["distill-25pct-resnet10t"]["accuracy"]
    out = capsys.readouterr().out
    assert f"student of finetune-25pct: {100 * accuracy:.2f}%" in out and "the teacher has" in out
    assert main([*arguments, "--student", "resnet1"]) == 2
    assert "encoder must be the name of a timm model" in capsys.readouterr().err


V2 = ["v2", "--preset", "demo", "--width", "0.125", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32"]
V2 += ["--head-bn", "--device", "cpu", "--finetune.share", "25%", "--finetune.epochs", "1"]
V2 += ["--finetune.batch-size", "16", "--distill.student", "resnet10t", "--distill.student-width", "0.125"]


def test_v2_runs_every_stage_once(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v2"
    arguments = [*V2, "--data", str(pictures), "--out", str(out), "--self-first"]
    with monkeypatch.context() as patch:  # the last stage fails at first
        patch.setattr("fastclr.transfer.simclr_v2.distill_once", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(arguments)
    assert Run.open(out).config.head_layers == 3
    before = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "results.json"
    }
    assert out / "finetune-25pct" / "model.safetensors" in before
    capsys.readouterr()
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished stage was repeated"
    assert main([*arguments, "--controls"]) == 0
    table = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    names = ["finetune-25pct", "scratch-25pct", "distill-25pct-self", "distill-25pct-resnet10t-0.125x"]
    for name in [*names, "labels-25pct-resnet10t-0.125x"]:
        assert any(name in line and f"{100 * results[name]['accuracy']:.2f}%" in line for line in table.splitlines())
    assert results["distill-25pct-resnet10t-0.125x"]["teacher"] == "distill-25pct-self"
    assert main([*arguments, "--finetune.lr", "0.7"]) == 2
    assert "made with other settings (lr: None there, 0.7 now)" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--temperature", "0.3"]) == 2
    assert "was made with another configuration" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--finetune.from-layer", "4"], "from_layer must be from 0"),
        (["--finetune.share", "missing.txt"], "share must be a share of each class such as 1%"),
        (["--distill.student", "resnet1"], "encoder must be the name of a timm model"),
        (["--finetune.from-scratch"], "use --controls"),
        (
            ["--self-first", "--distill.student", "resnet18"],
            "needs a student other than the teacher's resnet18 x0.125",
        ),
    ],
)
def test_v2_refuses_before_it_pretrains(
    change: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v2"
    assert main([*V2, "--data", str(pictures), "--out", str(out), *change]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not out.exists()


def test_images_that_a_loader_decodes_give_the_same_networks(run: Run) -> None:
    """Streamed from files or all in memory, order, crops and labels are the same, and so are the weights."""
    hashes = []
    for loader in ("resident", "torch"):
        config = dataclasses.replace(run.config, loader=loader, workers=0)
        here = Run(run.folder, config)
        data = load_data(config)
        assert (type(data.train).__name__ == "ImageIndex") == (loader == "torch")
        teacher = finetune(here, data, FinetuneConfig(share="25%", epochs=1, batch_size=16), name=f"f-{loader}")
        student = distill(here, data, teacher, dataclasses.replace(SHORT, label_weight=0.5), name=f"d-{loader}")
        hashes.append((state_hash(teacher.model), state_hash(student.model), student.result["accuracies"]))
    assert hashes[0] == hashes[1]
