"""The configuration of an augmentation, and the parameters drawn from it."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from fastclr.augment.images import MAX_CHANNELS
from fastclr.augment.op import PARAMS
from fastclr.augment.reference import ORDERS, SIMCLR_TF, SIMCLR_TF_ADDITIVE, TORCHVISION

Pair = tuple[float, float]
Quad = tuple[float, float, float, float]
Numbers = tuple[float, ...]


# (style, brightness) -> the style code that the operators take
STYLES = {
    ("torchvision", "multiplicative"): TORCHVISION,
    ("simclr_tf", "multiplicative"): SIMCLR_TF,
    ("simclr_tf", "additive"): SIMCLR_TF_ADDITIVE,
}


def _check_numbers(name: str, value: object, count: int) -> None:
    """Raise unless `value` holds `count` finite numbers."""
    numbers = isinstance(value, tuple) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    if not isinstance(value, tuple) or not numbers or len(value) != count:
        raise ValueError(f"{name} must be a tuple of {count} finite numbers, got {value!r}")


def _check_interval(name: str, value: Pair, lowest: float, highest: float) -> None:
    """Raise unless `value` is an interval inside [lowest, highest]."""
    _check_numbers(name, value, 2)
    if not lowest <= value[0] <= value[1] <= highest:
        raise ValueError(f"{name} must be lo <= hi in [{lowest:g}, {highest:g}], got {value!r}")


@dataclass(frozen=True)
class AugmentConfig:
    """SimCLR's random transformation, in this order: crop, flip, colour jitter, grey, blur, solarise, normalise.

    The four colour operations run in a random order, drawn per sample and view.

    Args:
        size: side of the square views, in pixels.
        crop_scale: area of the crop as a fraction of the image, uniform.
        crop_ratio: width / height of the crop, log-uniform.
        flip_p: probability of a horizontal flip.
        jitter: strengths b, c, s, h. Brightness, contrast and saturation factors are uniform in
            ``[max(0, 1 - x), 1 + x]``; the hue shift is uniform in ``[-h, h]`` turns, h at most 0.5.
        jitter_p: probability of the four colour operations.
        gray_p: probability of conversion to grey.
        blur_p: probability of a Gaussian blur, with a window of ``2 * (size // 10 // 2) + 1``; none below 20 px.
        blur_sigma: standard deviation of the blur in pixels, uniform.
        solarize_p: probability of inverting the values that are at least 0.5.
        mean: subtracted from the channels, one number each, on the scale [0, 1]; None skips the normalisation.
        std: divides the channels; required with `mean`.
        style: ``"torchvision"``: equal to replaying the parameters through torchvision's float functional API.
            ``"simclr_tf"``: what the paper's TensorFlow code does. The crop's ratio is uniform and its height a uniform
            integer; bicubic resize without antialiasing; contrast about the mean of each channel, saturation in HSV;
            the blur pads with zeros.
        brightness: in ``"simclr_tf"``: ``"multiplicative"`` (its version 2) or ``"additive"`` (version 1: adds a value
            uniform in ``[-b, b]``).
        min_object_covered: in ``"simclr_tf"``: crops that cover a smaller fraction of the image are redrawn.
        blur_sigma_per_batch: one sigma for all images, as in that code; drawn from (seed, epoch, view).
        channels: of the images, 1 to 16. Three are colours. Of any other number each is an image of its own, to which
            brightness and contrast apply as to a grey image, by the same factors; saturation, hue and grey must be 0,
            since they need colours: `with_channels` sets them so.

    Raises:
        ValueError: a field is out of range; the message names it, what is expected and what was given.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, appendix A.
    """

    size: int = 224
    _: KW_ONLY
    crop_scale: Pair = (0.08, 1.0)
    crop_ratio: Pair = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    jitter: Quad = (0.8, 0.8, 0.8, 0.2)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: Pair = (0.1, 2.0)
    solarize_p: float = 0.0
    mean: Numbers | None = None
    std: Numbers | None = None
    style: str = "torchvision"
    brightness: str = "multiplicative"
    min_object_covered: float = 0.1
    blur_sigma_per_batch: bool = False
    channels: int = 3

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= 16384:
            raise ValueError(f"size must be an integer from 1 to 16384, got {self.size!r}")
        if not isinstance(self.channels, int) or not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be an integer from 1 to {MAX_CHANNELS}, got {self.channels!r}")
        _check_interval("crop_scale", self.crop_scale, 1e-6, 1.0)
        _check_interval("crop_ratio", self.crop_ratio, 1e-3, 1e3)
        _check_interval("blur_sigma", self.blur_sigma, 1e-3, 1e3)
        for name in ("flip_p", "jitter_p", "gray_p", "blur_p", "solarize_p", "min_object_covered"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}")
        _check_numbers("jitter", self.jitter, 4)
        if not 0.0 <= min(self.jitter) <= max(self.jitter) <= 100.0 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be strengths from 0 to 100, the last (hue) at most 0.5, got {self.jitter!r}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std must be given together, got mean={self.mean!r}, std={self.std!r}")
        if self.mean is not None and self.std is not None:
            _check_numbers("mean", self.mean, self.channels)
            _check_numbers("std", self.std, self.channels)
            if min(self.std) <= 0.0:
                raise ValueError(f"std must be positive, got {self.std!r}")
        if self.style not in ("torchvision", "simclr_tf"):
            raise ValueError(f"style must be 'torchvision' or 'simclr_tf', got {self.style!r}")
        if (self.style, self.brightness) not in STYLES:
            allowed = " or ".join(repr(brightness) for style, brightness in STYLES if style == self.style)
            raise ValueError(f"brightness must be {allowed} in style {self.style!r}, got {self.brightness!r}")
        if self.style == "simclr_tf" and max(self.jitter[1:3]) > 1.0:
            raise ValueError(f"contrast and saturation must be at most 1 in style 'simclr_tf', got {self.jitter!r}")
        if self.channels != 3 and (self.jitter[2] or self.jitter[3] or self.gray_p):
            raise ValueError(
                f"saturation, hue and grey need 3 channels, got channels={self.channels} with jitter={self.jitter} and "
                f"gray_p={self.gray_p}: set jitter=({self.jitter[0]}, {self.jitter[1]}, 0, 0) and gray_p=0"
            )
        if not isinstance(self.blur_sigma_per_batch, bool):
            raise ValueError(f"blur_sigma_per_batch must be True or False, got {self.blur_sigma_per_batch!r}")

    @classmethod
    def cifar(cls, size: int = 32) -> AugmentConfig:
        """SimCLR's settings for CIFAR: colour strength 0.5, no blur."""
        return cls(size, jitter=(0.4, 0.4, 0.4, 0.1), blur_p=0.0)

    @classmethod
    def imagenet(cls, size: int = 224) -> AugmentConfig:
        """SimCLR's settings for ImageNet: colour strength 1, blur."""
        return cls(size)

    def with_channels(self, channels: int) -> AugmentConfig:
        """Return the same for images of so many channels: without saturation, hue and grey unless there are three.

        A normalisation of another number of channels is left out too.
        """
        colour, same = channels == 3, channels == self.channels
        return dataclasses.replace(
            self,
            channels=channels,
            jitter=self.jitter if colour else (*self.jitter[:2], 0.0, 0.0),
            gray_p=self.gray_p if colour else 0.0,
            mean=self.mean if same else None,
            std=self.std if same else None,
        )

    @property
    def style_code(self) -> int:
        """The code by which the operators know this style and brightness."""
        return STYLES[self.style, self.brightness]

    def sampler(self) -> dict[str, float]:
        """Return the sampler's arguments of ``fastclr::augment_params``, with logarithms, so back ends share them."""
        brightness, contrast, saturation, hue = self.jitter
        return {
            "crop_scale_lo": self.crop_scale[0],
            "crop_scale_hi": self.crop_scale[1],
            "crop_ratio_lo": self.crop_ratio[0],
            "crop_ratio_hi": self.crop_ratio[1],
            "log_ratio_lo": math.log(self.crop_ratio[0]),
            "log_ratio_hi": math.log(self.crop_ratio[1]),
            "flip_p": self.flip_p,
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
            "jitter_p": self.jitter_p,
            "gray_p": self.gray_p,
            "blur_p": self.blur_p,
            "blur_sigma_lo": self.blur_sigma[0],
            "blur_sigma_hi": self.blur_sigma[1],
            "solarize_p": self.solarize_p,
            "min_object_covered": self.min_object_covered,
            "style": self.style_code,
            "blur_sigma_per_batch": self.blur_sigma_per_batch,
        }


@dataclass(frozen=True, eq=False)
class AugmentParams:
    """Parameters of V views of N images: what `SimCLRAugment.params` draws and `SimCLRAugment.apply` replays.

    Args:
        packed: float32 ``[V, N, 16]``. Columns: 0 top, 1 left, 2 height, 3 width of the crop in source pixels; 4 flip;
            5 brightness (factor or offset), 6 contrast, 7 saturation factor; 8 hue shift in turns; 9 index of the
            permutation of the colour operations, 0 to 23 in lexicographic order, -1 for no jitter; 10 grey; 11 sigma of
            the blur in pixels, 0 for none; 12 solarise; 13 to 15 zero.

    Raises:
        TypeError: `packed` is not a float32 tensor.
        ValueError: `packed` has another shape, or requires a gradient.
    """

    packed: Tensor

    def __post_init__(self) -> None:
        """Check dtype and shape; values are checked against the images in `SimCLRAugment.apply`."""
        if not isinstance(self.packed, Tensor) or self.packed.dtype != torch.float32:
            kind = self.packed.dtype if isinstance(self.packed, Tensor) else type(self.packed).__name__
            raise TypeError(f"AugmentParams.packed must be a float32 tensor, got {kind}")
        if self.packed.dim() != 3 or self.packed.shape[2] != PARAMS:
            raise ValueError(f"AugmentParams.packed must be [views, N, {PARAMS}], got {tuple(self.packed.shape)}")
        if self.packed.requires_grad:
            raise ValueError("AugmentParams.packed requires a gradient, but the augmentation has none: detach it")

    @property
    def views(self) -> int:
        """Number of views V."""
        return self.packed.shape[0]

    def __len__(self) -> int:
        """Number of images N."""
        return self.packed.shape[1]

    @property
    def crop(self) -> Tensor:
        """Top, left, height, width in source pixels: int64 ``[V, N, 4]``."""
        return self.packed[..., 0:4].long()

    @property
    def flip(self) -> Tensor:
        """Whether a view is mirrored: bool ``[V, N]``."""
        return self.packed[..., 4] != 0

    @property
    def brightness(self) -> Tensor:
        """Brightness factor (1 without jitter), or offset (0 without jitter) if additive: float32 ``[V, N]``."""
        return self.packed[..., 5]

    @property
    def contrast(self) -> Tensor:
        """Contrast factor: float32 ``[V, N]``, 1 without jitter."""
        return self.packed[..., 6]

    @property
    def saturation(self) -> Tensor:
        """Saturation factor: float32 ``[V, N]``, 1 without jitter."""
        return self.packed[..., 7]

    @property
    def hue(self) -> Tensor:
        """Hue shift in turns: float32 ``[V, N]``, 0 without jitter."""
        return self.packed[..., 8]

    @property
    def order(self) -> Tensor:
        """Order of operations (0 brightness, 1 contrast, 2 saturation, 3 hue): int64 ``[V, N, 4]``, -1 for none."""
        table = torch.tensor([*ORDERS, (-1, -1, -1, -1)], device=self.packed.device)
        return table[self.packed[..., 9].long()]

    @property
    def gray(self) -> Tensor:
        """Whether a view is grey: bool ``[V, N]``."""
        return self.packed[..., 10] != 0

    @property
    def blur_sigma(self) -> Tensor:
        """Standard deviation of the blur in pixels: float32 ``[V, N]``, 0 for no blur."""
        return self.packed[..., 11]

    @property
    def solarize(self) -> Tensor:
        """Whether a view is solarised: bool ``[V, N]``."""
        return self.packed[..., 12] != 0

    def to(self, device: torch.device | str) -> AugmentParams:
        """Return the same parameters on `device`."""
        return AugmentParams(self.packed.to(device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a file that `load` and ``torch.load(weights_only=True)`` read."""
        torch.save({"packed": self.packed}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AugmentParams:
        """Read parameters written by `save`, onto the CPU.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file contains something else.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises many types
            raise ValueError(f"{os.fspath(path)} does not contain augmentation parameters: {error}") from error
        if not isinstance(state, dict) or set(state) != {"packed"}:
            raise ValueError(f"{os.fspath(path)} does not contain augmentation parameters")
        return cls(state["packed"])

    def __repr__(self) -> str:
        """One line: number of views, number of images, device."""
        return f"AugmentParams(views={self.views}, images={len(self)}, device='{self.packed.device}')"

    def __str__(self) -> str:
        """A table with one line per view of the first images."""
        shown = min(len(self), 8)
        head = "view image   top  left height width flip bright contr satur    hue order gray sigma solar"
        lines = [repr(self), head]
        for v in range(self.views):
            for n, row in enumerate(self.packed[v, :shown].tolist()):
                order = "".join("bcsh"[op] for op in ORDERS[int(row[9])]) if row[9] >= 0 else "-"
                box = f"{row[0]:5.0f} {row[1]:5.0f} {row[2]:6.0f} {row[3]:5.0f} {row[4]:4.0f}"
                colour = f"{row[5]:6.3f} {row[6]:5.3f} {row[7]:5.3f} {row[8]:+6.3f} {order:>5}"
                lines.append(f"{v:4d} {n:5d} {box} {colour} {row[10]:4.0f} {row[11]:5.2f} {row[12]:5.0f}")
        if shown < len(self):
            lines.append(f"... and {len(self) - shown} more images")
        return "\n".join(lines)
