"""What docs/hand-over.md and the examples beside it say: other libraries compute the run's features from its files."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from export_cases import stored_run
from torch import Tensor, nn

import fastclr

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hand-over.md").read_text()
SIZE = 96


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fastclr.Run:
    """A run of a ResNet-18 with statistics and shifts as after training."""
    return fastclr.Run._of(stored_run(tmp_path_factory.mktemp("hand") / "run", "resnet18", SIZE))


@pytest.fixture(scope="module")
def work(run: fastclr.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page begins from."""
    folder = tmp_path_factory.mktemp("work")
    run.export("torchvision", folder / "encoder.pth", check=False)
    run.export("safetensors", folder / "encoder.safetensors", check=False)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    labels[::7] = -1
    features = (
        rng.normal(size=(48, 32)).astype(np.float32) / 4 + 8 * np.eye(8, 32, dtype=np.float32)[np.arange(48) // 6]
    )
    names = np.array([f"{row}.png" for row in range(48)])
    classes = np.array([f"kind {number}" for number in range(8)])
    np.savez(folder / "features.npz", features=features, labels=labels, names=names, classes=classes)
    return folder


@pytest.fixture
def images() -> Tensor:
    """Images as the encoder takes them."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def block(title: str, number: int = 0) -> dict[str, Any]:
    """Run a block of a section of the page, and return what it defines."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    (text,) = [part for part in section if part.startswith(f"{title}\n")]
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[number], found)
    return found


def same(maps: Tensor, run: fastclr.Run, images: Tensor) -> None:
    """Check that the mean of maps is the run's features."""
    with torch.no_grad():
        expected = run.encoder(images)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_torchvision(run: fastclr.Run, work: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    model = block("torchvision")["model"].eval()
    same(model.backbone.body(images)["3"], run, images)
    assert {*model([images[0].sigmoid()])[0]} == {"boxes", "labels", "scores"}


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1])
def test_segmentation_models(
    number: int, run: fastclr.Run, work: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the recipe needs it, of the extra dev")
    monkeypatch.chdir(work)
    model = block("segmentation_models_pytorch", number)["model"].eval()
    same(model.encoder(images)[-1], run, images)
    assert model(images).shape == (2, 4, SIZE, SIZE)


@torch.no_grad()
def test_timm(run: fastclr.Run, work: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    maps = block("timm")["pyramid"].eval()(images)
    assert [each.shape[-1] for each in maps] == [24, 12, 6, 3]
    same(maps[-1], run, images)


def test_scikit_learn(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    found = block("scikit-learn")
    assert found["classifier"].score(found["features"], np.arange(48) // 6) == 1 and len(set(found["groups"])) == 8


def test_detectron2(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names, as those of its own R-50.pkl and R-18 configurations."""
    monkeypatch.chdir(work)
    block("Detectron2")
    found = torch.load("detectron2.pth")["model"]
    ours = torch.load("encoder.pth")
    assert len(found) == sum(not name.endswith("num_batches_tracked") for name in ours)
    for name, theirs in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer1.1.bn2.bias": "res2.1.conv2.norm.bias",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer4.0.downsample.1.running_mean": "res5.0.shortcut.norm.running_mean",
    }.items():
        assert torch.equal(found[theirs], ours[name])
    parts = r"(stem|res[2-5]\.[01])\.(conv[12]|shortcut)(\.norm\.(weight|bias|running_mean|running_var)|\.weight)"
    assert all(re.fullmatch(parts, name) for name in found)


def test_ultralytics(run: fastclr.Run, work: Path, images: Tensor) -> None:
    """Its block of torchvision's layers in a row takes the renamed weights."""
    found = re.search(r"^places = (.*)$", PAGE, re.M)
    assert found is not None
    places: dict[str, str] = ast.literal_eval(found[1])
    layers = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2]).eval()
    parts = [(name.partition("."), value) for name, value in torch.load(work / "encoder.pth").items()]
    layers.load_state_dict({f"{places[first]}.{rest}": value for (first, _, rest), value in parts})
    same(layers(images).detach(), run, images)


def example(name: str, run: fastclr.Run, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return an example that opens this run."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(fastclr, "Run", lambda folder: run)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detect", "segment"])
def test_examples_learn(
    name: str, run: fastclr.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "segment":
        pytest.importorskip("segmentation_models_pytorch", reason="the example needs it, of the extra dev")
    example(name, run, monkeypatch).main("run")
    losses = [float(value) for value in re.findall(r"loss (\d+\.\d+)", capsys.readouterr().out)]
    assert len(losses) >= 3 and losses[-1] < 0.8 * losses[0]


def test_the_example_of_scikit_learn(
    run: fastclr.Run, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example("features_in_sklearn", run, monkeypatch).main(work / "features.npz")
    out = capsys.readouterr().out
    assert float(re.findall(r"accuracy (\d\.\d+)", out)[0]) > 0.9
    assert float(re.findall(r"share (\d\.\d+)", out)[0]) > 0.7 and out.count(".png") == 3


def test_every_recipe_is_a_file() -> None:
    linked = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len(linked) >= 3 and all((ROOT / "docs" / path.partition("#")[0]).resolve().exists() for path in linked)
