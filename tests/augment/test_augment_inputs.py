"""Input layouts, output dtypes, and refused arguments."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import fastclr.augment.simclr
from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.augment.images import RaggedImages
from fastclr.augment.native import LibraryStatus

CONFIG = AugmentConfig(24, blur_p=0.5, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
IDS = torch.tensor([8, 3, 5, 2**40])


@pytest.fixture
def images() -> Tensor:
    """Four random uint8 [30, 40, 3] images."""
    return torch.randint(0, 256, (4, 30, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["native", "reference"])
def augment(request: pytest.FixtureRequest) -> SimCLRAugment:
    """Both implementations."""
    return SimCLRAugment(CONFIG, seed=7, impl=request.param)


def test_layouts_give_one_answer(augment: SimCLRAugment, images: Tensor) -> None:
    """Interleaved, planar, channels_last, strided, ragged, and rows of a dataset."""
    expected = augment(images, IDS, 1)
    planar = images.permute(0, 3, 1, 2).contiguous()
    dataset = torch.randint(0, 256, (9, 30, 40, 3), dtype=torch.uint8)
    rows = torch.tensor([6, 0, 8, 1])
    dataset[rows] = images
    flat = RaggedImages(dataset.view(-1), torch.arange(9) * 3600, torch.tensor([[30, 40]] * 9))
    same = [
        augment(planar.contiguous(memory_format=torch.channels_last), IDS, 1),
        augment(torch.cat([images, images], 2)[:, :, :40], IDS, 1),
        augment(dataset, IDS, 1, indices=rows),
        augment(flat.select(rows), IDS, 1),
        augment(flat, IDS, 1, indices=rows),
        augment.apply(images, augment.params(IDS, 1, (30, 40))),
        augment.apply(dataset, augment.params(IDS, 1, (30, 40)), indices=rows),
    ]
    for views in same:
        assert torch.equal(views, expected)
    for views in (augment(planar, IDS, 1), augment(dataset.permute(0, 3, 1, 2).contiguous(), IDS, 1, indices=rows)):
        assert torch.allclose(views, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_bytes(images: Tensor, impl: str, channels_last: bool) -> None:
    """uint8 views are the float32 ones times 255, rounded; combined with a normalisation they are refused."""
    config = AugmentConfig(24, blur_p=0.5)
    float32 = SimCLRAugment(config, impl=impl)(images, IDS, 0)
    views = SimCLRAugment(config, dtype=torch.uint8, channels_last=channels_last, impl=impl)(images, IDS, 0)
    assert views.dtype == torch.uint8
    assert float((views - float32 * 255).abs().max()) <= 0.5 + 1e-4
    with pytest.raises(ValueError, match="uint8 views are not normalised"):
        SimCLRAugment(CONFIG, dtype=torch.uint8, impl=impl)


def test_three_pixels_high_is_interleaved(augment: SimCLRAugment) -> None:
    """[N, 3, W, 3] is ambiguous; it is read as [N, H, W, 3]."""
    images = torch.randint(0, 256, (4, 3, 9, 3), dtype=torch.uint8)
    ragged = RaggedImages(images.view(-1), torch.arange(4) * 81, torch.tensor([[3, 9]] * 4))
    assert torch.equal(augment(images, IDS, 0), augment(ragged, IDS, 0))


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs(images: Tensor, impl: str, channels_last: bool, dtype: torch.dtype) -> None:
    """16-bit views are the float32 ones, rounded; channels_last changes strides, not values."""
    float32 = SimCLRAugment(CONFIG, views=3, channels_last=False, impl=impl)(images, IDS, 0)
    views = SimCLRAugment(CONFIG, views=3, dtype=dtype, channels_last=channels_last, impl=impl)(images, IDS, 0)
    assert views.shape == (3, 4, 3, 24, 24)
    assert views.dtype == dtype
    assert torch.equal(views, float32.to(dtype))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert all(view.is_contiguous(memory_format=memory_format) for view in views)
    assert not views.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("std", [3e-8, 1e-4, 2e3, 1e6, 1e38])
def test_rounding_to_16_bits(images: Tensor, dtype: torch.dtype, std: float) -> None:
    """Rounding matches torch's over the whole range: infinite, normal, subnormal and zero results."""
    config = AugmentConfig(24, mean=(0.5, 0.1, 0.9), std=(std, std, std))
    float32, rounded = (
        SimCLRAugment(config, dtype=kind, impl="native")(images, IDS, 0) for kind in (torch.float32, dtype)
    )
    assert torch.equal(rounded, float32.to(dtype))


def test_module_copies_and_pickles(images: Tensor) -> None:
    augment = SimCLRAugment(CONFIG, seed=3)
    expected = augment(images, IDS, 0)
    for clone in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment)), torch.nn.Sequential(augment).eval()[0]):
        assert torch.equal(clone(images, IDS, 0), expected)
    assert augment.state_dict() == {}
    visited: list[torch.nn.Module] = []
    torch.nn.Sequential(augment).apply(visited.append)
    assert augment in visited
    assert "seed=3" in repr(augment)


