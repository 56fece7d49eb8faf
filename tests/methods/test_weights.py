"""Starting weights: files written by other libraries, or with the names that they publish, give their features."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from fastclr.methods.encoders import build_encoder
from fastclr.methods.weights import load_matched, match, read_weights

State = dict[str, Tensor]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """A module whose weights and statistics are all random, so that each one matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (1 if name.endswith("var") else 0.1))
            tensor.add_(0.5 if name.endswith(("var", "weight")) and tensor.ndim == 1 else 0)
    return module.eval()


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def resnet18(seed: int = 0) -> nn.Module:
    """torchvision's, whose features come before its classifier."""
    net = randomised(torchvision.models.resnet18(), seed)
    net.fc = nn.Identity()
    return net


def torchvision_state(seed: int = 0) -> State:
    return randomised(torchvision.models.resnet18(), seed).state_dict()


def lightly_simclr() -> tuple[Any, nn.Module]:
    """As lightly's examples have it: all children but the classifier, and a projection head."""
    from lightly.models.modules import SimCLRProjectionHead

    backbone = nn.Sequential(*list(resnet18().children())[:-1])
    model = nn.ModuleDict({"backbone": backbone, "projection_head": SimCLRProjectionHead(512, 512, 128)})
    return model.state_dict(), nn.Sequential(backbone, nn.Flatten())


def lightly_moco() -> tuple[Any, nn.Module]:
    """A twin beside the backbone, which comes second."""
    backbone, momentum = (nn.Sequential(*list(resnet18(seed).children())[:-1]) for seed in (0, 1))
    model = nn.ModuleDict({"backbone": backbone, "backbone_momentum": momentum})
    return {"state_dict": model.state_dict(), "epoch": 3}, nn.Sequential(backbone, nn.Flatten())


def timm_net(name: str, size: int = 64) -> nn.Module:
    options = {"img_size": size} if name.startswith("vit") else {}
    return randomised(timm.create_model(name, num_classes=0, **options))


def with_decoder(state: State) -> State:
    return state | {"mask_token": torch.rand(1, 1, 64), "decoder_embed.weight": torch.rand(64, 192)}


def moco() -> tuple[Any, nn.Module]:
    other = prefixed("module.encoder_k.", torchvision_state(1))
    state = prefixed("module.encoder_q.", torchvision_state()) | other | {"module.queue": torch.rand(128, 64)}
    optimizer = {"state": {i: {"momentum_buffer": torch.rand(3)} for i in range(9)}, "param_groups": [{"lr": 0.03}]}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": optimizer}, resnet18()


def dino() -> tuple[Any, nn.Module]:
    """The student comes first in the file, the teacher is what DINO evaluates."""
    net = timm_net("vit_tiny_patch16_224")
    student = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64), 5).state_dict()
    file = {
        "student": prefixed("module.backbone.", student) | {"module.head.mlp.0.weight": torch.rand(4, 192)},
        "teacher": prefixed("backbone.", net.state_dict()) | {"head.mlp.0.weight": torch.rand(4, 192)},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", patch_size=16),
    }
    return file, net


def mae() -> tuple[Any, nn.Module]:
    net = timm_net("vit_tiny_patch16_224")
    return {"model": with_decoder(net.state_dict()), "epoch": 800, "args": argparse.Namespace(mask_ratio=0.75)}, net


def solo_learn(prefix: str) -> tuple[Any, nn.Module]:
    """A checkpoint of Lightning, with options of a class that need not be installed."""
    state = prefixed(prefix, torchvision_state()) | prefixed(f"momentum_{prefix}", torchvision_state(1))
    state |= {"classifier.weight": torch.rand(10, 512), "projector.0.weight": torch.rand(256, 512)}
    return {"state_dict": state, "hyper_parameters": Options(name="byol"), "pytorch-lightning_version": "2"}, resnet18()


