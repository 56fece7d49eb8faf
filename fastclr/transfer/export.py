"""Exporting an encoder: one file, the code that loads it without fastclr, and a model card."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.augment.fixed_view import CROP_ABOVE, CROP_FRACTION
from fastclr.files import make_folder, write_atomically, write_text_atomically
from fastclr.methods.own_encoder import channels_of
from fastclr.sources.packages import needed
from fastclr.sources.printable import printable
from fastclr.sources.reading import RangeChoice
from fastclr.training.run import Run, encoder_facts
from fastclr.transfer.export_towers import export_towers, write_card
from fastclr.transfer.loading_code import WITHOUT_BUILDING, fill_path, timm_lines, torchvision_lines
from fastclr.transfer.model_card import MARK, model_card
from fastclr.transfer.timm_folder import CONFIG, WEIGHTS, check_config, timm_config

Format = Literal["safetensors", "timm", "hub", "torchvision", "torchscript", "pt2", "onnx", "towers"]
SUFFIXES: dict[Format, str] = {
    "safetensors": ".safetensors",
    "torchvision": ".pth",
    "torchscript": ".pt",
    "pt2": ".pt2",
    "onnx": ".onnx",
}
BACKBONE = "backbone."  # where `fastclr.transfer.hub.HubEncoder` has it
TOLERANCE = 1e-5  # relative to the largest feature: allows for other kernels and summation orders in float32
AMPLIFIED = 3.0  # of what float32 misses float64 by, may the file differ by: twice that is likely if it is right
CHECK_IMAGES = 4


@dataclass(frozen=True)
class Exported:
    """What `export_run` wrote.

    Args:
        path: the file.
        card: the model card next to it.
        lines: Python that loads the file as `encoder` without fastclr; None if only fastclr can build this encoder.
        difference: largest feature difference in the check, relative to the largest feature; None: not checked.
    """

    path: Path
    card: Path
    lines: str | None
    difference: float | None


def export_run(
    run: Run,
    kind: Format | None = None,
    out: Path | None = None,
    *,
    check: bool = True,
    licence: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the encoder of the last checkpoint for use without fastclr, with a model card ``README.md`` next to it.

    Args:
        run: a run with a checkpoint.
        kind: ``safetensors``: weights under timm's names. ``timm``: the same as a folder that timm loads by its path
            alone, see `fastclr.transfer.timm_folder`. ``hub``: a folder that `fastclr.HubEncoder` loads, of any width
            and stem. ``torchvision``: a state dict for torchvision's ResNets.
            ``torchscript``, ``pt2`` (`torch.export`), ``onnx``: also the computation, float32 ``[batch, 3, S, S]`` to
            ``[batch, F]`` for any batch size. ``towers``: both towers of a method of images and texts, see
            `fastclr.transfer.export_towers`. Default: see `choose`.
        out: the file, or the folder of ``timm`` and ``hub``. Default: ``export/KIND/encoder.SUFFIX`` in the run's
            folder, or ``export/KIND``.
        check: run the printed lines in a fresh process where fastclr cannot be imported, and compare features.
        licence: of the weights, for the card.
        overwrite: replace an existing file.

    Raises:
        ValueError: the kind, suffix or path is unsuitable; the encoder has no counterpart in torchvision or
            timm; or the features in the check differ. Nothing is written in these cases.
        FileNotFoundError: the run has no checkpoint.
        ModuleNotFoundError: a package of ``fastclr[export]`` is missing.
    """
    kind = choose(run, out) if kind is None else kind
    if kind == "towers":
        images = normalised(photographs(run.config.augment.size, run.config.augment.channels), run.config.augment)
        folder, code, error = export_towers(run, out, check=check, overwrite=overwrite, images=images)
        about = model_card(run, kind, code, preprocessing(run.config.augment, run.config.range), licence)
        return Exported(folder, write_card(folder, about), code, error)
    path = check_request(run, kind, out, overwrite)
    encoder = run.load_encoder().cpu().float().eval()
    lines = loading_lines(encoder, run, kind)
    beside = None if lines is None else fill_path(lines, Path(path.name))
    inputs = preprocessing(run.config.augment, run.config.range)
    described = describe(encoder, run, kind, inputs, licence)
    files = {} if described is None else {CONFIG: (json.dumps(described, indent=2) + "\n").encode()}
    files[path.name] = serialise(encoder, kind, run.config.augment.size, file_metadata(run, inputs, beside))
    error = None
    if check and beside is not None:
        error = compare(encoder, files, beside, kind, run.config.augment)
    card = model_card(run, kind, beside, inputs, licence)
    if out is None:  # a folder that was named may be a link
        make_folder(run.folder / "export")
        make_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        write_atomically(path.parent / name, lambda file, contents=contents: file.write(contents))  # type: ignore[misc]
    readme = path.parent / "README.md"
    write_text_atomically(readme, printable(card))
    return Exported(path, readme, None if lines is None else fill_path(lines, path), error)


