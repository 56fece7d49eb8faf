from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from export_cases import OwnEncoderRun, StoredRun, features_of_lines, stored_run
from torch import nn

import fastclr
import fastclr.transfer.export
from fastclr.augment import AugmentConfig
from fastclr.cli import main
from fastclr.training.method_presets import with_method
from fastclr.training.run import Run
from fastclr.transfer.embed import embed
from fastclr.transfer.export import export_run
from fastclr.transfer.feature_file import read_features
from fastclr.transfer.loading_code import timm_lines

TORCH = "encoder(torch.from_numpy(images)).numpy()"
ONNX = "encoder.run(None, {'images': images})[0]"


# name: format, encoder, size, width, stem, lines that load it
CASES: dict[str, tuple[str | None, str, int, float, str, int]] = {
    "timm, by name": ("safetensors", "resnet18", 64, 1.0, "imagenet", 1),
    "timm, of another input size": ("safetensors", "vit_tiny_patch16_224", 32, 1.0, "auto", 1),
    "timm, other blocks": ("safetensors", "skresnet18", 64, 1.0, "imagenet", 1),
    "timm, CIFAR stem": ("safetensors", "resnet18", 32, 1.0, "cifar", 6),
    "timm, narrow bottlenecks": ("safetensors", "resnet26", 32, 0.5, "cifar", 6),
    "timm, wide, ImageNet stem": ("safetensors", "resnet18", 64, 1.5, "imagenet", 5),
    "timm, wide, a stem of three": ("safetensors", "resnet18d", 64, 1.5, "imagenet", 1),
    "timm, narrow selective kernels": ("safetensors", "skresnet18", 64, 0.5, "cifar", 6),
    "by default of what timm builds": (None, "resnet18", 32, 0.25, "cifar", 6),
    "by default of what it does not": (None, "simclr_skresnet50", 32, 0.125, "cifar", 1),
    "torchvision": ("torchvision", "resnet18", 64, 1.0, "imagenet", 1),
    "torchvision, bottlenecks, CIFAR stem": ("torchvision", "resnet50", 32, 1.0, "cifar", 6),
    "onnx": ("onnx", "resnet18", 32, 0.25, "cifar", 1),
    "pt2": ("pt2", "resnet18", 32, 0.25, "cifar", 1),
    "torchscript": ("torchscript", "resnet18", 32, 0.25, "cifar", 1),
}
Outcome = tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The printed lines, the features they give without fastclr, and those of the run's encoder."""
    root = tmp_path_factory.mktemp("it's exported")
    batches, expected = [], []
    for number, (kind, encoder, size, width, stem, _) in enumerate(CASES.values()):
        run = stored_run(root / str(number), encoder, size, width=width, stem=stem)
        done = export_run(run, kind, check=False)  # type: ignore[arg-type]
        images = torch.randn(5, 3, size, size)
        batches.append((str(done.lines), ONNX if kind == "onnx" else TORCH, images))
        with torch.no_grad():
            expected.append(run.load_encoder().eval()(images).numpy())
    found = features_of_lines(batches, root)
    lines = [batch[0] for batch in batches]
    return dict(zip(CASES, zip(lines, found, expected, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_printed_lines_give_the_same_features_in_fresh_process(name: str, outcomes: dict[str, Outcome]) -> None:
    lines, found, expected = outcomes[name]
    kind, *_, count = CASES[name]
    assert len(lines.splitlines()) == count
    assert ("timm" in lines) == (kind == "safetensors" or (kind is None and count > 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_no_library_builds_by_name_still_loads_without_fastclr(tmp_path: Path) -> None:
    own = stored_run(tmp_path / "own", "resnet18", 32, kind=OwnEncoderRun)
    vit = stored_run(tmp_path / "vit", "vit_tiny_patch16_224", 32, patch_size=8)
    done = [export_run(own, check=False), export_run(vit, check=False)]
    assert [file.path.suffix for file in done] == [".pt2", ".safetensors"] and "patch_size=8" in str(done[1].lines)
    images = torch.randn(3, 3, 32, 32)
    found = features_of_lines([(str(file.lines), TORCH, images) for file in done], tmp_path)
    for run, features in zip((own, vit), found, strict=True):
        with torch.no_grad():
            expected = run.load_encoder().eval()(images).numpy()
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    weights = export_run(own, "safetensors", check=False)
    assert weights.lines is None and "Only fastclr can build" in weights.card.read_text()
    assert export_run(vit, out=tmp_path / "encoder.onnx", check=False).path.read_bytes()[:1] == b"\x08"


def test_an_onnx_file_is_valid_and_says_what_it_takes(tmp_path: Path) -> None:
    import onnx

    run = stored_run(tmp_path / "run", "resnet18", 64, width=0.25)
    done = export_run(run, "onnx", check=False)
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param and not batch.dim_value
    stored = {entry.key: entry.value for entry in model.metadata_props}
    inputs = json.loads(stored["preprocessing"])
    assert inputs["input_size"] == [3, 64, 64] and inputs["crop_pct"] == 0.875
    assert inputs["mean"] == [0.4, 0.5, 0.6] and inputs["std"] == [0.2, 0.3, 0.25]


def test_the_check_runs_the_lines_without_fastclr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, stem="cifar")
    assert export_run(run, out=tmp_path / "a.safetensors").difference == pytest.approx(0, abs=1e-6)

    def needs_fastclr(*_: object, **__: object) -> str:
        return "import fastclr; encoder = None"

    monkeypatch.setattr(fastclr.transfer.export, "timm_lines", needs_fastclr)
    with pytest.raises(ValueError, match=r"does not load without fastclr.*\n.*fastclr"):
        export_run(run, out=tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_the_check_sees_wrong_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, stem="imagenet")
    whole = fastclr.transfer.export.state_of

    def damaged(encoder: nn.Module) -> dict[str, torch.Tensor]:
        return {n: t * 1.01 if n == "layer4.1.bn2.running_var" else t for n, t in whole(encoder).items()}

    monkeypatch.setattr(fastclr.transfer.export, "state_of", damaged)
    with pytest.raises(ValueError, match="features differ by"):
        export_run(run, out=tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists() and not (tmp_path / "README.md").exists()


def test_no_lines_are_invented_for_encoders_that_timm_cannot_build() -> None:
    import timm

    encoder = timm.create_model("resnet18", num_classes=0)
    assert timm_lines(encoder, "resnet18", 224) is not None
    assert timm_lines(encoder, "resnet18_of_ours", 224) is None
    encoder.layer3[0].conv1 = nn.Conv2d(128, 256, 5, 2, 2, bias=False)
    assert timm_lines(encoder, "resnet18", 224) is None
    encoder = timm.create_model("resnet18", num_classes=0)
    encoder.maxpool = nn.Softmax(1)
    assert timm_lines(encoder, "resnet18", 224) is None


@pytest.mark.parametrize(
    ("encoder", "width", "kind", "out", "message"),
    [
        ("vit_tiny_patch16_224", 1.0, "torchvision", "a.pth", "got the encoder 'vit_tiny_patch16_224'"),
        ("resnet18", 0.5, "torchvision", "a.pth", "no resnet18 of this width"),
        ("resnet18", 0.5, "safetensors", "a.pth", r"must end in \.safetensors"),
        ("resnet18", 0.5, "tensorflow", "a.pb", "format must be one of safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    encoder: str, width: float, kind: str, out: str, message: str, tmp_path: Path
) -> None:
    run = stored_run(tmp_path / "run", encoder, 32, width=width)
    with pytest.raises(ValueError, match=message):
        export_run(run, kind, tmp_path / "new" / out)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_nothing_is_replaced_without_being_asked(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.125)
    out = tmp_path / "encoder.safetensors"
    export_run(run, out=out, check=False)
    with pytest.raises(ValueError, match="already exists"):
        export_run(run, out=out, check=False)
    export_run(run, out=out, check=False, overwrite=True)
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(ValueError, match=r"README\.md was not written by fastclr"):
        export_run(run, out=tmp_path / "other.safetensors", check=False, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    stored_run(tmp_path / "run", "resnet18", 32, width=0.125)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(tmp_path / "run"), "--format", "onnx"]) == 2
    text = capsys.readouterr().err
    assert "pip install 'fastclr[export]'" in text and "[train]" not in text


def test_the_card_states_what_is_known(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.125)
    card = export_run(run, check=False).card.read_text()
    assert card.startswith("---\ntags:") and "model-index" not in card and "license:" not in card
    assert card.count("not evaluated") == 3 and "Not stated." in card and "Not recorded." in card
    assert "`pictures`" in card and "a/b" not in card  # no folders of a machine
    assert "the scores are of, the encoder that was trained." in card
    run.add_result("knn", {"accuracy": 0.5, "k": 5, "temperature": None, "test_images": 64})
    run.add_result("probe", {"accuracy": 0.625, "std": 0.01, "protocol": "a|b", "confusion": [[1] * 30] * 30})
    (run.folder / "environment.json").write_text('{"torch": "2.0"}')
    card = export_run(run, check=False, licence="mit", overwrite=True).card.read_text()
    assert "| knn | 50.00% | k=5, temperature=None, test_images=64 |" in card
    assert "| probe | accuracy 62.50%, std 1.00% | protocol=a\\|b |" in card
    assert card.count("not evaluated") == 1 and 'license: "mit"' in card and "| torch | 2.0 |" in card


def test_hubs_list_the_scores_of_these_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored_run(tmp_path / "run", "resnet18", 32, width=0.125)
    monkeypatch.setattr(StoredRun, "newest_step", lambda _: 200)
    run.add_result("knn", {"accuracy": 0.5, "step": 100})  # before the run was made longer
    run.add_result("knn-others", {"accuracy": 0.25, "step": 200})
    run.add_result("probe-lbfgs", {"accuracy": 0.625, "step": 200})
    head = yaml.safe_load(export_run(run, check=False).card.read_text().split("---")[1])
    results = head["model-index"][0]["results"]
    assert [(each["task"]["name"], each["metrics"][0]["value"]) for each in results] == [
        ("linear classifier on frozen features", 0.625)
    ]
    assert head["tags"] == ["simclr", "self-supervised"]
    for method, tags in (("supervised", ["supervised"]), ("supcon", ["supcon"])):
        config = with_method(run.config, method)
        card = export_run(run.with_config(config), check=False, overwrite=True).card.read_text()
        assert yaml.safe_load(card.split("---")[1])["tags"] == tags and "with its labels" in card


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("resnet18", {"width": 0.125}),
        ("vit_tiny_patch16_224", {"patch_size": 8}),
    ],
)
def test_an_exported_file_is_embedded_as_its_run_is(
    encoder: str, options: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """Normalisation and the size of the patches come with the file."""
    run = stored_run(tmp_path / "run", encoder, 32, **options)
    file = export_run(run, "safetensors", check=False).path
    bare = fastclr.Run.of_encoder(init=str(file))
    embed(run, pictures, tmp_path / "run.npz", split="test", device="cpu")
    bare.embed(pictures, tmp_path / "bare.npz", split="test", device="cpu")
    ours, theirs = (read_features(tmp_path / name).features for name in ("run.npz", "bare.npz"))
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_export_after_pretraining(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    tiny = ["--width", "0.125", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--device", "cpu"]
    assert main(["pretrain", "--preset", "demo", "--data", str(pictures), "--out", folder, *tiny]) == 0
    assert main(["export", folder, "--format", "torchscript", "--no-check"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("import torch; encoder = ")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = Run.open(Path(folder)).load_encoder().eval()(images).numpy()
    (found,) = features_of_lines([(line, TORCH, images)], tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert main(["export", folder, "--format", "torchvision"]) == 2
    assert "of this width" in capsys.readouterr().err


def test_stored_runs_are_runs(tmp_path: Path) -> None:
    """The tests' helper differs from a real run only in the source of its weights."""
    run = stored_run(tmp_path / "run", "resnet18", 32)
    assert isinstance(run, StoredRun) and Run.open(run.folder).config == run.config


class Amplifying(nn.Module):
    """Features that are small differences of large numbers, so that float32 loses most of their digits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Conv2d(3, 8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.maps(images).mean((2, 3)) + 2000.0) - 2000.0


def test_an_encoder_that_amplifies_rounding_is_compared_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the same weights may differ by as much as float32 from float64; one with others may not."""
    encoder, inputs = Amplifying().eval(), []

    def other_order(folder: Path, lines: str, kind: str) -> npt.NDArray[np.float32]:
        inputs.append(images := torch.from_numpy(np.load(folder / "images.npy")))
        with torch.no_grad():
            return (encoder.maps(images).flatten(2).sum(2) / 30**2 + 2000.0 - 2000.0).numpy() + 1.2e-4

    monkeypatch.setattr(fastclr.transfer.export, "features_in_fresh_process", other_order)
    error = fastclr.transfer.export.compare(encoder, {}, "", "onnx", AugmentConfig.cifar(32))
    assert fastclr.transfer.export.TOLERANCE < error < 0.01
    # of photographs: neighbouring pixels are alike, and no two images are the same
    assert inputs[0].shape == (4, 3, 32, 32) and float(inputs[0].diff(dim=3).abs().mean()) < 0.3 * float(
        inputs[0].std()
    )
    assert len({image.sum().item() for image in inputs[0]}) == 4
    monkeypatch.setattr(fastclr.transfer.export, "features_in_fresh_process", lambda *_: other_order(*_) * 1.01)
    with pytest.raises(ValueError, match=r"features differ by .* more than the allowed"):
        fastclr.transfer.export.compare(encoder, {}, "", "onnx", AugmentConfig.cifar(32))
