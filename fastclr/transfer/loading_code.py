"""The Python that loads an exported encoder, without fastclr but for the format of hubs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fastclr.methods.own_encoder import channels_of

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# placeholders for the path of the file, that of its folder, and timm's name of that
FILE, FOLDER, LOCAL = "'<file>'", "'<folder>'", "'local-dir:<folder>'"
WITHOUT_BUILDING = {
    "timm": f"import timm; encoder = timm.create_model({LOCAL}, pretrained=True).eval()",
    "hub": f"from fastclr import HubEncoder; encoder = HubEncoder.from_pretrained({FOLDER})",
    "torchscript": f"import torch; encoder = torch.jit.load({FILE})",
    "pt2": f"import torch; encoder = torch.export.load({FILE}).module()",
    "onnx": f"import onnxruntime; encoder = onnxruntime.InferenceSession({FILE})",
}


def fill_path(lines: str, path: Path) -> str:
    """Return `lines` with the placeholders replaced by the path of the file."""
    lines = lines.replace(FILE, repr(str(path))).replace(LOCAL, repr(f"local-dir:{path.parent}"))
    return lines.replace(FOLDER, repr(str(path.parent)))


class TimmPlan(NamedTuple):
    """How timm builds an encoder.

    Args:
        plain: the encoder, without weights.
        options: of ``timm.create_model``, beside its name.
        stem: assignments that then replace layers of its stem, as code.
    """

    plain: Any
    options: dict[str, Any]
    stem: list[str]


def timm_plan(
    encoder: nn.Module,
    name: str,
    size: int,
    *,
    width: float = 1.0,
    patch_size: int | None = None,
    norm: str = "batch",
) -> TimmPlan | None:
    """Return how timm builds an encoder.

    Args:
        encoder: the module whose weights the file holds.
        name: its timm name.
        size: side of its input in pixels.
        width: multiplier of a ResNet's channels, as in `fastclr.methods.encoders.build_encoder`.
        patch_size: side of a ViT's patches, likewise.
        norm: of a ResNet, likewise.

    Returns:
        None unless that gives an encoder of the same structure.
    """
    import timm

    from fastclr.methods.resnets import is_resnet, timm_options

    if not timm.is_model(name):
        return None
    bands = {} if (count := channels_of(encoder)) == 3 else {"in_chans": count}
    options: dict[str, Any] = {"img_size": size, **({} if patch_size is None else {"patch_size": patch_size}), **bands}
    with torch.device("meta"):
        try:
            options = {**timm_options(name, width, norm), **bands} if is_resnet(name) else options
            plain = timm.create_model(name, num_classes=0, **options)
        except TypeError:  # convolutional models accept any size and have no img_size argument
            options = bands
            plain = timm.create_model(name, num_classes=0, **options)
    stem = stem_lines(encoder, plain)
    if repr(plain) != repr(encoder) or shapes(plain) != shapes(encoder):
        return None
    return TimmPlan(plain, options, stem)


def timm_lines(encoder: nn.Module, name: str, size: int, **shape: Any) -> str | None:
    """Return lines that build a timm encoder and load its safetensors file; one line if timm can build it by name.

    None unless they give an encoder of the same structure. The arguments are those of `timm_plan`.
    """
    if (plan := timm_plan(encoder, name, size, **shape)) is None:
        return None
    arguments = "".join(
        f", {key}={f'timm.layers.{value.__name__}' if isinstance(value, type) else repr(value)}"
        for key, value in plan.options.items()
    )
    if not plan.stem:
        made = f"timm.create_model({name!r}, num_classes=0{arguments}, checkpoint_path={FILE})"
        return f"import timm; encoder = {made}.eval()"
    lines = ["import timm, torch", "from safetensors.torch import load_file"]
    lines += [f"encoder = timm.create_model({name!r}, num_classes=0{arguments})", *plan.stem]
    return "\n".join([*lines, f"encoder.load_state_dict(load_file({FILE})); encoder.eval()"])


def torchvision_lines(encoder: nn.Module, name: str) -> str:
    """Return lines that build torchvision's ResNet and load a state dict; one line if only the classifier is removed.

    Raises:
        ValueError: torchvision has no such encoder.
    """
    import torchvision

    short = name.partition(".")[0]
    hint = "use the format safetensors (timm), pt2 or onnx"
    if short not in TORCHVISION:
        raise ValueError(f"format torchvision supports {', '.join(TORCHVISION)}, got the encoder {name!r}: {hint}")
    with torch.device("meta"):
        plain = getattr(torchvision.models, short)()
    plain.fc = nn.Identity()
    stem = stem_lines(encoder, plain)
    if shapes(encoder) != shapes(plain):
        raise ValueError(f"torchvision has no {short} of this width or structure: {hint}")
    lines = [f"encoder = torchvision.models.{short}()", "encoder.fc = torch.nn.Identity()", *stem]
    lines.append(f"encoder.load_state_dict(torch.load({FILE})); encoder.eval()")
    return (
        "\n".join(["import torch, torchvision", *lines]) if stem else f"import torch, torchvision; {'; '.join(lines)}"
    )


def stem_lines(encoder: Any, plain: Any) -> list[str]:
    """Give `plain` the stem of a ResNet, where it differs, and return the assignments that do so as code."""
    lines = []
    for part in ("conv1", "maxpool"):
        ours = getattr(encoder, part, None)
        # the representation of these layers is the code that builds them
        if isinstance(ours, nn.Conv2d | nn.Identity) and repr(ours) != repr(getattr(plain, part, None)):
            setattr(plain, part, ours)
            lines.append(f"encoder.{part} = torch.nn.{ours!r}")
    return lines


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of all weights and buffers."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
