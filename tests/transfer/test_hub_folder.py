"""An exported folder for hubs gives the encoder back, whatever its width and stem, also to huggingface_hub alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from export_cases import OwnEncoderRun, stored_run
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from fastclr import HubEncoder
from fastclr.transfer.export import export_run

# encoder, width, stem, patch size
BUILT: dict[str, tuple[str, float, str, int | None]] = {
    "a stem for small images": ("resnet18", 1.0, "cifar", None),
    "wide, with the stem that timm has not": ("resnet18", 0.5, "imagenet", None),
    "selective kernels": ("simclr_skresnet50", 0.125, "cifar", None),
    "vit of other patches": ("vit_tiny_patch16_224", 1.0, "auto", 8),
}


@pytest.mark.parametrize("name", BUILT)
def test_the_folder_gives_the_same_features(name: str, tmp_path: Path) -> None:
    encoder, width, stem, patch = BUILT[name]
    run = stored_run(tmp_path / "run", encoder, 32, width=width, stem=stem, patch_size=patch)
    done = export_run(run, "hub", tmp_path / "it's a model", check=False, licence="mit")
    folder = done.path.parent
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    loaded = HubEncoder.from_pretrained(folder)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), run.load_encoder().eval()(images), rtol=0, atol=0)
    assert loaded.preprocessing is not None and loaded.preprocessing["mean"] == [0.4, 0.5, 0.6]
    # huggingface_hub's own writer gives the folder back, and its own reader of cards the head of ours
    loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        read = json.loads if file.endswith("json") else None
        ours, theirs = folder / file, tmp_path / "again" / file
        if read is not None:
            assert json.loads(ours.read_text()) == json.loads(theirs.read_text())
        else:
            mine, other = load_file(ours), load_file(theirs)
            assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
            assert all(key.startswith("backbone.") for key in mine)
    card = ModelCard.load(folder / "README.md").data
    assert card.library_name == "fastclr" and card.pipeline_tag == "image-feature-extraction"
    assert {"model_hub_mixin", "pytorch_model_hub_mixin"} <= set(card.tags or [])


def test_the_line_is_run_in_a_fresh_process(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.25)
    done = export_run(run, "hub")
    folder = run.folder / "export" / "hub"
    assert done.difference is not None and done.difference < 1e-6
    assert done.lines == f"from fastclr import HubEncoder; encoder = HubEncoder.from_pretrained({str(folder)!r})"


def test_lost_weights_are_an_error(tmp_path: Path) -> None:
    """huggingface_hub would leave them random."""
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.25)
    path = export_run(run, "hub", tmp_path / "new", check=False).path
    state = load_file(path)
    state.pop("backbone.conv1.weight")
    save_file(state, path)
    with pytest.raises(RuntimeError, match=r"backbone\.conv1\.weight"):
        HubEncoder.from_pretrained(tmp_path / "new")


def test_what_has_no_name_and_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    own = stored_run(tmp_path / "own", "<mine>", 32, kind=OwnEncoderRun)
    with pytest.raises(ValueError, match="encoders that have a name, got '<mine>'"):
        export_run(own, "hub", tmp_path / "new")
    with pytest.raises(ValueError, match="nobody else can build that one"):
        HubEncoder(encoder="module:factory")
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.25)
    with pytest.raises(ValueError, match=r"config\.json describes no model of this format and would be lost"):
        export_run(run, "hub", run.folder, overwrite=True)
