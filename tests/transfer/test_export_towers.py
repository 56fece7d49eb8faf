"""Both towers of a run, exported, embed as the run does where fastclr cannot be imported, and start another run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fastclr.data import make_shapes
from fastclr.methods import METHODS, CLIPOptions, Facts
from fastclr.training.loop import pretrain_in, train_in
from fastclr.training.method_presets import with_method
from fastclr.training.presets import PRESETS
from fastclr.training.run import Run
from fastclr.transfer.export import export_run

OPTIONS = CLIPOptions(text_width=16, text_layers=1, text_heads=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    data = dataclasses.replace(make_shapes(train=48, test=8, captions=True), test=None)
    base = dataclasses.replace(PRESETS["demo"], width=0.125, epochs=3, batch_size=16, device="cpu", amp="off")
    config = with_method(base, "clip", options=OPTIONS, head_dim=8)
    return train_in(tmp_path_factory.mktemp("run") / "run", config, progress=False, data=data).run


def test_the_towers_embed_as_the_run_where_there_is_no_fastclr(run: Run, tmp_path: Path) -> None:
    done = export_run(run, "towers")
    assert done.path == run.folder / "export" / "towers" and done.difference is not None and done.difference < 1e-4
    names = {path.name for path in done.path.iterdir()}
    assert names == {"image.pt2", "text.pt2", "towers.safetensors", "tokenizer.json", "README.md"}
    method: Any = run.load_method()
    texts = ["small red star, top left", "", "a"]
    import tokenizers

    tokens = tokenizers.Tokenizer.from_file(str(done.path / "tokenizer.json"))
    ids = torch.tensor([each.ids for each in tokens.encode_batch(texts)])
    assert torch.equal(ids, run.load_tokenizer()(texts))
    text = torch.export.load(done.path / "text.pt2").module()
    torch.testing.assert_close(text(ids), method.encode_text(ids), rtol=1e-4, atol=1e-5)
    image, images = torch.export.load(done.path / "image.pt2").module(), torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(image(images), method.encode_image(images), rtol=1e-4, atol=1e-5)
    card = done.card.read_text()
    assert "The text tower is there too" in card and "tokenizers.Tokenizer.from_file('tokenizer.json')" in card
    with pytest.raises(ValueError, match="already holds files"):
        export_run(run, "towers")
    export_run(run, "towers", check=False, overwrite=True)


def test_exported_towers_start_another_run(run: Run, tmp_path: Path) -> None:
    done = export_run(run, "towers", tmp_path / "towers", check=False)
    assert "head.0.weight" in load_file(done.path / "towers.safetensors")
    vocabulary = run.load_tokenizer().vocabulary
    facts = Facts(images=48, labelled=0, classes=0, world_size=1, batch_size=16, vocabulary=vocabulary)
    config = dataclasses.replace(run.config, init=str(done.path / "towers.safetensors"), fresh=True)
    torch.manual_seed(9)
    method = METHODS["clip"].build(config, facts)
    stored = run.load_method().state_dict()
    for name, value in method.state_dict().items():
        if not name.startswith("encoder.") or "running" in name or "weight" in name:
            torch.testing.assert_close(value, stored[name], rtol=1e-6, atol=1e-7, msg=name)


def test_towers_are_of_images_and_texts(tmp_path: Path) -> None:
    config = dataclasses.replace(PRESETS["demo"], width=0.125, epochs=3, batch_size=16, device="cpu", amp="off")
    data = dataclasses.replace(make_shapes(train=48, test=8), test=None)
    plain = pretrain_in(tmp_path / "run", config, progress=False, data=data).run
    with pytest.raises(ValueError, match="format towers is for methods of images and texts, got a run of simclr"):
        export_run(plain, "towers")
