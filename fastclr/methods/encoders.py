"""Encoders: timm's models, and ResNets of arbitrary width and stem."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.methods.own_encoder import channels_of, is_own, own_encoder


def build_encoder(
    name: str,
    *,
    width: float = 1.0,
    stem: str = "auto",
    size: int = 224,
    patch_size: int | None = None,
    norm: str = "batch",
    given: nn.Module | None = None,
    others: Sequence[int] = (),
    channels: int = 3,
) -> nn.Module:
    """Create an encoder without a classifier; batch norms have momentum 0.1 and eps 1e-5, as in the paper's code.

    Args:
        name: any name of `timm.list_models()`, or ``simclr_skresnet50``, ``simclr_skresnet101``,
            ``simclr_skresnet152``: the selective-kernel ResNets of SimCLR v2; or ``module:factory``, see
            `fastclr.methods.own_encoder`.
        width: multiplies the channels of a ResNet, its stem included.
        stem: ``imagenet`` keeps the model's; ``cifar`` replaces it by a 3x3 stride-1 convolution without pooling
            (ResNets only); ``auto`` uses ``cifar`` for ResNets up to 64 px.
        size: side of the input in pixels; models with a fixed input size are built for it.
        patch_size: side of a ViT's patches in pixels; None: the model's default.
        norm: ``batch`` keeps the model's; ``layer`` normalises every image over channels and positions instead
            (ResNets, and encoders without batch norm, which stay as they are).
        given: the encoder itself, if `name` says that it was given as a module.
        others: sides of smaller images that it must take too; a ViT interpolates its position embedding for them.
        channels: of the images, 1 to 16; first layers follow. A module of the user's must take so many.

    Raises:
        ValueError: the name is unknown, the model does not support the given width, stem, patch_size or norm, the
            patches do not tile the input, or the model does not take images of the other sizes.
    """
    encoder = _build(name, width, stem, size, patch_size, norm, given, channels, dynamic=bool(others))
    encoder.fastclr_channels = channels  # type: ignore[assignment]  # for `channels_of`
    if norm == "layer" and batch_norms(encoder):
        raise ValueError(
            f"norm must be batch for {name!r}, whose batch norms stay, got 'layer': pass --norm batch, or take "
            "a ResNet without selective kernels"
        )
    for other in others:
        check_other(encoder, name, size, other)
    return encoder


def batch_norms(encoder: nn.Module) -> list[nn.Module]:
    """Return the batch norms of an encoder."""
    return [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def check_other(encoder: nn.Module, name: str, size: int, other: int) -> None:
    """Raise a ValueError unless an encoder for one size takes images of another too, and returns as many features."""
    wanted = f"the encoder {name} must take views of {other} px beside those of {size} px"
    advice = "choose an encoder that does, another size of the small views, or none (local_views 0)"
    expected = feature_dim(encoder, size)
    check_patches(encoder, name, other)
    try:
        found = feature_dim(encoder, other)
    except Exception as error:  # a model, of the user's too, may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{wanted}, but it raises {reason}; {advice}") from error
    if found != expected:
        raise ValueError(f"{wanted}, but has {found} features of these and {expected} of those; {advice}")


def check_patches(encoder: nn.Module, name: str, size: int) -> None:
    """Raise a ValueError unless the patches of a ViT tile an image."""
    sides = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if isinstance(sides, tuple) and any(size % side for side in sides):
        raise ValueError(f"size must be a multiple of the patch size {sides[0]} of {name!r}, got {size}")


def _build(
    name: str,
    width: float,
    stem: str,
    size: int,
    patch_size: int | None,
    norm: str,
    given: nn.Module | None,
    channels: int,
    *,
    dynamic: bool,
) -> nn.Module:
    """Create the encoder that `build_encoder` describes; with `dynamic`, a ViT for images of several sizes."""
    import timm

    from fastclr.methods.resnets import SIMCLR_SK, build_resnet, is_resnet

    if is_own(name):
        if (width, stem, patch_size) != (1.0, "auto", None):
            raise ValueError(
                f"width, stem and patch_size must have their defaults for {name}, which is built as it is, "
                f"got {width}, {stem!r} and {patch_size}"
            )
        return own_encoder(name, given, size, channels)
    if is_resnet(name):
        if patch_size is not None:
            raise ValueError(f"patch_size must be None for {name!r}, which has no patches, got {patch_size}")
        return build_resnet(name, width=width, stem=stem, size=size, norm=norm, channels=channels)
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] or difflib.get_close_matches(name, [*timm.list_models(), *SIMCLR_SK])
        similar = f"; similar names: {', '.join(near)}" if near else ""
        raise ValueError(f"encoder must be the name of a timm model, or module:factory, got {name!r}{similar}")
    if width != 1.0:
        raise ValueError(f"width must be 1 for {name!r}: only ResNets can be widened, got {width}")
    if stem == "cifar":
        raise ValueError(f"stem='cifar' needs a ResNet, got {name!r}")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    options |= {} if channels == 3 else {"in_chans": channels}
    patches = {} if patch_size is None else {"patch_size": patch_size}
    sizes = [{"img_size": size, "dynamic_img_size": True}] if dynamic else []
    encoder: Any = None
    for several in (*sizes, {"img_size": size}):  # convolutional models accept any size and have neither argument
        try:
            encoder = timm.create_model(name, **options, **patches, **several)
            break
        except TypeError as error:
            unknown = error
    if encoder is None:
        if patches:
            message = f"patch_size must be None for {name!r}, which has no patches, got {patch_size}"
            raise ValueError(message) from unknown
        encoder = timm.create_model(name, **options)
    check_patches(encoder, name, size)
    return encoder  # type: ignore[no-any-return]


@contextmanager
def trial(encoder: nn.Module, size: int) -> Iterator[Tensor]:
    """Yield one black image ``[1, C, size, size]`` to try an encoder with, which meanwhile learns nothing from it."""
    was_training = encoder.training
    encoder.eval()
    weight = next(encoder.parameters())
    try:
        with torch.no_grad():
            yield torch.zeros(1, channels_of(encoder), size, size, device=weight.device, dtype=weight.dtype)
    finally:
        encoder.train(was_training)


def feature_dim(encoder: nn.Module, size: int) -> int:
    """Return F, the feature dimension of an encoder from images ``[N, C, size, size]`` to features ``[N, F]``."""
    with trial(encoder, size) as images:
        shape = encoder(images).shape
    if len(shape) != 2:
        raise ValueError(f"the encoder must return features [N, F], got shape {tuple(shape)}")
    return int(shape[1])
