"""Views of images of 1 to 16 channels, against torchvision's float functional API applied to each channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment, native
from fastclr.augment import op as ops
from fastclr.augment.images import RaggedImages
from fastclr.augment.reference import ORDERS

needs_native = pytest.mark.skipif(not native.kernels("cpu").loaded, reason="the native library is not built")
STYLES = [{}, {"style": "simclr_tf"}, {"style": "simclr_tf", "brightness": "additive"}]
TOLERANCE = 5e-5


def bands(channels: int, shapes: list[tuple[int, int]]) -> RaggedImages:
    """Random images of several sizes."""
    generator = torch.Generator().manual_seed(channels)
    sizes = torch.tensor(shapes)
    counts = channels * sizes.prod(1)
    data = torch.randint(0, 256, (int(counts.sum()),), dtype=torch.uint8, generator=generator)
    return RaggedImages(data, counts.cumsum(0) - counts, sizes, channels)


def by_torchvision(image: Tensor, row: list[float], size: int) -> Tensor:
    """The view of one channel, float64 ``[1, H, W]``, written out again."""
    top, left, height, width = (int(value) for value in row[:4])
    x = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    x = F.horizontal_flip(x) if row[4] else x
    for operation in ORDERS[int(row[9])] if row[9] >= 0 else ():
        if operation == 0:
            x = F.adjust_brightness(x, row[5])
        elif operation == 1:
            x = F.adjust_contrast(x, row[6])
    if row[11] > 0:
        x = F.gaussian_blur(x, [2 * (size // 10 // 2) + 1] * 2, [row[11]] * 2)
    return F.solarize(x, 0.5) if row[12] else x


@needs_native
@pytest.mark.parametrize("channels", [1, 2, 5, 16])
def test_views_are_those_of_torchvision_on_each_channel(channels: int) -> None:
    config = AugmentConfig(40, solarize_p=0.3, jitter_p=0.9).with_channels(channels)
    images = bands(channels, [(50, 70), (1, 9), (33, 20), (200, 100)])
    augment = SimCLRAugment(config, views=3, seed=channels, impl="native")
    params = augment.params(torch.arange(len(images)), 1, images.sizes)
    views = augment.apply(images, params)
    assert views.shape == (3, 4, channels, 40, 40)
    for n in range(len(images)):
        image = images.image(n).permute(2, 0, 1).double() / 255
        for v, row in enumerate(params.packed[:, n].tolist()):
            expected = torch.cat([by_torchvision(each, row, 40) for each in image.split(1)])
            assert (views[v, n] - expected).abs().max() < TOLERANCE, (v, n)


@needs_native
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_operator_equals_reference(channels: int, style: dict[str, str]) -> None:
    """Float64 reference, in all styles, with a normalisation of each channel."""
    mean, std = tuple(0.1 + 0.02 * c for c in range(channels)), tuple(0.3 + 0.1 * c for c in range(channels))
    plain = AugmentConfig(24, solarize_p=0.2, blur_p=0.7, **style).with_channels(channels)
    config = AugmentConfig(**{**vars(plain), "mean": mean, "std": std})
    images = bands(channels, [(30, 40), (3, 50), (90, 17)])
    ours = SimCLRAugment(config, views=4, impl="native")(images, torch.arange(3), 2)
    reference = SimCLRAugment(config, views=4, dtype=torch.float64, impl="reference")(images, torch.arange(3), 2)
    assert (ours - reference).abs().max() < TOLERANCE / min(std)


@needs_native
def test_layouts_and_types_agree() -> None:
    """Planes or pixels first, ragged, rows of a set, every memory format: the same bits; other types are roundings."""
    config = AugmentConfig(32).with_channels(6)
    images = torch.randint(0, 256, (5, 40, 30, 6), dtype=torch.uint8)
    ids = torch.arange(5)
    whole = SimCLRAugment(config, impl="native")(images, ids, 3)
    ragged = RaggedImages(images.reshape(-1), ids * 40 * 30 * 6, torch.tensor([[40, 30]] * 5), 6)
    for same in (images.permute(0, 3, 1, 2).contiguous(), images.permute(0, 3, 1, 2), ragged):
        assert torch.equal(SimCLRAugment(config, impl="native", channels_last=False)(same, ids, 3), whole)
    rows = torch.tensor([4, 1])
    assert torch.equal(SimCLRAugment(config, impl="native")(images, rows, 3, rows), whole[:, rows])
    for dtype, step in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        assert (SimCLRAugment(config, dtype=dtype, impl="native")(images, ids, 3) - whole).abs().max() <= step
    octets = SimCLRAugment(config, dtype=torch.uint8, impl="native")(images, ids, 3)
    assert torch.equal(octets, (whole.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8))


@needs_native
def test_grey_images_as_one_channel_and_as_three() -> None:
    """A grey image in three equal channels has the views of the one channel, where torchvision's luma keeps a grey."""
    config = AugmentConfig(32, jitter=(0.6, 0.0, 0.0, 0.0), gray_p=0.0)
    grey = torch.randint(0, 256, (4, 50, 60, 1), dtype=torch.uint8)
    one = SimCLRAugment(config.with_channels(1), impl="native")(grey, torch.arange(4), 0)
    three = SimCLRAugment(config, impl="native")(grey.expand(-1, -1, -1, 3).contiguous(), torch.arange(4), 0)
    assert torch.equal(one.expand(-1, -1, 3, -1, -1), three)


