"""The few-label findings of SimCLR v1 and v2 in miniature: 2000 shapes, 40 labels, minutes on one core."""

from __future__ import annotations

import dataclasses

import pytest

from fastclr.data import Splits, make_shapes
from fastclr.training.loop import pretrain_in
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run
from fastclr.transfer.classifier import Trained
from fastclr.transfer.distill import DistillConfig, distill
from fastclr.transfer.finetune import FinetuneConfig, finetune

pytestmark = pytest.mark.slow

FEW = FinetuneConfig(share="2%", epochs=150, seeds=2)


@pytest.fixture(scope="module")
def shapes() -> Splits:
    return make_shapes(train=2000, test=500)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, shapes: Splits) -> tuple[Run, Trained]:
    """A pretrained run and its network, fine-tuned on 40 labels."""
    demo = dataclasses.replace(PRESETS["demo"], width=0.125, epochs=40, knn_every=0, device="cpu", amp="off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastclr.training.build.load_splits", lambda *_, **__: shapes)
        run = pretrain_in(tmp_path_factory.mktemp("runs") / "run", demo, progress=False).run
    return run, finetune(run, shapes, FEW)


def test_fine_tuning_beats_training_from_scratch(tuned: tuple[Run, Trained], shapes: Splits) -> None:
    run, teacher = tuned
    # random weights want a higher rate: at the recipe's own they stay near chance, which would be no contest
    scratch = finetune(run, shapes, dataclasses.replace(FEW, from_scratch=True, lr=0.5))
    assert teacher.result["accuracy"] > scratch.result["accuracy"] + 0.05, (teacher.result, scratch.result)


def test_a_student_beats_the_same_student_on_the_labels_alone(tuned: tuple[Run, Trained], shapes: Splits) -> None:
    run, teacher = tuned
    config = DistillConfig(epochs=15, lr=0.1)
    student = distill(run, shapes, teacher, config)
    alone = distill(run, shapes, teacher, dataclasses.replace(config, no_teacher=True))
    assert student.result["accuracy"] > alone.result["accuracy"], (student.result, alone.result)
