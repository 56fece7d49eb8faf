from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TIMES

from fastclr.evaluate import knn_accuracy, state_hash
from fastclr.losses import nt_xent
from fastclr.methods import SimCLROptions, parameter_groups
from fastclr.methods.model import build_model
from fastclr.training import build as building
from fastclr.training.build import build
from fastclr.training.checkpoint import Checkpoint
from fastclr.training.config import PretrainConfig
from fastclr.training.evaluation import run_features, warn_of_no_gain
from fastclr.training.loop import pretrain_in
from fastclr.training.optim import Schedule, build_optimizer
from fastclr.training.run import Run
from fastclr.training.step import train_step


def latest(folder: Path) -> Checkpoint:
    checkpoint = Run.open(folder).latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in Run.open(folder).metrics.read()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """An uninterrupted run, with which the others are compared."""
    from tiny_run import TINY

    folder = tmp_path_factory.mktemp("runs") / "whole"
    pretrain_in(folder, dataclasses.replace(TINY, data=str(pictures)))
    return folder


def test_a_run_leaves_its_files(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    written = {"config.json", "config.yaml", "environment.json", "metrics.jsonl", "train.log", "checkpoints"}
    assert names == written | {"encoder.safetensors"}  # the report is the command's
    assert {p.name for p in (finished / "checkpoints").glob("*.pt*")} == {"step-00000008.pt", "step-00000012.pt"}
    records = metrics(finished)
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == [0, 2, 3]
    train = [r for r in records if r["kind"] == "train"]
    assert train[-1]["step"] == 3 * 4
    names = ("loss", "contrastive_accuracy", "contrastive_entropy", "lr", "temperature")
    assert {f"train/{name}" for name in names} <= set(train[0])
    assert all(0 <= r["train/contrastive_accuracy"] <= 1 for r in train)


def test_the_network_is_scored_as_it_starts(
    finished: Path, tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(tiny.seed)
    features = run_features(build_model(tiny).encoder, build(tiny).data, tiny)
    score = knn_accuracy(features, k=tiny.knn_k, temperature=tiny.knn_temperature)
    assert metrics(finished)[0] == {"kind": "eval", "epoch": 0, "step": 0, "eval/knn_top1": score}
    run = pretrain_in(tmp_path / "end", dataclasses.replace(tiny, epochs=1, knn_every=0)).run
    assert [r["epoch"] for r in run.metrics.read() if r["kind"] == "eval"] == [1]
    assert "before training" not in capsys.readouterr().err


def test_a_run_that_ends_no_better_than_it_began_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(shutil.copytree(finished, tmp_path / "run"))
    before = run.metrics.read()[0]["eval/knn_top1"]
    warn_of_no_gain(run, before + 1e-6)
    assert capsys.readouterr().err == ""
    warn_of_no_gain(run, before)
    said = capsys.readouterr().err
    assert f"warning: kNN is no better than the {100 * before:.1f}% before training" in said and "--lr 0.1 " in said
    run.metrics.path.write_text("")  # of a run of before, or with --knn-every 0
    warn_of_no_gain(run, 0.0)
    assert capsys.readouterr().err == ""


def test_the_encoder_file_loads_without_the_checkpoint(finished: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    encoder = Run.open(finished).load_encoder()
    before = state_hash(encoder)
    encoder.load_state_dict(load_file(finished / "encoder.safetensors"))
    assert state_hash(encoder) == before
    with safe_open(finished / "encoder.safetensors", "pt") as file:
        about = json.loads(file.metadata()["fastclr"])
    built = {"encoder": "resnet18", "width": 0.125, "stem": "auto", "patch_size": None, "size": 32, "norm": "batch"}
    assert about == {**built, "step": 12}


def test_a_damaged_last_checkpoint_is_reported_and_the_run_ends_the_same(
    finished: Path, tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "damaged")
    newest = folder / "checkpoints" / "step-00000012.pt"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:1000] + b"x" + whole[1001:])
    pretrain_in(folder, tiny, resume=True)
    assert "step-00000012.pt is damaged" in capsys.readouterr().err
    assert metrics(folder) == metrics(finished)
    assert state_hash(Run.open(folder).load_encoder()) == state_hash(Run.open(finished).load_encoder())
    for path in (folder / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: .*12\.pt must end .*08\.pt must end"):
        pretrain_in(folder, tiny, resume=True)


def test_a_checkpoint_of_the_first_format_is_told(finished: Path, tiny: PretrainConfig, tmp_path: Path) -> None:
    shutil.copy(finished / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        Run.open(tmp_path).load_encoder()
    torch.save({"format": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is a checkpoint of format 1"):
        pretrain_in(tmp_path, tiny, resume=True)


def test_a_run_killed_before_its_configuration_was_written_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json.tmp").write_text("{")
    Run.check_free(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError):
        Run.check_free(tmp_path)


def test_checkpoint_loads_weights_only(finished: Path) -> None:
    contents = torch.load(finished / "checkpoints" / "step-00000012.pt", weights_only=True)
    assert contents["epoch"] == 3 and contents["step"] == 12


def test_two_deterministic_runs_are_equal_and_two_seeds_differ(
    finished: Path, tiny: PretrainConfig, tmp_path: Path
) -> None:
    pretrain_in(tmp_path / "again", tiny)
    assert metrics(tmp_path / "again") == metrics(finished)
    pretrain_in(tmp_path / "seed", dataclasses.replace(tiny, seed=1, epochs=1))
    assert metrics(tmp_path / "seed")[1]["train/loss"] != metrics(finished)[1]["train/loss"]


def test_resume_of_a_finished_run_changes_nothing(finished: Path, tiny: PretrainConfig) -> None:
    before = metrics(finished)
    pretrain_in(finished, tiny, resume=True)
    assert metrics(finished) == before


def test_a_run_folder_that_exists_is_not_touched(finished: Path, tiny: PretrainConfig) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    with pytest.raises(FileExistsError, match=r"--resume .*whole"):
        pretrain_in(finished, tiny)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_resume_of_another_configuration_is_refused(finished: Path, tiny: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=r"lr: 0\.1 there, 0\.2 now"):
        pretrain_in(finished, dataclasses.replace(tiny, lr=0.2), resume=True)


def test_resume_on_other_images_is_refused(finished: Path, tiny: PretrainConfig, tmp_path: Path) -> None:
    from PIL import Image

    for index in range(4):
        for split in ("train", "test"):
            path = tmp_path / "images" / split / "a" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (index, 0, 0)).save(path)
    smaller = dataclasses.replace(tiny, data=str(tmp_path / "images"))
    with pytest.raises(ValueError, match=r"batch_size|other images"):
        pretrain_in(finished, smaller, resume=True)


def test_resume_of_nothing(tmp_path: Path, tiny: PretrainConfig) -> None:
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        pretrain_in(tmp_path, tiny, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    def nan_from_the_sixth_step(*arguments: Any, **options: Any) -> tuple[torch.Tensor, Any]:
        loss, stats = nt_xent(*arguments, **options)
        return loss * (float("nan") if next(calls) >= 6 else 1.0), stats

    monkeypatch.setattr("fastclr.methods.simclr.nt_xent", nan_from_the_sixth_step)
    with pytest.raises(FloatingPointError, match="loss became nan at step 6"):
        pretrain_in(tmp_path / "run", dataclasses.replace(tiny, checkpoint_every=1))
    kept = latest(tmp_path / "run")
    assert kept.step == 5
    assert all(bool(w.isfinite().all()) for w in kept.method.values())


def test_schedule_warms_up_to_the_peak_and_ends_near_zero() -> None:
    config = PretrainConfig(data="shapes", epochs=10, warmup_epochs=2, lr=0.4)
    model = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(config, parameter_groups(model, config.optimizer))
    schedule = Schedule(config, optimizer, steps_per_epoch=5)
    rates = []
    for step in range(50):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:11] == pytest.approx([0.04 * i for i in range(11)])
    expected = [0.2 * (1 + torch.cos(torch.tensor(torch.pi * (s - 10) / 40)).item()) for s in range(10, 50)]
    assert rates[10:] == pytest.approx(expected, abs=1e-6)


def test_adamw_leaves_biases_and_norms_undecayed(tiny: PretrainConfig) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    temperature = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(()))])
    for kind, decayed in (("adamw", 12), ("sgd", 12 + 4 + 8)):
        config = dataclasses.replace(tiny, optimizer=kind, weight_decay=0.1)
        groups = build_optimizer(config, parameter_groups(model, config.optimizer, temperature)).param_groups
        assert sum(p.numel() for g in groups if g["weight_decay"] for p in g["params"]) == decayed
        assert sum(p.numel() for g in groups for p in g["params"]) == 12 + 4 + 8 + 1


def test_step_is_the_plain_recipe(tiny: PretrainConfig) -> None:
    """One step equals views -> model -> lightly's loss -> SGD, written out."""
    from lightly.loss import NTXentLoss

    config = dataclasses.replace(tiny, options=SimCLROptions(learnable_temperature=False), clip_grad=0.01)
    ours, theirs = build(config), build(config)
    batch = next(iter(ours.loader.epoch(0)))
    train_step(ours, batch)
    views = theirs.augment(batch.images, batch.ids, 0)
    theirs.method.train()
    z0, z1 = theirs.method.head(theirs.method.encoder(torch.cat([views[0], views[1]]))).chunk(2)  # type: ignore[operator]
    loss = NTXentLoss(config.options.temperature)(z0, z1)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.method.parameters(), 0.01)
    assert norm > 0.01
    theirs.optimizer.step()
    assert float(ours.totals.get("loss")) == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(ours.method.parameters(), theirs.method.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_learnable_temperature_is_trained_saved_and_logged(tiny: PretrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, options=SimCLROptions(learnable_temperature=True), epochs=1, knn_every=0)
    run = pretrain_in(tmp_path / "run", config).run
    assert run.metrics.read()[0]["train/temperature"] != config.options.temperature
    assert "criterion.log_temperature" in latest(run.folder).method


def test_the_online_probe_learns_beside_the_run_and_does_not_touch_it(
    finished: Path, tiny: PretrainConfig, tmp_path: Path
) -> None:
    run = pretrain_in(tmp_path / "probed", dataclasses.replace(tiny, online_probe=True)).run
    assert state_hash(run.load_encoder()) == state_hash(Run.open(finished).load_encoder())
    scored = [r["eval/linear_top1"] for r in run.metrics.read() if r["kind"] == "eval" and r["epoch"]]
    assert scored and all(0 <= score <= 1 for score in scored)
    accuracy = [r["train/linear_top1"] for r in run.metrics.read() if r["kind"] == "train"]
    assert all(0 <= a <= 1 for a in accuracy) and accuracy[-1] > 0
    probe = run.latest_checkpoint().probe  # type: ignore[union-attr]
    assert any(tensor.abs().sum() > 0 for tensor in probe.values() if isinstance(tensor, torch.Tensor))


def test_a_run_that_goes_on_reads_with_the_loader_that_it_began_with(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the same call is made again and still says `auto`, which depends on the memory that is free."""
    seen: list[str] = []
    load = building.load_data

    def seeing(config: PretrainConfig, *rest: Any) -> Any:
        seen.append(config.loader)
        return load(config, *rest)

    monkeypatch.setattr(building, "load_data", seeing)
    for resume in (False, True):
        pretrain_in(tmp_path / "run", dataclasses.replace(tiny, epochs=1, knn_every=0), resume=resume)
    assert seen == ["auto", "resident"]


def test_micro_batches_take_the_step_of_the_whole_batch(tiny: PretrainConfig) -> None:
    """Without batch norm both steps are the same, as the float64 weights show."""
    config = dataclasses.replace(tiny, encoder="convnext_atto", width=1.0, stem="auto", head_bn=False, batch_size=12)
    whole, parts = (build(dataclasses.replace(config, micro_batch=size)) for size in (None, 5))
    batch = next(iter(whole.loader.epoch(0)))
    for training in (whole, parts):
        training.method.double().train()
        augment = training.augment
        training.augment = lambda *inputs, augment=augment: augment(*inputs).double()  # type: ignore[assignment]
        train_step(training, batch)
    for a, b in zip(whole.method.parameters(), parts.method.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    sums = [training.totals.sum_over(training.world) for training in (whole, parts)]
    assert sums[0].keys() == sums[1].keys()
    assert all(torch.allclose(value, sums[1][name]) for name, value in sums[0].items())


def test_views_can_go_through_batch_norm_one_by_one(tiny: PretrainConfig) -> None:
    config = dataclasses.replace(tiny, bn_per_view=True)
    training = build(config)
    batch = next(iter(training.loader.epoch(0)))
    views = training.augment(batch.images, batch.ids, 0)
    training.method.train()
    method: Any = training.method
    apart = torch.cat([method.head(method.encoder(view)) for view in views])
    torch.testing.assert_close(torch.cat(training.forward(views)[1]), apart)
    together = build(dataclasses.replace(config, bn_per_view=False))
    together.method.train()
    assert not torch.allclose(torch.cat(together.forward(views)[1]), apart, rtol=1e-2)


def test_test_images_for_training_images_without_classes_are_refused(
    tiny: PretrainConfig, pictures: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (pictures / "train").glob("*/*.png"):
        (flat / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    config = dataclasses.replace(tiny, data=str(flat), test_data=str(pictures))
    with pytest.raises(ValueError, match=r"test_data=.* cannot be used: the training images in .* have no classes"):
        pretrain_in(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
