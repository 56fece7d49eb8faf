"""The CUDA kernels, compiled as C++ and run block by block on the CPU: results and memory bounds.

This is the code that nvcc compiles, with host threads as the threads of a block and a barrier as ``__syncthreads``; see
tests/cuda_emulation. tests/gpu covers the rounding, warps and memory model of a GPU.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment, native
from fastclr.augment import op as ops
from fastclr.augment.images import RaggedImages

HERE = Path(__file__).resolve().parents[1]
COMPILER = shutil.which("g++")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no g++"),
    pytest.mark.skipif(not native.kernels("cpu").loaded, reason="the native library is not built"),
]
ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
SMALL, LARGE, PLANES = 1, 2, 3
TYPES = {"style": ctypes.c_int64, "blur_sigma_per_batch": ctypes.c_bool}


class Batch(ctypes.Structure):
    """fastclr::cuda::Batch."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("params", ctypes.c_void_p),
        ("views", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("size", ctypes.c_int),
        ("style", ctypes.c_int),
        ("planar", ctypes.c_bool),
        ("out", ctypes.c_void_p),
        ("element", ctypes.c_int),
        ("interleaved", ctypes.c_bool),
        ("mean", ctypes.c_float * 3),
        ("scale", ctypes.c_float * 3),
    )


class PlaneBatch(ctypes.Structure):
    """fastclr::cuda::PlaneBatch."""

    _fields_ = (
        ("batch", Batch),
        ("channels", ctypes.c_int),
        ("mean", ctypes.c_float * 16),
        ("scale", ctypes.c_float * 16),
    )