def test_missing_library(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, auto falls back with a warning, and native raises with the reason and the remedy."""
    missing = LibraryStatus("cpu", fastclr.augment.simclr.native.PACKAGE, False, "not built: no torch", "make build")
    expected = SimCLRAugment(CONFIG, impl="reference")(images, IDS, 0)
    monkeypatch.setattr(fastclr.augment.simclr.native, "kernels", lambda device: missing)
    assert not SimCLRAugment.supports("cpu")
    assert not SimCLRAugment.supports("xla")
    with pytest.warns(RuntimeWarning, match="not built: no torch; to fix it: make build"):
        assert torch.equal(SimCLRAugment(CONFIG)(images, IDS, 0), expected)
    with pytest.raises(RuntimeError, match="no native augmentation for cpu tensors: not built: no torch"):
        SimCLRAugment(CONFIG, impl="native")(images, IDS, 0)


def bad_inputs() -> list[tuple[object, object, type[Exception], str]]:
    """Images, indices, error, message."""
    images = torch.zeros(4, 8, 9, 3, dtype=torch.uint8)
    sizes = torch.tensor([[8, 9]] * 4)
    index, flat = torch.arange(4), images.view(-1)
    return [
        (images.float(), None, TypeError, "images must be uint8, got torch.float32"),
        ([images], None, TypeError, "images must be a uint8 tensor or RaggedImages, got list"),
        (images[0], None, ValueError, r"images must be \[N, H, W, 3\] or .*got shape \(8, 9, 3\)"),
        (images[..., :2], None, ValueError, r"got shape \(4, 8, 9, 2\)"),
        (images[:0], None, ValueError, r"images is empty: shape \(0, 8, 9, 3\)"),
        (images[:, :0], None, ValueError, "images is empty"),
        (images[:3], None, ValueError, "4 ids for 3 images"),
        (images, index.int(), TypeError, "indices must be an int64 tensor, got torch.int32"),
        (images, index[:, None], ValueError, r"indices must be \[N\], got shape \(4, 1\)"),
        (images, index + 1, ValueError, "indices must be below the number of images 4, got 4"),
        (images, index - 1, ValueError, "indices must not be negative, got -1"),
        (images, index.to("meta"), ValueError, "indices is on meta, expected cpu"),
        (RaggedImages(flat, index * 216 + 1, sizes), None, ValueError, r"image 3 of \(8, 9\) .* at byte 649"),
        (RaggedImages(flat, index - 1, sizes), None, ValueError, "image 0 of .* at byte -1"),
        (RaggedImages(flat, index, sizes * 0), None, ValueError, r"image 0 of \(0, 0\) pixels"),
        (RaggedImages(flat, index[:0], sizes[:0]), None, ValueError, "images is empty"),
    ]  # fmt: skip


@pytest.mark.parametrize(("images", "indices", "error", "message"), bad_inputs())
def test_forward_refuses(
    augment: SimCLRAugment, images: Tensor, indices: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        augment(images, torch.arange(4), 0, indices)


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        (0, 20.0, ValueError, r"crop box .* of view 1 leaves image 2 of \(30, 40\) pixels"),
        (1, -1.0, ValueError, "leaves image 2"),
        (2, 0.0, ValueError, "leaves image 2"),
        (3, float("nan"), ValueError, "leaves image 2"),
        (0, 0.5, RuntimeError, "crop box .* is not inside the image of 30 x 40"),
        (9, 24.0, RuntimeError, r"params\[1, 2\]: order must be an integer from -1 to 23, got 24"),
        (9, 1.5, RuntimeError, "order must be an integer"),
        (8, 0.6, RuntimeError, r"hue must be in \[-0.5, 0.5\], got 0.6"),
        (5, float("nan"), RuntimeError, "field 5 must be in"),
        (11, float("inf"), RuntimeError, "field 11 must be in"),
    ],
)
def test_apply_refuses_values(images: Tensor, column: int, value: float, error: type[Exception], message: str) -> None:
    augment = SimCLRAugment(CONFIG, impl="native")
    packed = augment.params(IDS, 0, (30, 40)).packed
    packed[1, 2, 0:4] = torch.tensor([12.0, 3.0, 15.0, 20.0])
    packed[1, 2, column] = value
    with pytest.raises(error, match=message):
        augment.apply(images, AugmentParams(packed))


def test_apply_refuses_mismatches(augment: SimCLRAugment, images: Tensor) -> None:
    params = augment.params(IDS, 0, (30, 40))
    with pytest.raises(TypeError, match="params must be AugmentParams, got Tensor"):
        augment.apply(images, params.packed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="params are for 4 images, got 3 images"):
        augment.apply(images[:3], params)
    with pytest.raises(ValueError, match="params are on meta, but images on cpu"):
        augment.apply(images, params.to("meta"))
    with pytest.raises(TypeError, match=r"packed must be a float32 tensor, got torch.float64"):
        AugmentParams(params.packed.double())
    with pytest.raises(ValueError, match=r"packed must be \[views, N, 16\], got \(4, 16\)"):
        AugmentParams(params.packed[0])
    with pytest.raises(ValueError, match="requires a gradient, but the augmentation has none"):
        AugmentParams(params.packed.requires_grad_())
