"""The pixels, against torchvision's float functional API."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.augment.images import RaggedImages

COLOUR_TOLERANCE = 1e-5
PIPELINE_TOLERANCE = 5e-5


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """A colourful uint8 [height, width, 3] image with structure at every scale and saturated regions."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells in (2, 5, 13, 40):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        image += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear") / 2
    image = (image - 1) * 300 + 128
    return image.clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous()


def ragged(images: list[Tensor]) -> RaggedImages:
    """Images of mixed sizes, stored in reverse order with a gap."""
    sizes = torch.tensor([image.shape[:2] for image in images])
    parts, offsets, position = [], [0] * len(images), 0
    for i in reversed(range(len(images))):
        parts += [images[i].reshape(-1), torch.full((5,), 255, dtype=torch.uint8)]
        offsets[i], position = position, position + images[i].numel() + 5
    return RaggedImages(torch.cat(parts), torch.tensor(offsets), sizes)


def neutral(views: int, size: tuple[int, int], images: int = 1) -> Tensor:
    """Identity parameters: the whole image, no operation."""
    packed = torch.zeros(views, images, 16)
    packed[..., 2], packed[..., 3] = size
    packed[..., 5:8] = 1.0
    packed[..., 9] = -1.0
    return packed


def both(config: AugmentConfig, images: Tensor | RaggedImages, params: AugmentParams) -> tuple[Tensor, Tensor]:
    """Views of the operator in float32 and of the reference in float64."""
    native = SimCLRAugment(config, impl="native").apply(images, params)
    reference = SimCLRAugment(config, dtype=torch.float64, impl="reference").apply(images, params)
    return native.double(), reference


COLOUR = (
    [(5, F.adjust_brightness, f) for f in (0.0, 0.3, 1.0, 1.8, 7.0)]
    + [(6, F.adjust_contrast, f) for f in (0.0, 0.3, 1.0, 1.8, 7.0)]
    + [(7, F.adjust_saturation, f) for f in (0.0, 0.3, 1.0, 1.8, 7.0)]
    + [(8, F.adjust_hue, f) for f in (-0.5, -0.2, 0.01, 0.17, 0.5)]
)