class Sampler(ctypes.Structure):
    """fastclr::SamplerConfig: the operator's arguments, in the struct's order."""

    _fields_ = tuple((name, TYPES.get(name, ctypes.c_double)) for name in AugmentConfig(8).sampler())


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The harness, compiled without contraction to fma, like the real build."""
    target = tmp_path_factory.mktemp("emulation") / "emulated.so"
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    flags += os.environ.get("CXXFLAGS", "").split()  # for example -fsanitize=address, as for the library
    command = [str(COMPILER), *flags, f"-I{HERE / 'cuda_emulation'}", str(HERE / "cuda_emulation" / "harness.cpp")]
    subprocess.run([*command, "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def draw(kernels: ctypes.CDLL, ids: Tensor, sizes: Tensor, sampler: Mapping[str, float], views: int) -> Tensor:
    """augment_params by the emulated kernel, with seed 5, epoch 6, first view 7 and views of 40 pixels."""
    out = torch.full((views, len(ids), 16), -7.0)
    arguments = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (ids, sizes, out)]
    arguments += [ctypes.c_int64(value) for value in (len(ids), views, 5, 6, 7, 40)]
    assert kernels.emulate_params(*arguments, ctypes.byref(Sampler(**sampler))) == 0
    return out


def render(
    kernels: ctypes.CDLL,
    images: RaggedImages | Tensor,
    packed: Tensor,
    config: AugmentConfig,
    path: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    fit: int = 3,
) -> Tensor:
    """augment_apply by the emulated kernels; a tensor of images is planar."""
    if isinstance(images, Tensor):
        sizes = torch.tensor([images.shape[2:]] * len(images))
        offsets, data = torch.arange(len(images)) * images[0].numel(), images.reshape(-1)
    else:
        data, offsets, sizes = images.data, images.offsets, images.sizes
    size, channels = config.size, config.channels
    shape = (*packed.shape[:2], *((size, size, channels) if channels_last else (channels, size, size)))
    out = torch.full(shape, 77.0, dtype=dtype)
    batch = Batch(
        data.data_ptr(),
        data.numel(),
        offsets.data_ptr(),
        sizes.data_ptr(),
        packed.data_ptr(),
        *packed.shape[:2],
        size,
        config.style_code,
        isinstance(images, Tensor),
        out.data_ptr(),
        ELEMENTS[dtype],
        channels_last,
        *(
            []
            if path == PLANES
            else [config.mean or (0.0,) * 3, tuple(1 / value for value in config.std or (1.0,) * 3)]
        ),
    )
    if path == PLANES:
        scale = tuple(1 / value for value in config.std or (1.0,) * channels)
        planes = PlaneBatch(batch, channels, config.mean or (0.0,) * channels, scale)
        assert kernels.emulate_planes(ctypes.byref(planes), ctypes.c_int64(fit)) == 0
    else:
        assert kernels.emulate_apply(ctypes.byref(batch), path, ctypes.c_int64(fit)) == 0
    return out.permute(0, 1, 4, 2, 3) if channels_last else out


def pictures(shapes: list[tuple[int, int]], channels: int = 3) -> RaggedImages:
    """Random images of several sizes."""
    generator = torch.Generator().manual_seed(len(shapes))
    sizes = torch.tensor(shapes)
    counts = channels * sizes.prod(1)
    data = torch.randint(0, 256, (int(counts.sum()),), dtype=torch.uint8, generator=generator)
    return RaggedImages(data, counts.cumsum(0) - counts, sizes, channels)


SHAPES = [(32, 32), (1, 9), (60, 200), (13, 1), (2, 3), (90, 41)]


def test_augment_params_kernel(kernels: ctypes.CDLL) -> None:
    """The same bits as on the CPU; a row of NaN for invalid input."""
    ids, sizes = torch.randint(0, 2**63 - 1, (300,)), torch.randint(1, 2000, (300, 2))
    for config in (AugmentConfig(40, solarize_p=0.3), AugmentConfig(40, style="simclr_tf", blur_sigma_per_batch=True)):
        sampler = config.sampler()
        expected = ops.augment_params(ids, sizes, seed=5, epoch=6, first_view=7, views=3, size=40, sampler=sampler)
        assert torch.equal(draw(kernels, ids, sizes, sampler, 3), expected)
    ids[3], sizes[5, 0], sizes[8, 1] = -1, 0, 2**24 + 1
    rows = draw(kernels, ids, sizes, sampler, 3)
    assert rows[:, [3, 5, 8]].isnan().all()
    rows[:, [3, 5, 8]] = expected[:, [3, 5, 8]]
    assert torch.equal(rows, expected)


STYLES = [{}, {"style": "simclr_tf"}, {"style": "simclr_tf", "brightness": "additive"}]


@pytest.mark.parametrize(("size", "path"), [(7, SMALL), (32, SMALL), (50, SMALL), (7, LARGE), (50, LARGE)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_augment_apply_kernels(
    kernels: ctypes.CDLL, size: int, path: int, style: dict[str, str], dtype: torch.dtype
) -> None:
    """Bitwise equal to the CPU operator, because sums use the same order."""
    mean, std = ((0.5, 0.4, 0.3), (0.25, 0.5, 2.0)) if dtype != torch.uint8 else (None, None)
    config = AugmentConfig(size, jitter_p=0.9, blur_p=0.6, solarize_p=0.3, mean=mean, std=std, **style)
    images = pictures(SHAPES)
    for channels_last in (False, True):
        augment = SimCLRAugment(config, views=3, seed=size, dtype=dtype, channels_last=channels_last, impl="native")
        params = augment.params(torch.arange(len(images)), 1, images.sizes)
        ours = render(kernels, images, params.packed, config, path, dtype, channels_last)
        assert torch.equal(ours, augment.apply(images, params))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("channels", "dtype"), list(zip((1, 2, 4, 16), ELEMENTS, strict=True)))
def test_planes(kernels: ctypes.CDLL, channels: int, dtype: torch.dtype, style: dict[str, str]) -> None:
    """Any number of channels: bitwise equal to the CPU operator, in several passes, planar too."""
    plain = AugmentConfig(50, jitter_p=0.9, blur_p=0.6, solarize_p=0.3, **style).with_channels(channels)
    normal = {} if dtype == torch.uint8 else {"mean": (0.4,) * channels, "std": (0.3,) * channels}
    config = AugmentConfig(**{**vars(plain), **normal})
    images = pictures(SHAPES, channels)
    for channels_last in (False, True):
        augment = SimCLRAugment(config, views=2, seed=9, dtype=dtype, channels_last=channels_last, impl="native")
        params = augment.params(torch.arange(len(images)), 1, images.sizes)
        ours = render(kernels, images, params.packed, config, PLANES, dtype, channels_last, fit=7)
        assert torch.equal(ours, augment.apply(images, params))
    dense = torch.randint(0, 256, (2, channels, 50, 40), dtype=torch.uint8)
    params = augment.params(torch.arange(2), 0, (50, 40))
    assert torch.equal(render(kernels, dense, params.packed, config, PLANES, dtype, True), augment.apply(dense, params))


def test_large_views(kernels: ctypes.CDLL) -> None:
    """More columns than there are taps in shared memory, bands with fewer rows, and planar images."""
    config = AugmentConfig(1040, blur_p=1.0, jitter_p=1.0, blur_sigma=(3.0, 3.0))
    images = torch.randint(0, 256, (1, 3, 50, 40), dtype=torch.uint8)
    augment = SimCLRAugment(config, views=1, channels_last=False, impl="native")
    params = augment.params(torch.tensor([1]), 0, (50, 40))
    assert torch.equal(render(kernels, images, params.packed, config, LARGE), augment.apply(images, params))


def test_all_orders_and_single_operations(kernels: ctypes.CDLL) -> None:
    """Every order of the colour operations, so the contrast is at each position."""
    images = pictures([(20, 30)])
    packed = torch.zeros(25, 1, 16)
    packed[..., 2], packed[..., 3], packed[..., 9] = 20, 30, torch.arange(-1.0, 24.0)[:, None]
    packed[..., 5:9] = torch.tensor([1.5, 0.4, 1.7, 0.15])
    config = AugmentConfig(24)
    expected = SimCLRAugment(config, impl="native", channels_last=False).apply(images, AugmentParams(packed))
    for path in (SMALL, LARGE):
        assert torch.equal(render(kernels, images, packed, config, path), expected)


BAD = [
    (0, -1.0),
    (0, 40.0),
    (1, 0.5),
    (2, 0.0),
    (3, 2.0**31),
    (2, float("nan")),
    (9, 24.0),
    (9, 0.5),
    (9, float("nan")),
]
BAD += [(8, 0.6), (5, -1.0), (6, float("inf")), (11, 2e6), (11, float("nan"))]


@pytest.mark.parametrize(("path", "channels"), [(SMALL, 3), (LARGE, 3), (PLANES, 2)])
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_invalid_views_are_nan(kernels: ctypes.CDLL, path: int, channels: int, dtype: torch.dtype) -> None:
    """A bad row, offset or size gives a view of NaN, reads nothing outside the data and does not affect other views."""
    config = AugmentConfig(32, blur_p=1.0).with_channels(channels)
    images = pictures([(30, 40)] * (len(BAD) + 5), channels)
    augment = SimCLRAugment(config, views=2, dtype=dtype, channels_last=False, impl="native")
    params = augment.params(torch.arange(len(images)), 0, images.sizes)
    expected = augment.apply(images, params)
    packed, offsets, sizes = params.packed.clone(), images.offsets.clone(), images.sizes.clone()
    for n, (column, value) in enumerate(BAD):
        packed[1, n, column] = value
    offsets[-4], offsets[-3], sizes[-2], sizes[-1, 0] = -1, images.data.numel() - 1200 * channels + 1, 2**62, 0
    views = render(kernels, RaggedImages(images.data, offsets, sizes), packed, config, path, dtype)
    bad = torch.zeros(2, len(images), dtype=torch.bool)
    bad[1, : len(BAD)] = bad[:, -4:] = True
    assert views[bad].isnan().all() if dtype != torch.uint8 else not views[bad].any()
    assert torch.equal(views[~bad], expected[~bad])


def test_small_views_fit_the_devices(kernels: ctypes.CDLL) -> None:
    """32, 64 and 96 pixels fit into the shared memory of compute capability 8.0 and 9.0; 224 pixels do not."""
    for kib, expected in ((99, [32, 64]), (163, [32, 64, 96]), (227, [32, 64, 96])):
        limit = ctypes.c_int64(kib * 1024)
        assert [s for s in (32, 64, 96, 97, 224) if kernels.emulate_is_small(s, limit)] == expected


def test_launches_of_other_sizes_leave_the_shared_memory_that_one_needs(kernels: ctypes.CDLL) -> None:
    """The limit is a property of the function: one that a smaller launch lowered would fail a larger one beside it."""
    kernels.emulate_small_allowance.restype = ctypes.c_int64
    images = pictures([(20, 30)])
    for size in (90, 64):
        augment = SimCLRAugment(AugmentConfig(size), views=1, impl="native")
        packed = augment.params(torch.tensor([1]), 0, images.sizes).packed
        render(kernels, images, packed, augment.config, SMALL)
        assert kernels.emulate_small_allowance() == 227 * 1024


@pytest.mark.parametrize("style", STYLES[:2])
@pytest.mark.parametrize("width", [900, 2600])
def test_crops_wider_than_shared_memory(kernels: ctypes.CDLL, style: dict[str, str], width: int) -> None:
    """Of 900 columns two rows fit, of 2,600 in three channels not one: then each pixel mixes its own columns."""
    images = pictures([(5, width)] * 2)
    dense = images.data.view(2, 5, width, 3).permute(0, 3, 1, 2).contiguous()
    augment = SimCLRAugment(AugmentConfig(17, **style), views=2, channels_last=False, impl="native")
    params = augment.params(torch.arange(2), 0, images.sizes)
    params.packed[0, :, :4] = torch.tensor([0.0, 0.0, 5.0, width])
    for source in (images, dense):
        ours = render(kernels, source, params.packed, augment.config, LARGE)
        assert torch.equal(ours, augment.apply(source, params))