def test_parameters_do_not_depend_on_channels() -> None:
    """The same crops, flips, factors and blurs, so that a run in other bands sees the same regions."""
    ids = torch.arange(50)
    colour = AugmentConfig(32, jitter=(0.4, 0.4, 0.0, 0.0), gray_p=0.0)
    one, many = (SimCLRAugment(c).params(ids, 0, (60, 60)).packed for c in (colour, colour.with_channels(9)))
    assert torch.equal(one, many)


@pytest.mark.parametrize(
    "change", [{"jitter": (0.4, 0.4, 0.2, 0.0)}, {"jitter": (0.4, 0.4, 0.0, 0.1)}, {"gray_p": 0.2}]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_colour_recipes_are_refused(channels: int, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"need 3 channels, got channels={channels} .*set jitter=.*gray_p=0"):
        AugmentConfig(32, channels=channels, **{"jitter": (0.4, 0.4, 0.0, 0.0), "gray_p": 0.0, **change})  # type: ignore[arg-type]


def test_channels_must_match() -> None:
    for channels in (0, 17, 2.0):
        with pytest.raises(ValueError, match="channels must be an integer from 1 to 16"):
            AugmentConfig(32, channels=channels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean must be a tuple of 2 finite numbers"):
        AugmentConfig(32, channels=2, jitter=(0, 0, 0, 0), gray_p=0, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    augment = SimCLRAugment(AugmentConfig(32).with_channels(5))
    with pytest.raises(
        ValueError, match=r"must be \[N, H, W, 5\] or \[N, 5, H, W\].*channels=5.*got shape \(2, 8, 8, 3\)"
    ):
        augment(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.arange(2), 0)
    with pytest.raises(ValueError, match="channels=5, got 3"):
        augment(
            RaggedImages(torch.zeros(12, dtype=torch.uint8), torch.tensor([0]), torch.tensor([[2, 2]])),
            torch.arange(1),
            0,
        )
    with pytest.raises(ValueError, match="all views must have the same channels"):
        SimCLRAugment([AugmentConfig(32), AugmentConfig(32).with_channels(4)])
    short = RaggedImages(torch.zeros(19, dtype=torch.uint8), torch.tensor([0]), torch.tensor([[2, 2]]), 5)
    with pytest.raises(ValueError, match="does not fit into 19 bytes"):
        augment(short, torch.arange(1), 0)


@needs_native
def test_operator() -> None:
    """Schema, fake and checks of the operator itself."""
    data, offsets, sizes = torch.arange(800).to(torch.uint8), torch.tensor([0, 400]), torch.tensor([[10, 10]] * 2)
    packed = SimCLRAugment(AugmentConfig(8).with_channels(4)).params(torch.arange(2), 0, sizes).packed
    call = (data, offsets, sizes, packed, 4, 8, 0, False, [0.5] * 4, [0.2] * 4, torch.bfloat16, True)
    torch.library.opcheck(torch.ops.fastclr.augment_planes.default, call)
    for place, value, message in (
        (4, 0, "channels must be 1 to 16, got 0"),
        (4, 17, "channels must be 1 to 16, got 17"),
        (1, torch.tensor([0, 401]), "image 1 takes 400 bytes from 401 on, but data has 800"),
        (8, [0.5] * 3, "mean and std must both have 0 or 4 values, got 3 and 4"),
        (9, [0.2] * 3 + [0.0], "std must be positive"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastclr.augment_planes(*call[:place], value, *call[place + 1 :])


@needs_native
def test_three_planes() -> None:
    """The operator takes three channels too; without jitter they are what colours are."""
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    config = AugmentConfig(30, jitter_p=0, gray_p=0)
    augment = SimCLRAugment(config, impl="native")
    params: AugmentParams = augment.params(torch.arange(3), 0, (20, 20))
    offsets, sizes = torch.arange(3) * 1200, torch.tensor([[20, 20]] * 3)
    planes = torch.ops.fastclr.augment_planes(
        images.reshape(-1), offsets, sizes, params.packed, 3, 30, 0, False, [], [], torch.float32, True
    )
    assert torch.equal(planes, augment.apply(images, params))
    assert ops.PARAMS == 16