@pytest.mark.parametrize("kind", ["photo", "gray", "flat", "primaries"])
def test_colour_operations(kind: str) -> None:
    """Each colour operation alone equals torchvision's, on images that are hard cases for hue and saturation."""
    size = 48
    image = smooth(size, size)
    if kind == "gray":
        image = image[..., :1].expand(-1, -1, 3).contiguous()
    elif kind == "flat":
        image = torch.tensor([200, 3, 77], dtype=torch.uint8).expand(size, size, 3).contiguous()
    elif kind == "primaries":
        corners = torch.tensor(list(itertools.product((0, 255), repeat=3)), dtype=torch.uint8)
        image = corners.repeat(size * size // 8, 1).view(size, size, 3)
    x = image.permute(2, 0, 1).double() / 255
    packed = neutral(len(COLOUR) + 3, (size, size))
    expected = []
    for v, (column, function, value) in enumerate(COLOUR):
        packed[v, 0, column], packed[v, 0, 9] = value, float(v % 24)
        expected.append(function(x, float(packed[v, 0, column])))
    for v, (column, view) in enumerate(
        ((4, x.flip(-1)), (10, F.rgb_to_grayscale(x, 3)), (12, F.solarize(x, 0.5))), start=len(COLOUR)
    ):
        packed[v, 0, column] = 1.0
        expected.append(view)
    views = SimCLRAugment(size, impl="native").apply(image[None], AugmentParams(packed))
    for v, view in enumerate(expected):
        assert float((views[v, 0].double() - view).abs().max()) < COLOUR_TOLERANCE, v


def test_all_orders() -> None:
    """All 24 orders of the colour operations, each against the four functions called in that order."""
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    image = smooth(40, 40, seed=4)
    packed = neutral(24, (40, 40))
    packed[:, 0, 5:9] = torch.tensor([1.5, 0.4, 1.7, 0.15])
    packed[:, 0, 9] = torch.arange(24.0)
    views = SimCLRAugment(40, impl="native").apply(image[None], AugmentParams(packed))
    seen = []
    for v, order in enumerate(itertools.permutations(range(4))):
        x = image.permute(2, 0, 1).double() / 255
        for operation in order:
            x = functions[operation](x, float(packed[v, 0, 5 + operation]))
        assert float((views[v, 0].double() - x).abs().max()) < COLOUR_TOLERANCE
        seen.append(views[v, 0])
    differences = torch.pdist(torch.stack(seen).flatten(1), p=float("inf"))
    assert float((differences > 10 * COLOUR_TOLERANCE).double().mean()) > 0.9


@pytest.mark.parametrize("size", [7, 32, 96, 224])
def test_pipeline_equals_replay(size: int) -> None:
    """Random parameters, every operation on, sources of many shapes."""
    config = AugmentConfig(
        size, jitter_p=0.9, blur_p=0.7, solarize_p=0.3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    shapes = [(1, 1), (1, 9), (13, 1), (2, 3), (32, 32), (60, 200), (375, 500)][:: 1 if size < 224 else 3]
    images = ragged([smooth(h, w, seed=i) for i, (h, w) in enumerate(shapes)])
    params = SimCLRAugment(config, views=4, seed=size).params(torch.arange(len(images)), 0, images.sizes)
    native, reference = both(config, images, params)
    difference = (native - reference).abs() * torch.tensor(config.std)[:, None, None]
    assert float(difference.max()) < PIPELINE_TOLERANCE
    assert float(native.std()) > 0.3


@pytest.mark.parametrize("shape", [(4000, 37), (50, 4000), (1500, 2200)])
def test_large_sources(shape: tuple[int, int]) -> None:
    """Downscaling by factors up to 125: hundreds of taps per pixel."""
    config = AugmentConfig(32, jitter=(0.4, 0.4, 0.4, 0.1))
    image = smooth(*shape)[None]
    params = SimCLRAugment(config, views=3).params(torch.tensor([3]), 0, shape)
    params.packed[0, 0, :4] = torch.tensor([0.0, 0.0, *shape])
    native, reference = both(config, image, params)
    assert float((native - reference).abs().max()) < PIPELINE_TOLERANCE


@pytest.mark.parametrize("sigma", [0.001, 0.1, 0.7, 2.0, 50.0])
def test_blur(sigma: float) -> None:
    """The blur alone, with kernels narrower and wider than its window, edges included."""
    for size in (20, 33, 100):
        packed = neutral(1, (size, size))
        packed[..., 11] = sigma
        native, reference = both(AugmentConfig(size), smooth(size, size)[None], AugmentParams(packed))
        assert float((native - reference).abs().max()) < COLOUR_TOLERANCE


def test_resize_is_clipped_to_the_crop() -> None:
    """Pixels just outside of the crop box have no influence."""
    inside = smooth(30, 40)
    packed = neutral(1, (30, 40))
    plain = SimCLRAugment(24, impl="native").apply(inside[None], AugmentParams(packed))
    framed = torch.full((50, 60, 3), 255, dtype=torch.uint8)
    framed[10:40, 5:45] = inside
    packed[..., 0], packed[..., 1] = 10, 5
    assert torch.equal(SimCLRAugment(24, impl="native").apply(framed[None], AugmentParams(packed)), plain)


@pytest.mark.parametrize("threads", [1, 2])
def test_views_do_not_depend_on_batch_or_threads(threads: int) -> None:
    """Processing one image at a time, or all of them on any number of threads, gives the same bits."""
    augment = SimCLRAugment(AugmentConfig(48), seed=2, impl="native")
    images = torch.stack([smooth(70, 50, seed=i) for i in range(9)])
    ids = torch.arange(9) + 100
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    views = augment(images, ids, 4)
    torch.set_num_threads(before)
    for n in range(9):
        assert torch.equal(augment(images[n : n + 1], ids[n : n + 1], 4)[:, 0], views[:, n])