def describe(
    encoder: nn.Module, run: Run, kind: Format, inputs: dict[str, Any], licence: str | None
) -> dict[str, Any] | None:
    """Return what the config.json of a folder says; None for a single file."""
    if kind == "timm":
        return timm_config(encoder, run, inputs, licence)
    if kind == "hub":
        from fastclr.transfer.hub import hub_config

        return hub_config(run.config, inputs)
    return None


def choose(run: Run, out: Path | None) -> Format:
    """Return the format of the suffix of `out`; else ``safetensors`` for what timm builds, and ``pt2`` for the rest."""
    for kind, suffix in SUFFIXES.items():
        if out is not None and out.suffix == suffix:
            return kind
    return "pt2" if loading_lines(run.load_encoder(), run, "safetensors") is None else "safetensors"


def check_request(run: Run, kind: Format, out: Path | None, overwrite: bool) -> Path:
    """Return the path to write, having rejected everything that can be rejected before any work is done."""
    if kind not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {kind!r}")
    if kind in ("timm", "hub"):
        if out is not None and (out.suffix in SUFFIXES.values() or out.is_file()):
            raise ValueError(f"format {kind} writes a folder, got {out}")
        path = (out or run.folder / "export" / kind) / WEIGHTS
        check_config(path.parent / CONFIG, overwrite, "architecture" if kind == "timm" else "preprocessing")
    else:
        path = out or run.folder / "export" / kind / f"encoder{SUFFIXES[kind]}"
    if path.suffix != (suffix := SUFFIXES.get(kind, path.suffix)):
        raise ValueError(f"a file of format {kind} must end in {suffix}, got {path}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path} already exists: choose another --out, or use --overwrite")
    readme = path.parent / "README.md"
    if readme.exists() and MARK not in readme.read_text(errors="replace"):
        raise ValueError(f"{readme} was not written by fastclr and would be lost: choose an --out in another folder")
    if kind == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            needed(name, f"this needs {name}", "export")
    return path


def loading_lines(encoder: nn.Module, run: Run, kind: str) -> str | None:
    """Return the Python that loads the file as `encoder`; see `fastclr.transfer.loading_code`."""
    if kind == "torchvision":
        return torchvision_lines(encoder, run.config.encoder)
    if kind == "safetensors":
        config = run.config
        options: dict[str, Any] = {"width": config.width, "patch_size": config.patch_size, "norm": config.norm}
        return timm_lines(encoder, config.encoder, config.augment.size, **options)
    return WITHOUT_BUILDING[kind]


def preprocessing(augment: AugmentConfig, values: RangeChoice | None = None) -> dict[str, Any]:
    """Return the preprocessing that the encoder expects of an image, under timm's names.

    Args:
        augment: of the run.
        values: what becomes 0 and 1 in images of more than 8 bits.
    """
    return {
        "input_size": [augment.channels, augment.size, augment.size],
        "crop": "centre square",
        "crop_pct": CROP_FRACTION if augment.size > CROP_ABOVE else 1.0,
        "interpolation": "bilinear, antialiased" if augment.style == "torchvision" else "bicubic, not antialiased",
        "colours": "RGB" if augment.channels == 3 else f"{augment.channels} channel(s)",
        "range": [0.0, 1.0],
        **({} if values is None else {"values": list(values) if isinstance(values, tuple) else values}),
        "mean": list(augment.mean) if augment.mean is not None else None,
        "std": list(augment.std) if augment.std is not None else None,
    }


def file_metadata(run: Run, inputs: dict[str, Any], lines: str | None) -> dict[str, str]:
    """Return the metadata embedded in the file."""
    described = {"fastclr": json.dumps(encoder_facts(run.config)), "preprocessing": json.dumps(inputs)}
    return described if lines is None else {**described, "load": lines}