class Options(dict[str, Any]):
    """What a checkpoint holds beside weights; it must not be made when one is read."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a class of the file was used")


def plain(net: nn.Module, prefix: str = "") -> tuple[Any, nn.Module]:
    return prefixed(prefix, net.state_dict()), net


LAYOUTS: dict[str, tuple[str, Callable[[], tuple[Any, nn.Module]]]] = {
    "torchvision": ("resnet18", lambda: (torchvision_state(), resnet18())),
    "timm": ("resnet18", lambda: (timm_net("resnet18").state_dict(), timm_net("resnet18"))),
    "timm, ViT": ("vit_tiny_patch16_224", lambda: plain(timm_net("vit_tiny_patch16_224"))),
    "timm, ConvNeXt, compiled": ("convnext_atto", lambda: plain(timm_net("convnext_atto"), "_orig_mod.")),
    "lightly": ("resnet18", lightly_simclr),
    "lightly, MoCo": ("resnet18", lightly_moco),
    "solo-learn": ("resnet18", lambda: solo_learn("backbone.")),
    "solo-learn, before 1.0.6": ("resnet18", lambda: solo_learn("encoder.")),
    "MoCo": ("resnet18", moco),
    "MoCo v3": ("vit_tiny_patch16_224", lambda: plain(timm_net("vit_tiny_patch16_224"), "module.base_encoder.")),
    "DINO": ("vit_tiny_patch16_224", dino),
    "MAE": ("vit_tiny_patch16_224", mae),
}


def loaded(encoder: nn.Module, path: Path, prefix: str | None = None, partial: bool = False) -> list[str]:
    """Put the weights of a file into an encoder, and return what is said of it."""
    found = match(encoder, read_weights(path), prefix)
    load_matched(encoder, found, path.name, partial)
    return found.lines()


def assert_same(encoder: nn.Module, other: nn.Module, size: int = 64) -> None:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, theirs = encoder.eval()(images), other.eval()(images)
    assert float(theirs.abs().max()) > 1e-3  # so that the features say something
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_other_libraries(name: str, tmp_path: Path) -> None:
    """A file of each library gives the features of the network that it was made from."""
    encoder_name, make = LAYOUTS[name]
    contents, net = make()
    path = tmp_path / "weights.pth"
    torch.save(contents, path)
    encoder = build_encoder(
        encoder_name, size=64, stem="auto" if encoder_name.startswith(("vit", "conv")) else "imagenet"
    )
    lines = loaded(encoder, path)
    assert_same(encoder, net)
    assert "weights of the encoder matched" in lines[0] and not any(line.startswith("missing") for line in lines)


def test_small_resnet_of_lightly(tmp_path: Path) -> None:
    """lightly's ResNet for small images names its shortcuts in another way, and leaves no gaps for pooling and ReLU."""
    from lightly.models import ResNetGenerator

    net = randomised(ResNetGenerator("resnet-18"))
    backbone = nn.Sequential(*list(net.children())[:-1], nn.AdaptiveAvgPool2d(1))
    torch.save({"state_dict": prefixed("backbone.", backbone.state_dict())}, tmp_path / "w.ckpt")
    encoder = build_encoder("resnet18", size=32)
    loaded(encoder, tmp_path / "w.ckpt")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        hidden = backbone[1](backbone[0](images)).relu()
        expected = backbone[2:](hidden).flatten(1)
        torch.testing.assert_close(encoder.eval()(images), expected, rtol=1e-5, atol=1e-5)


def test_masked_vit_of_lightly(tmp_path: Path) -> None:
    """lightly's MAE keeps timm's ViT in a part of its backbone."""
    from lightly.models.modules import MaskedVisionTransformerTIMM

    net = timm_net("vit_tiny_patch16_224")
    model = nn.ModuleDict({"backbone": MaskedVisionTransformerTIMM(vit=net)})
    randomised(model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.ckpt")
    encoder = build_encoder("vit_tiny_patch16_224", size=64)
    lines = loaded(encoder, tmp_path / "w.ckpt")
    assert "state_dict.backbone.vit" in lines[0]
    assert_same(encoder, net)


@pytest.mark.slow
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_at_another_size(registers: bool, tmp_path: Path) -> None:
    """The published files are for 518 px; timm's own loader fits them to other sizes, and so do we."""
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    net: Any = timm_net(name, 112)
    state = net.state_dict() | {"mask_token": torch.rand(1, 384)}
    if registers:  # DINOv2's own file: other name, and the class token has a position
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.full((1, 1, 384), 0.25), state["pos_embed"]], dim=1)
    torch.save(state, tmp_path / "dinov2.pth")
    for size in (112, 70):
        overlay = {"file": str(tmp_path / "dinov2.pth"), "custom_load": False}
        theirs = timm.create_model(name, pretrained=True, num_classes=0, img_size=size, pretrained_cfg_overlay=overlay)
        encoder = build_encoder(name, size=size)
        lines = loaded(encoder, tmp_path / "dinov2.pth")
        assert_same(encoder, theirs, size)
        assert any(line.startswith("resampled") and "pos_embed" in line for line in lines) == (registers or size == 70)


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = timm_net("resnet18")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    encoder = build_encoder("resnet18", size=64, stem="imagenet")
    loaded(encoder, tmp_path)  # a folder as hubs have it
    assert_same(encoder, net)


