"""An exported folder is a model of timm, and the head of its card is what hubs read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from export_cases import StoredRun, stored_run
from timm.data import create_transform, resolve_model_data_config

from fastclr.augment import AugmentConfig
from fastclr.methods.encoders import build_encoder
from fastclr.training.run import Run
from fastclr.transfer.export import export_run

# encoder, size, width, stem, patch size
BUILT: dict[str, tuple[str, int, float, str, int | None]] = {
    "resnet": ("resnet18", 64, 1.0, "imagenet", None),
    "resnet without the tag of weights": ("resnet18.a1_in1k", 64, 1.0, "imagenet", None),
    "wide, with a stem of three": ("resnet18d", 64, 0.5, "imagenet", None),
    "vit of another size": ("vit_tiny_patch16_224", 32, 1.0, "auto", 8),
}


@pytest.mark.parametrize("name", BUILT)
def test_timm_loads_the_folder_with_the_same_features(name: str, tmp_path: Path) -> None:
    encoder, size, width, stem, patch = BUILT[name]
    run = stored_run(tmp_path / "run", encoder, size, width=width, stem=stem, patch_size=patch)
    done = export_run(run, "timm", tmp_path / "it's a model", check=False, licence="mit")
    assert {path.name for path in done.path.parent.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    loaded: Any = timm.create_model(f"local-dir:{done.path.parent}", pretrained=True).eval()
    images = torch.randn(5, 3, size, size)
    with torch.no_grad():
        expected, found = run.load_encoder().eval()(images), loaded(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    wanted = resolve_model_data_config(loaded)
    assert [*wanted["input_size"]] == [3, size, size] and wanted["interpolation"] == "bilinear"
    assert [*wanted["mean"], *wanted["std"]] == [0.4, 0.5, 0.6, 0.2, 0.3, 0.25]
    assert wanted["crop_pct"] == (0.875 if size > 32 else 1.0)
    assert create_transform(**wanted, is_training=False) is not None
    config = json.loads((done.path.parent / "config.json").read_text())
    assert config["num_features"] == expected.shape[1] and config["pretrained_cfg"]["license"] == "mit"
    # a classifier of one's own on top of these weights
    assert timm.create_model(f"local-dir:{done.path.parent}", pretrained=True, num_classes=7)(images).shape == (5, 7)


def test_the_line_that_loads_it_is_run_where_fastclr_cannot_be_imported(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", "resnet18d", 32, width=0.25, stem="imagenet")
    done = export_run(run, "timm", tmp_path / "new")
    assert done.difference is not None and done.difference < 1e-6
    assert (
        done.lines
        == f"import timm; encoder = timm.create_model('local-dir:{tmp_path / 'new'}', pretrained=True).eval()"
    )


@pytest.mark.parametrize(
    ("encoder", "width", "stem", "message"),
    [
        (
            "resnet18",
            1.0,
            "cifar",
            r"no name for a resnet18 of width 1\.0 with this stem \(conv1, maxpool differ\): use",
        ),
        ("resnet18", 0.5, "imagenet", r"no name for a resnet18 of width 0\.5 with this stem"),
        ("simclr_skresnet50", 0.125, "cifar", "timm cannot build the encoder 'simclr_skresnet50'"),
    ],
)
def test_what_timm_has_no_name_for_is_refused(
    encoder: str, width: float, stem: str, message: str, tmp_path: Path
) -> None:
    run = stored_run(tmp_path / "run", encoder, 32, width=width, stem=stem)
    with pytest.raises(ValueError, match=message):
        export_run(run, "timm", tmp_path / "new")
    assert not (tmp_path / "new").exists()


class Bands(StoredRun):
    """A run of images of any number of channels."""

    def load_encoder(self) -> torch.nn.Module:
        """Build its encoder."""
        config = self.config
        torch.manual_seed(7)
        options = {"stem": config.stem, "size": config.augment.size, "norm": config.norm}
        return build_encoder(config.encoder, channels=config.augment.channels, **options)


def test_channels_are_options_and_layer_norm_is_none(tmp_path: Path) -> None:
    """A layer that timm takes as a Python class cannot stand in a config.json."""
    run = stored_run(tmp_path / "run", "resnet18", 64, stem="imagenet")
    five = AugmentConfig(64, channels=5, jitter=(0.8, 0.8, 0, 0), gray_p=0)
    bands = Bands(run.folder, dataclasses.replace(run.config, augment=five))
    done = export_run(bands, "timm", tmp_path / "five", check=False)
    loaded: Any = timm.create_model(f"local-dir:{done.path.parent}", pretrained=True).eval()
    images = torch.randn(2, 5, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), bands.load_encoder().eval()(images), rtol=0, atol=1e-6)
    wanted = resolve_model_data_config(loaded)
    assert [*wanted["mean"], *wanted["std"]] == [0.0] * 5 + [1.0] * 5  # which leaves [0, 1] as it is
    layers = Bands(run.folder, dataclasses.replace(run.config, norm="layer"))
    with pytest.raises(ValueError, match=r"cannot hold the options of this encoder \(norm_layer\): use the format"):
        export_run(layers, "timm", tmp_path / "layers")


def test_no_file_of_another_kind_is_replaced(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, stem="imagenet")
    with pytest.raises(ValueError, match=r"config\.json already exists"):
        export_run(run, "timm", run.folder)
    with pytest.raises(ValueError, match="describes no model of this format and would be lost"):
        export_run(run, "timm", run.folder, overwrite=True)
    with pytest.raises(ValueError, match="writes a folder"):
        export_run(run, "timm", tmp_path / "a.safetensors")
    assert Run.open(run.folder).config == run.config
    done = export_run(run, "timm", check=False)
    assert done.path == run.folder / "export" / "timm" / "model.safetensors"
    with pytest.raises(ValueError, match="already exists"):
        export_run(run, "timm", check=False)
    assert export_run(run, "timm", check=False, overwrite=True).path == done.path


def test_the_head_of_the_card_is_what_hubs_read(tmp_path: Path) -> None:
    """As huggingface_hub, which comes with timm, reads and checks it."""
    from huggingface_hub import ModelCard

    run = stored_run(tmp_path / "run", "resnet18", 32, stem="imagenet")
    data: Any = ModelCard(export_run(run, "timm", check=False).card.read_text()).data
    assert data.pipeline_tag == "image-feature-extraction" and data.library_name == "timm"
    assert data.eval_results is None and data.datasets is None and data.base_model is None and data.license is None
    run = StoredRun(
        run.folder, dataclasses.replace(run.config, data="cifar10", encoder="resnet18.a1_in1k", pretrained=True)
    )
    run.add_result("knn", {"accuracy": 0.5, "k": 5})
    run.add_result("probe-lbfgs", {"accuracy": 0.625, "std": 0.01})
    card = export_run(run, "safetensors", tmp_path / "b.safetensors", check=False, licence="mit").card
    data = ModelCard(card.read_text(), ignore_metadata_errors=False).data
    assert data.license == "mit" and data.tags == ["simclr", "self-supervised"] and data.library_name == "fastclr"
    assert data.datasets == ["uoft-cs/cifar10"] and data.base_model == "timm/resnet18.a1_in1k"
    assert [(r.task_name.split()[0], r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results] == [
        ("kNN", "accuracy", 0.5, "cifar10"),
        ("linear", "accuracy", 0.625, "cifar10"),
    ]
