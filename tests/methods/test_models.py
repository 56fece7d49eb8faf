from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from torch import nn

from fastclr.methods.encoders import build_encoder, feature_dim
from fastclr.methods.heads import build_head
from fastclr.methods.model import EncoderHead, build_model, encoder_from
from fastclr.methods.resnets import SimCLRSelectiveKernel
from fastclr.training.config import PretrainConfig

TORCHVISION_TWINS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)


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
    ("name", "width", "features"),
    [
        ("resnet18", 0.25, 128),
        ("resnet18", 2.0, 1024),
        ("resnet50", 0.5, 1024),
        ("resnet50d", 0.5, 1024),
        ("skresnet18", 0.25, 128),
        ("seresnet50", 0.25, 512),
        ("resnext50_32x4d", 0.5, 1024),
        ("simclr_skresnet50", 0.25, 512),
    ],
)
def test_width_scales_every_stage_and_the_stem(name: str, width: float, features: int) -> None:
    encoder = build_encoder(name, width=width, size=32)
    assert feature_dim(encoder, 32) == features
    assert encoder.conv1.out_channels == round(64 * width)
    out = encoder(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("resnet50", 1, 24),  # Chen et al. 2020; encoders are counted without a classifier
        ("resnet50", 2, 94),
        ("resnet50", 4, 375),
        ("simclr_skresnet152", 3, 795),  # Chen et al. 2020b
    ],
)
def test_encoders_have_the_published_numbers_of_parameters(name: str, width: float, millions: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, width=width)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)
    assert encoder.bn1.num_features == 64 * width
    assert feature_dim(encoder, 224) == 2048 * width


def batch_norm(x: torch.Tensor, norms: list[nn.Module]) -> torch.Tensor:
    """Batch norms and their expected output, from the statistics of x."""
    weight, bias = (torch.cat([getattr(n, p) for n in norms])[:, None, None] for p in ("weight", "bias"))
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("stride", [1, 2])
def test_selective_kernel_is_the_papers(stride: int) -> None:
    """Against sk_conv2d of google-research/simclr: one convolution of twice the filters, mixed by a softmax of two."""
    torch.manual_seed(0)
    block = SimCLRSelectiveKernel(16, 8, stride).double().conv2
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    streams = torch.cat([path.conv.weight for path in block.paths])
    y = nn.functional.conv2d(x, streams, stride=stride, padding=1)
    y = batch_norm(y, [path.bn for path in block.paths]).relu()
    first, second = y[:, :8], y[:, 8:]
    squeezed = (first + second).mean((2, 3), keepdim=True)
    hidden = torch.einsum("nchw,dc->ndhw", squeezed, block.attn.fc_reduce.weight[:, :, 0, 0])
    assert hidden.shape[1] == 32  # max(8 * 0.0625, 32)
    mixing = torch.einsum(
        "nchw,dc->ndhw", batch_norm(hidden, [block.attn.bn]).relu(), block.attn.fc_select.weight[:, :, 0, 0]
    )
    share = torch.stack([mixing[:, :8], mixing[:, 8:]]).softmax(0)
    torch.testing.assert_close(block(x), first * share[0] + second * share[1])


def test_selective_kernel_resnets_have_the_stem_and_shortcuts_of_resnet_d() -> None:
    encoder = build_encoder("simclr_skresnet50", width=0.25)
    convolutions = [m for m in encoder.conv1 if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (8, (3, 3), (2, 2)),
        (8, (3, 3), (1, 1)),
        (16, (3, 3), (1, 1)),
    ]
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    # tf.layers.average_pooling2d with padding SAME: windows are cut at the lower and right edges
    expected = [[x[0, 0, i : i + 2, j : j + 2].mean().item() for j in range(4)] for i in range(3)]
    assert encoder.layer1[0].downsample[0](x)[0, 0].tolist() == expected
    assert encoder.layer2[0].downsample[0](x[..., :2, :]).flatten().tolist() == [2.5, 4.5]
    assert not any(block.conv3.bn.weight.any() for block in encoder.layer3)
    small = build_encoder("simclr_skresnet50", width=0.25, size=32)
    assert small.conv1.weight.shape == (16, 3, 3, 3) and isinstance(small.maxpool, nn.Identity)


def test_residual_branches_start_at_zero() -> None:
    encoder = build_encoder("resnet18", size=32)
    assert all(not m.bn2.weight.any() for stage in (encoder.layer1, encoder.layer4) for m in stage)


def test_vit_is_built_for_the_size() -> None:
    assert build_encoder("vit_tiny_patch16_224", size=64)(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


def test_patches_of_a_vit_are_made_smaller() -> None:
    vit = build_encoder("vit_tiny_patch16_224", size=32, patch_size=4)
    assert vit.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 64 + 1, 192)
    config = PretrainConfig(encoder="vit_tiny_patch16_224", patch_size=4)
    assert encoder_from(config).patch_embed.num_patches == 64


@pytest.mark.parametrize("name", TORCHVISION_TWINS)
def test_weights_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_encoder(name).state_dict(), getattr(torchvision.models, name)().state_dict()
    shapes = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_computes_the_same_features(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = build_encoder(name), getattr(torchvision.models, name)()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):  # a fresh branch ends in zero, which would hide what is before it
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    left_out = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert left_out.missing_keys == ["fc.weight", "fc.bias"] and not left_out.unexpected_keys
    theirs.fc = nn.Identity()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "resnet19"),
        ({"name": "vit_tiny_patch16_224", "width": 2.0}, "width"),
        ({"name": "vit_tiny_patch16_224", "stem": "cifar"}, "stem"),
        ({"name": "vit_tiny_patch16_224", "size": 40}, "multiple of the patch size 16"),
        ({"name": "vit_tiny_patch16_224", "size": 32, "patch_size": 5}, "multiple of the patch size 5"),
        ({"name": "resnet18", "patch_size": 4}, "patch_size"),
        ({"name": "efficientnet_b0", "patch_size": 4}, "patch_size"),
        ({"name": "simclr_skresnet18"}, "simclr_skresnet18"),
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


@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_head_features_are_the_outputs_of_its_layers(layers: int, bn: bool) -> None:
    head = build_head("mlp", 16, 8, layers, 12, bn)
    model, h = EncoderHead(nn.Identity(), head).eval(), torch.randn(5, 16)
    features = model.head_features(h)
    expected = [h]
    for name, module in head.named_children():
        if isinstance(module, nn.Linear):  # written out: linear, batch norm with fresh statistics, ReLU but at the end
            y = expected[-1] @ module.weight.T + (0 if module.bias is None else module.bias)
            y = y / (1 + 1e-5) ** 0.5 if bn else y
            is_last = int(name) + (2 if bn else 1) >= len(head)
            expected.append(y if is_last else y.clamp_min(0))
    assert [tuple(f.shape) for f in features] == [(5, 16), *[(5, 12)] * (layers - 1), (5, 8)]
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features[-1], model(h))


def test_head_features_without_a_known_head() -> None:
    h = torch.randn(2, 4)
    assert EncoderHead(nn.Identity(), nn.Identity()).head_features(h) == [h]
    with pytest.raises(TypeError, match="Linear"):
        EncoderHead(nn.Identity(), nn.Linear(4, 2)).head_features(h)