def test_other_structures_of_the_same_network(tmp_path: Path) -> None:
    """A network of one's own may hold the file's in a part, or its layers in a row."""
    torch.save(torchvision_state(), tmp_path / "w.pth")
    row = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1], nn.Flatten())
    loaded(row, tmp_path / "w.pth")
    assert_same(row, resnet18())
    body = torchvision.models.resnet18()
    body.fc = nn.Identity()
    wrapped = nn.Sequential()
    wrapped.add_module("net", body)
    loaded(wrapped, tmp_path / "w.pth")
    assert_same(wrapped, resnet18())
    wrapped.add_module("last", nn.Linear(512, 8))
    with pytest.raises(ValueError, match=r"lacks 2 of the 102 weights of the encoder: last\.weight, last\.bias"):
        loaded(wrapped, tmp_path / "w.pth")
    assert "missing, and random: last.weight, last.bias" in loaded(wrapped, tmp_path / "w.pth", partial=True)


def test_a_place_can_be_named(tmp_path: Path) -> None:
    torch.save(moco()[0], tmp_path / "moco.pth.tar")
    encoder = build_encoder("resnet18", size=64, stem="imagenet")
    lines = loaded(encoder, tmp_path / "moco.pth.tar")
    assert "as many are under state_dict.module.encoder_k: --init-prefix chooses" in lines
    parts = "state_dict.module.encoder_k (122), state_dict.module.queue (1), optimizer (9)"
    assert f"other parts of the file, not used: {parts}" in lines
    assert "unexpected, and not used: fc.weight, fc.bias" in lines
    loaded(encoder, tmp_path / "moco.pth.tar", "state_dict.module.encoder_k.")
    assert_same(encoder, resnet18(1))
    with pytest.raises(
        ValueError, match="init_prefix: the file has nothing under 'teacher', but state_dict, optimizer"
    ):
        loaded(encoder, tmp_path / "moco.pth.tar", "teacher")


def test_what_fits_in_part_or_not_at_all(tmp_path: Path) -> None:
    """What is missing is named with both shapes and the remedy; nothing is loaded by halves."""
    torch.save(torchvision_state(), tmp_path / "w.pth")
    encoder = build_encoder("resnet18", size=32)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    message = (
        r"w\.pth lacks 1 of the 100 weights of the encoder: conv1\.weight \(\[64, 3, 7, 7\] there, \[64, 3, 3, 3\] "
        r"here\); --stem imagenet gives .*--init-partial"
    )
    with pytest.raises(ValueError, match=message):
        loaded(encoder, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"no weight of w\.pth fits the encoder: there are conv1.* and it has cls_token"
    ):
        loaded(build_encoder("vit_tiny_patch16_224", size=32), tmp_path / "w.pth", partial=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    loaded(encoder, tmp_path / "w.pth", partial=True)
    assert torch.equal(encoder.state_dict()["conv1.weight"], before["conv1.weight"])
    assert torch.equal(encoder.state_dict()["bn1.weight"], torchvision_state()["bn1.weight"])


def test_other_precision_and_old_batch_norms(tmp_path: Path) -> None:
    state = {n: t.half() for n, t in torchvision_state().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)  # the format before torch 1.6
    encoder = build_encoder("resnet18", size=64, stem="imagenet")
    loaded(encoder, tmp_path / "w.pth")
    assert encoder.state_dict()["bn1.weight"].dtype == torch.float32
    assert torch.equal(encoder.state_dict()["conv1.weight"], state["conv1.weight"].float())


class Harmful:
    """Pickled code that would leave a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return leave_behind, (self.place,)


def leave_behind(place: Path) -> None:
    place.touch()


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    """No code of a file runs, and what is no file of weights is said to be none."""
    encoder = build_encoder("resnet18", size=64, stem="imagenet")
    torch.save({"state_dict": torchvision_state(), "options": Harmful(tmp_path / "owned")}, tmp_path / "harmful.pth")
    loaded(encoder, tmp_path / "harmful.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Harmful(tmp_path / "owned")))
    with pytest.raises(ValueError, match=r"pickle\.pth (cannot be read as weights|holds no tensor)"):
        read_weights(tmp_path / "pickle.pth")
    assert not (tmp_path / "owned").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth (holds no tensor|cannot be read)"):
        read_weights(tmp_path / "module.pth")
    (tmp_path / "text.pth").write_text("no weights at all")
    with pytest.raises(
        ValueError, match=r"text\.pth must be a file of weights, written by torch.save or as safetensors"
    ):
        read_weights(tmp_path / "text.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{damaged")
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged"):
        read_weights(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_weights(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has none of encoder\.safetensors"):
        read_weights(tmp_path / "empty")
    broken = torchvision_state()
    broken["bn1.weight"][3] = float("nan")
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"bn1\.weight in nan\.pth must be finite"):
        loaded(encoder, tmp_path / "nan.pth")
