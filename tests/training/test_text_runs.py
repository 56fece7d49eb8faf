"""Whole runs of the methods of images and texts: stop and resume, bfloat16, compiled, and what a run gives back."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from text_cases import TEXT_METHODS, Letters, coarse_shapes, make_tiny_pair, text_config
from tiny_run import TIMES

from fastclr.data import make_shapes
from fastclr.methods import METHODS
from fastclr.training import loop
from fastclr.training.build import build
from fastclr.training.loop import Ended, pretrain_in, train_in
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS
from fastclr.training.profile import STAGES, StageClock, synthetic_data, whole_and_staged_step
from fastclr.training.run import Run
from fastclr.training.stopping import Interrupted

DATA = coarse_shapes(48)
STEPS = 12  # four epochs of three: a queue of 64 keys goes round three times


def run(folder: Path, name: str, *, resume: bool = False, **changes: Any) -> Ended:
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    options = TEXT_METHODS[name]
    config = text_config(name, **{"data": "shapes", "batch_size": 16, "epochs": 4, "options": options, **changes})
    return train_in(folder, config, resume=resume, progress=False, data=DATA, make=make_tiny_pair)


def log_of(ended: Ended) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in ended.run.metrics.read()]


@pytest.mark.parametrize("micro_batch", [None, 6])
@pytest.mark.parametrize("name", TEXT_METHODS)
def test_a_run_that_is_stopped_again_and_again_ends_bit_identical(
    name: str, micro_batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", name, micro_batch=micro_batch)
    stops = random.Random(name).sample(range(1, STEPS), 5)
    done = itertools.count(1)

    def stopping(training: Any, batch: Any) -> None:
        step(training, batch)
        if next(done) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", stopping)
    for attempt in range(5):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", name, resume=attempt > 0, micro_batch=micro_batch)
    parts = run(tmp_path / "parts", name, resume=True, micro_batch=micro_batch)
    for key, value in whole.training.method.state_dict().items():
        assert torch.equal(parts.training.method.state_dict()[key], value), key
    assert log_of(parts) == log_of(whole)
    assert (tmp_path / "parts" / "tokenizer.json").read_text() == (tmp_path / "whole" / "tokenizer.json").read_text()


@pytest.mark.parametrize("name", TEXT_METHODS)
def test_bfloat16_trains_and_the_log_tells_of_the_embeddings(name: str, tmp_path: Path) -> None:
    ended = run(tmp_path / "run", name, amp="bf16")
    for record in log_of(ended):
        if record["kind"] == "train":
            assert math.isfinite(record["train/loss"]) and 0 < record["health/std"] <= 1.0001
            assert -1 <= record["train/positive_cosine"] <= 1 and 0.01 <= record["train/temperature"] < 1
    assert {p.dtype for p in ended.training.method.parameters()} == {torch.float32}


def use_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile trace as ever, and hand on to a backend without code generation."""
    trace = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, mode: trace(module, backend=name))


@pytest.mark.parametrize("name", TEXT_METHODS)
def test_compiled_methods_of_texts_have_the_same_curve(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Dynamo makes of a method computes the same; the compiler behind it is PyTorch's own affair, and slow."""
    use_backend("aot_eager", monkeypatch)
    curves = []
    for mode in ("off", "default"):
        ended = run(tmp_path / mode, name, compile=mode, log_every=1, epochs=2)
        curves.append([record["train/loss"] for record in log_of(ended) if record["kind"] == "train"])
        torch._dynamo.reset()
    assert len(curves[0]) == 6 and curves[1] == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("name", TEXT_METHODS)
def test_the_stages_of_a_profile_are_the_step_of_the_loop(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its towers compiled one by one, as the profile of a compiled method does it, or not."""
    use_backend("eager", monkeypatch)
    config = text_config(name, data="shapes", batch_size=16, options=TEXT_METHODS[name], compile=mode)
    one, other = (build(config, data=DATA, tokenizer=Letters(), make=make_tiny_pair) for _ in range(2))
    whole, staged = whole_and_staged_step(one)[0], whole_and_staged_step(other)[1]
    for batch in one.loader.epoch(0):
        clock = StageClock(torch.device("cpu"))
        whole(batch)
        staged(batch, clock)
    assert {*STAGES} - {*clock.read()} == {"loading"}
    invented = synthetic_data(config).train.captions  # without data
    assert invented is not None and len(set(invented)) == 64 == len(invented)
    for key, value in one.method.state_dict().items():
        torch.testing.assert_close(other.method.state_dict()[key], value, msg=key)
    torch._dynamo.reset()


def test_the_tokens_of_a_run_stay_its_own(tmp_path: Path) -> None:
    """A run that goes on has the tokens it began with, whatever its captions would give today."""
    first = run(tmp_path / "run", "clip")
    file = tmp_path / "run" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|end|>", "<|fin|>"))
    again = run(tmp_path / "run", "clip", resume=True)
    assert "<|fin|>" in file.read_text()
    assert first.training.tokenizer is not None and again.training.tokenizer is not None
    assert again.training.tokenizer.vocabulary == first.training.tokenizer.vocabulary
    file.write_text("{]")
    with pytest.raises(ValueError, match=r"tokenizer\.json: this is no stored tokenizer"):
        Run.open(tmp_path / "run").load_tokenizer()


def test_a_run_gives_back_its_towers_and_its_tokens(tmp_path: Path) -> None:
    """With the networks that the configuration names, as the command line has them."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    base = dataclasses.replace(PRESETS["demo"], width=0.125, epochs=3, batch_size=16, device="cpu", amp="off")
    options = dataclasses.replace(TEXT_METHODS["clip"], text_width=16, text_layers=1, text_heads=2)
    config = with_method(base, "clip", options=options, head_dim=8)
    assert config.captions == "auto" and config.augment.flip_p == 0 and config.augment.size == 32
    ended = train_in(tmp_path / "run", config, progress=False, data=DATA)
    found = Run.open(tmp_path / "run")
    tokenizer, method = found.load_tokenizer(), found.load_method()
    assert not method.training
    for name, value in ended.training.method.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name
    tokens = tokenizer(["small red star, top left", ""])
    assert method.encode_text(tokens).shape == (2, 8)  # type: ignore[operator]
    assert method.encode_image(torch.rand(3, 3, 32, 32)).shape == (3, 8)  # type: ignore[operator]
    assert found.load_model().head[0].weight.shape[0] == 8  # type: ignore[index, union-attr]
    with pytest.raises(FileNotFoundError, match="its method, simclr, uses no texts"):
        Run(tmp_path / "none", PRESETS["demo"]).load_tokenizer()


def test_captions_are_asked_for_before_anything_is_trained(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    bare = dataclasses.replace(make_shapes(train=48, test=8), test=None)
    config = text_config("clip", data="shapes", batch_size=16)
    with pytest.raises(ValueError, match="CLIP needs captions, and the images of 'shapes' have none: --captions"):
        train_in(tmp_path / "run", config, progress=False, data=bare, make=make_tiny_pair)
    empty = tmp_path / "empty"
    empty.mkdir()
    unknown = dataclasses.replace(TEXT_METHODS["clip"], tokenizer="no")
    wrong = dataclasses.replace(config, data=str(empty), options=unknown)
    with pytest.raises(FileNotFoundError, match="tokenizer must be bpe, open_clip, or a folder"):
        pretrain_in(tmp_path / "run", wrong, progress=False)
    assert not (tmp_path / "run").exists()


def test_every_method_of_texts_takes_the_captions_of_its_images() -> None:
    for name, method in METHODS.items():
        assert (with_method(PRESETS["demo"], name).captions == "auto") == method.uses_texts