def serialise(encoder: nn.Module, kind: str, size: int, metadata: dict[str, str]) -> bytes:
    """Return the contents of the file in the given format."""
    if kind in ("safetensors", "timm", "hub"):
        from safetensors.torch import save

        state = state_of(encoder)
        if kind == "hub":
            state = {BACKBONE + name: tensor for name, tensor in state.items()}
        return save(state, {"format": "pt", **metadata})
    buffer = io.BytesIO()
    if kind == "torchvision":
        torch.save(state_of(encoder), buffer)  # tensors only, so it loads with weights_only=True
        return buffer.getvalue()
    example = torch.zeros(2, channels_of(encoder), size, size)
    with torch.no_grad(), quiet():
        if kind == "torchscript":
            traced: Any = torch.jit.trace(encoder, example)
            torch.jit.save(traced, buffer, _extra_files=metadata)
            return buffer.getvalue()
        batch = ({0: torch.export.Dim("batch")},)
        if kind == "pt2":
            program = torch.export.export(encoder, (example,), dynamic_shapes=batch)
            torch.export.save(program, buffer, extra_files=metadata)
            return buffer.getvalue()
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["features"]}
        exported = torch.onnx.export(encoder, (example,), dynamic_shapes=batch, dynamo=True, verbose=False, **names)
    if exported is None:
        raise ValueError("torch.onnx.export returned no model")
    exported.model.metadata_props.update(metadata)
    with tempfile.TemporaryDirectory() as folder:
        exported.save(str(Path(folder) / "encoder.onnx"), external_data=False)
        return (Path(folder) / "encoder.onnx").read_bytes()


def state_of(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers, contiguous."""
    return {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and logs of tracing and the ONNX exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compare(encoder: nn.Module, files: dict[str, bytes], lines: str, kind: str, augment: AugmentConfig) -> float:
    """Load the files in a fresh process without fastclr and compare its features with those of `encoder`.

    The images are parts of two photographs: white noise is nothing that an encoder is for, and its rounding grows.

    Returns:
        max |difference| / max |feature|.

    Raises:
        ValueError: the lines do not run, or the difference is above `TOLERANCE`, and above `AMPLIFIED` times that of
            the encoder itself between float32 and float64.
    """
    images = normalised(photographs(augment.size, augment.channels), augment)
    with torch.no_grad():
        expected = encoder(images).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in files.items():
            (Path(folder) / name).write_bytes(contents)
        np.save(Path(folder) / "images.npy", images.numpy())
        actual = features_in_fresh_process(Path(folder), lines, kind)
    if actual.shape != expected.shape:
        raise ValueError(f"the exported file gives features {actual.shape}, the run's encoder {expected.shape}")
    error = relative(actual, expected)
    if not error <= TOLERANCE and not error <= (allowed := AMPLIFIED * rounding(encoder, images, expected)):
        raise ValueError(
            f"the exported file's features differ by {error:.1e}, more than the allowed {max(TOLERANCE, allowed):.0e}"
        )
    return error


def normalised(images: Tensor, augment: AugmentConfig) -> Tensor:
    """Return images in [0, 1] as the encoder takes them."""
    if augment.mean is None or augment.std is None:
        return images
    return (images - torch.tensor(augment.mean).view(-1, 1, 1)) / torch.tensor(augment.std).view(-1, 1, 1)


def relative(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return max |difference| / max |expected|."""
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def rounding(encoder: nn.Module, images: Tensor, features: npt.NDArray[np.float32]) -> float:
    """Return by how much an encoder's float32 `features` miss those of float64; 0 if it does not compute in float64."""
    try:
        with torch.no_grad():
            exact = copy.deepcopy(encoder).double()(images.double()).numpy()
    except (RuntimeError, TypeError):
        return 0.0
    return relative(features, exact)


def photographs(size: int, channels: int = 3) -> Tensor:
    """Return squares from two photographs, of scikit-learn, in [0, 1], ``[CHECK_IMAGES, channels, size, size]``.

    Their colours are repeated for more than three channels.
    """
    from sklearn.datasets import load_sample_images

    squares = []
    for photo in load_sample_images().images:
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
        for start in np.linspace(0, photo.shape[1] - photo.shape[0], CHECK_IMAGES // 2).astype(int):
            square = pixels[..., start : start + photo.shape[0]]
            squares.append(F.interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(squares)[:, torch.arange(channels) % 3]


def features_in_fresh_process(folder: Path, lines: str, kind: str) -> npt.NDArray[np.float32]:
    """Return what `lines` make of ``images.npy`` in a fresh process; only the format `hub` may import fastclr there."""
    apply = "encoder.run(None, {'images': images})[0]"
    script = [
        "import sys",
        "" if kind == "hub" else "sys.modules['fastclr'] = None",
        lines,
        "import numpy",
        "images = numpy.load('images.npy')",
        f"features = {apply if kind == 'onnx' else 'encoder(torch.from_numpy(images)).detach().numpy()'}",
        "numpy.save('features.npy', features)",
    ]
    if kind != "onnx":
        script.insert(2, "import torch")
    command = [sys.executable, "-c", "\n".join(script)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or [f"status {result.returncode}"]
        where = "" if kind == "hub" else " without fastclr"
        raise ValueError(f"the exported file does not load{where}, using:\n{lines}\n{reason[0]}")
    loaded: npt.NDArray[np.float32] = np.load(folder / "features.npy")
    return loaded
