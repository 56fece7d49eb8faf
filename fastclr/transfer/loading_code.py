"""Generating the Python that loads an exported encoder without fastclr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
FILE = "'<file>'"  # placeholder for the path
COMPUTATIONS = {
    "torchscript": f"import torch; encoder = torch.jit.load({FILE})",
    "pt2": f"import torch; encoder = torch.export.load({FILE}).module()",
    "onnx": f"import onnxruntime; encoder = onnxruntime.InferenceSession({FILE})",
}


# where a ResNet with another stem or width differs from timm's; `channels` covers the rest
CHANGED = ("conv1", "bn1", "maxpool", "layer1[0].conv1", "layer1[0].downsample")


def fill_path(lines: str, path: Path) -> str:
    """Return `lines` with the placeholder `FILE` replaced by the path."""
    return lines.replace(FILE, repr(str(path)))


def timm_lines(encoder: nn.Module, name: str, size: int) -> str | None:
    """Return lines that build a timm encoder and load its safetensors file; one line if timm can build it by name.

    Args:
        encoder: the module whose weights the file holds.
        name: its timm name.
        size: side of its input in pixels.

    Returns:
        None if timm has no such encoder and it is not a ResNet of another width or stem.
    """
    import timm

    if not timm.is_model(name):
        return None
    candidates: list[dict[str, Any]] = [{}, {"img_size": size}]
    if channels := channels_of(encoder):
        candidates.append({"channels": channels})
    with torch.device("meta"):
        default = timm.create_model(name, num_classes=0)
        if default.pretrained_cfg["input_size"][-1] != size:
            candidates[:2] = candidates[1::-1]  # try img_size first, for models that accept one
        for options in candidates:
            try:
                plain = timm.create_model(name, num_classes=0, **options)
            except (TypeError, ValueError, AssertionError):  # the model lacks the option or rejects its value
                continue
            if not differs(encoder, plain, CHANGED):
                break
        else:
            return None
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    replaced = replacements(encoder, plain)
    if replaced is None:
        return None
    if not replaced:
        made = f"timm.create_model({name!r}, num_classes=0{arguments}, checkpoint_path={FILE})"
        return f"import timm; encoder = {made}.eval()"
    lines = ["import timm, torch", "from safetensors.torch import load_file"]
    lines += [f"encoder = timm.create_model({name!r}, num_classes=0{arguments})", *replaced]
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
    replaced = replacements(encoder, plain)
    if differs(encoder, plain, CHANGED[:3]) or replaced is None:
        raise ValueError(f"torchvision has no {short} of this width or structure: {hint}")
    lines = [f"encoder = torchvision.models.{short}()", "encoder.fc = torch.nn.Identity()", *replaced]
    lines.append(f"encoder.load_state_dict(torch.load({FILE})); encoder.eval()")
    if len(lines) == 3:
        return "import torch, torchvision; " + "; ".join(lines)
    return "\n".join(["import torch, torchvision", *lines])


def differs(one: nn.Module, other: nn.Module, ignored: tuple[str, ...]) -> bool:
    """Tell whether two modules differ in the names or shapes of their weights, outside the parts `ignored`."""
    skip = tuple(f"{part.replace('[', '.').replace(']', '')}." for part in ignored)

    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {n: t.shape for n, t in module.state_dict().items() if not (skip and n.startswith(skip))}

    return shapes(one) != shapes(other)


def channels_of(encoder: Any) -> tuple[int, ...]:
    """Return the channels of a timm ResNet's stages, before block expansion; () for other models."""
    channels = []
    for info in getattr(encoder, "feature_info", ()):
        stage = getattr(encoder, str(info["module"]), None)
        if isinstance(stage, nn.Sequential) and hasattr(stage[-1], "expansion"):
            last: Any = stage[-1]
            channels.append(int(info["num_chs"]) // int(last.expansion))
    return tuple(channels)


def replacements(encoder: Any, plain: Any) -> list[str] | None:
    """Return the assignments that give `plain` the stem of `encoder`; None if a layer cannot be expressed as code."""
    lines = []
    for part in CHANGED:
        ours, theirs = find_part(encoder, part), find_part(plain, part)
        if repr(ours) != repr(theirs):
            layer = layer_code(ours)
            if layer is None:
                return None
            lines.append(f"encoder.{part} = {layer}")
    return lines


def find_part(encoder: Any, part: str) -> Any:
    """Return the module at a path from `CHANGED`, or None if there is none."""
    owner, _, attribute = part.rpartition(".")
    if not owner:
        return getattr(encoder, attribute, None)
    stage = getattr(encoder, "layer1", None)
    return getattr(stage[0], attribute, None) if isinstance(stage, nn.Sequential) else None


def layer_code(module: Any) -> str | None:
    """Return the Python that builds a layer of a ResNet's stem or shortcut; None for other kinds of layers."""
    if module is None:
        return "None"
    if isinstance(module, nn.Sequential):
        children = [layer_code(child) for child in module]
        return None if None in children else f"torch.nn.Sequential({', '.join(map(str, children))})"
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(module, nn.Conv2d):
        size = module.kernel_size, module.stride, module.padding
        positional, named = (module.in_channels, module.out_channels, *size), {"bias": module.bias is not None}
    elif isinstance(module, nn.BatchNorm2d):
        positional = (module.num_features,)
    elif isinstance(module, nn.AvgPool2d):
        positional = (module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad)
    elif not isinstance(module, nn.Identity):
        return None
    if repr(type(module)(*positional, **named)) != repr(module):  # an option is set that the code would lose
        return None
    arguments = ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())])
    return f"torch.nn.{type(module).__name__}({arguments})"
