from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from fastclr.config import PretrainConfig
from fastclr.models import build_encoder, build_head, build_model, feature_dim


def test_cifar_stem_keeps_the_resolution() -> None:
    encoder = build_encoder("resnet18", size=32)
    assert encoder.conv1.weight.shape == (64, 3, 3, 3)
    assert isinstance(encoder.maxpool, nn.Identity)
    stem = encoder.maxpool(encoder.act1(encoder.bn1(encoder.conv1(torch.zeros(1, 3, 32, 32)))))
    assert stem.shape == (1, 64, 32, 32)


def test_cifar_resnet18_has_the_published_number_of_parameters() -> None:
    # 11,689,512 of torchvision's ResNet-18 less its classifier (513,000) and what a 3x3 stem saves (7,680)
    count = sum(p.numel() for p in build_encoder("resnet18", size=32).parameters())
    assert count == 11_689_512 - 513_000 - 64 * 3 * (49 - 9)


def test_imagenet_stem_is_timms_own() -> None:
    import timm

    ours, timms = build_encoder("resnet50", size=224), timm.create_model("resnet50", num_classes=0)
    ours.load_state_dict(timms.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), timms.eval()(x))


@pytest.mark.parametrize(
    ("name", "width", "features"), [("resnet18", 0.25, 128), ("resnet18", 2.0, 1024), ("resnet50", 0.5, 1024)]
)
def test_width_scales_every_stage_and_the_stem(name: str, width: float, features: int) -> None:
    encoder = build_encoder(name, width=width, size=32)
    assert feature_dim(encoder, 32) == features
    assert encoder.conv1.out_channels == round(64 * width)
    out = encoder(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_residual_branches_start_at_zero() -> None:
    encoder = build_encoder("resnet18", size=32)
    assert all(not m.bn2.weight.any() for stage in (encoder.layer1, encoder.layer4) for m in stage)


def test_vit_is_built_for_the_size() -> None:
    assert build_encoder("vit_tiny_patch16_224", size=64)(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "resnet19"),
        ({"name": "vit_tiny_patch16_224", "width": 2.0}, "width"),
        ({"name": "vit_tiny_patch16_224", "stem": "cifar"}, "stem"),
        ({"name": "resnet50d", "width": 2.0}, "width"),
    ],
)
def test_impossible_encoders_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_encoder(**arguments)


@pytest.mark.parametrize(
    ("kind", "layers", "linears"), [("none", 2, 0), ("linear", 2, 1), ("mlp", 1, 1), ("mlp", 2, 2), ("mlp", 3, 3)]
)
@pytest.mark.parametrize("bn", [True, False])
def test_heads(kind: str, layers: int, linears: int, bn: bool) -> None:
    head = build_head(kind, 16, 8, layers, 32, bn)
    found = [m for m in head.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(found) == linears
    assert len(norms) == (linears if bn else 0)
    assert all((m.bias is None) == bn for m in found)
    assert head(torch.randn(4, 16)).shape == (4, 16 if kind == "none" else 8)
    if norms:  # the last normalisation scales but does not shift
        assert not norms[-1].bias.requires_grad and all(m.bias.requires_grad for m in norms[:-1])


def test_model_returns_projections_of_both_views() -> None:
    config = dataclasses.replace(PretrainConfig(), width=0.125, head_dim=24)
    assert build_model(config)(torch.randn(4, 3, 32, 32)).shape == (4, 24)
