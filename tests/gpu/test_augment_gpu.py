"""The augmentation on a CUDA device: parameters equal the CPU's bitwise, images within 2e-6."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastclr.augment import AugmentConfig, AugmentParams, SimCLRAugment
from fastclr.augment.images import RaggedImages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TOLERANCE = 2e-6
SHAPES = [(32, 32), (1, 9), (375, 500), (13, 1), (2, 3), (90, 401), (1200, 37)]


def everything(size: int, **change: object) -> AugmentConfig:
    """A configuration in which every operation happens often."""
    return AugmentConfig(size, **({"jitter_p": 0.9, "blur_p": 0.6, "solarize_p": 0.3} | change))  # type: ignore[arg-type]


def pictures(shapes: list[tuple[int, int]] = SHAPES) -> RaggedImages:
    """Random images of several sizes, on the CPU."""
    sizes = torch.tensor(shapes)
    counts = 3 * sizes.prod(1)
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (int(counts.sum()),), dtype=torch.uint8, generator=generator)
    return RaggedImages(data, counts.cumsum(0) - counts, sizes)


def dense(count: int, height: int, width: int) -> Tensor:
    """Random uint8 [count, height, width, 3] images on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def check(augment: SimCLRAugment, images: Tensor | RaggedImages, params: AugmentParams) -> None:
    """Compare the device with the CPU, on the CPU's parameters."""
    expected = augment.apply(images, params)
    views = augment.apply(images.to("cuda"), params.to("cuda"))
    assert (views.dtype, views.shape, views.stride()) == (expected.dtype, expected.shape, expected.stride())
    difference = (views.cpu().double() - expected.double()).abs()
    if views.dtype == torch.float32:
        assert float(difference.max()) <= TOLERANCE
    else:
        assert float(difference.max()) <= (1.0 if views.dtype == torch.uint8 else 1 / 255)
        assert float((difference > 0).double().mean()) < 0.01  # a value occasionally rounds the other way


@pytest.mark.parametrize("size", [16, 32, 224])
def test_augment_params_has_the_same_bits(size: int) -> None:
    ids = torch.randint(0, 2**63 - 1, (5000,))
    sizes = torch.randint(1, 3000, (5000, 2))
    for config in (everything(size), AugmentConfig(size, crop_ratio=(3.0, 4.0), blur_sigma=(0.5, 9.0))):
        augment = SimCLRAugment(config, views=3, seed=2**40 + 7, impl="native")
        expected = augment.params(ids, 2**32 - 1, sizes).packed
        assert torch.equal(augment.params(ids.cuda(), 2**32 - 1, sizes.cuda()).packed.cpu(), expected)


@pytest.mark.parametrize("size", [7, 32, 64, 96, 128, 224, 1040])
def test_augment_apply_ragged(size: int) -> None:
    images = pictures()
    augment = SimCLRAugment(everything(size), views=4 if size < 1000 else 1, seed=size, impl="native")
    check(augment, images, augment.params(torch.arange(len(images)), 3, images.sizes))


@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("brightness", ["multiplicative", "additive"])
def test_augment_apply_simclr_tf(size: int, brightness: str) -> None:
    images = pictures()
    config = everything(size, style="simclr_tf", brightness=brightness, blur_sigma_per_batch=True)
    augment = SimCLRAugment(config, views=3, seed=size, impl="native")
    ids = torch.arange(len(images))
    params = augment.params(ids, 3, images.sizes)
    assert torch.equal(augment.params(ids.cuda(), 3, images.sizes.cuda()).packed.cpu(), params.packed)
    check(augment, images, params)


@pytest.mark.parametrize("size", [32, 224])
def test_augment_apply_layouts(size: int) -> None:
    """Dense, planar, channels_last, and rows of a dataset."""
    images = dense(9, 60, 70)
    augment = SimCLRAugment(everything(size), impl="native")
    params = augment.params(torch.arange(9), 0, (60, 70))
    planar = images.permute(0, 3, 1, 2).contiguous()
    for batch in (images, planar, planar.contiguous(memory_format=torch.channels_last)):
        check(augment, batch, params)
    rows = torch.tensor([8, 0, 3])
    part = AugmentParams(params.packed[:, rows])
    views = augment.apply(images.cuda(), part.to("cuda"), rows.cuda())
    assert torch.equal(views, augment.apply(images.cuda(), params.to("cuda"))[:, rows.cuda()])


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_augment_apply_outputs(size: int, dtype: torch.dtype, channels_last: bool) -> None:
    images = pictures()
    augment = SimCLRAugment(everything(size), dtype=dtype, channels_last=channels_last, impl="native")
    params = augment.params(torch.arange(len(images)), 1, images.sizes)
    check(augment, images, params)
    if dtype == torch.uint8:
        return
    normalised = everything(size, mean=(0.5, 0.4, 0.3), std=(1.0, 1.5, 2.0))
    check(SimCLRAugment(normalised, dtype=dtype, channels_last=channels_last, impl="native"), images, params)


@pytest.mark.parametrize("size", [32, 224])
def test_invalid_views_are_nan(size: int) -> None:
    """Values that the CPU refuses give NaN, without reading outside the data."""
    images = pictures([(30, 40)] * 8)
    augment = SimCLRAugment(size, impl="native")
    params = augment.params(torch.arange(8), 0, images.sizes).to("cuda")
    device = images.to("cuda")
    expected = augment.apply(device, params)
    packed, offsets, sizes = params.packed.clone(), device.offsets.clone(), device.sizes.clone()
    packed[0, 0, 0], packed[1, 1, 9], packed[0, 2, 3] = -1.0, 24.0, float("nan")
    offsets[4], offsets[5], sizes[6], sizes[7, 0] = -1, 2**62, 2**62, 0
    views = augment.apply(RaggedImages(device.data, offsets, sizes), AugmentParams(packed))
    bad = torch.zeros(2, 8, dtype=torch.bool)
    bad[0, 0] = bad[1, 1] = bad[0, 2] = True
    bad[:, 4:] = True
    assert views[bad].isnan().all()
    assert torch.equal(views[~bad], expected[~bad])
    ids = torch.tensor([1, -1, 2], device="cuda")
    rows = augment.params(ids, 0, torch.tensor([[8, 8], [8, 8], [0, 8]], device="cuda")).packed
    assert rows.isnan().all(-1).tolist() == [[False, True, True]] * 2


@pytest.mark.parametrize("size", [32, 224])
def test_no_wait_for_the_device(size: int) -> None:
    """Neither the operators nor the module around them synchronise with the device."""
    images, ids = dense(4, 50, 50).cuda(), torch.arange(4, device="cuda")
    ragged = pictures([(50, 50)] * 4).to("cuda")
    augment = SimCLRAugment(everything(size), impl="native")
    augment(images, ids, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for epoch in range(3):
            augment(images, ids, epoch)
            augment(images, ids, epoch, indices=ids)
            augment(ragged, ids, epoch)
            augment.apply(images, augment.params(ids, epoch, (50, 50)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("size", [32, 224])
def test_graph_capture(size: int) -> None:
    """A replayed capture uses the tensors' contents at replay."""
    images, ids = dense(6, 50, 50).cuda(), torch.arange(6, device="cuda")
    augment = SimCLRAugment(everything(size), impl="native")
    augment(images, ids, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        views = augment(images, ids, 5)
    for shift in (0, 10):
        ids.copy_(torch.arange(6) + shift)
        images.copy_(dense(6, 50, 50).roll(shift, 0))
        graph.replay()
        assert torch.equal(views, augment(images, ids, 5))


@pytest.mark.parametrize("size", [32, 224])
def test_other_streams(size: int) -> None:
    """Work runs on the current stream, so a result read on that stream is complete."""
    images, ids = dense(64, 50, 50).cuda(), torch.arange(64, device="cuda")
    augment = SimCLRAugment(everything(size), impl="native")
    expected = augment(images, ids, 0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = images.clone()  # after the sleep: a kernel on another stream would read the memory before
        views = augment(late, ids, 0)
        total = views.sum()
    stream.synchronize()
    assert torch.equal(views, expected)
    assert torch.equal(total, expected.sum())


def test_big_batches() -> None:
    """More views than a pass holds, more bytes of views than 2^31, and no dependence on the batch."""
    images, ids = dense(2000, 40, 40).cuda(), torch.arange(2000, device="cuda")
    augment = SimCLRAugment(everything(224), views=2, dtype=torch.bfloat16, impl="native")
    views = augment(images, ids, 0)
    for n in (0, 999, 1999):
        assert torch.equal(views[:, n : n + 1], augment(images[n : n + 1], ids[n : n + 1], 0))
    small = SimCLRAugment(everything(32), impl="native")
    images, ids = dense(1000, 32, 32).cuda().repeat(100, 1, 1, 1), torch.arange(100_000, device="cuda")
    views = small(images, ids, 0)
    assert torch.equal(views[:, -1:], small(images[-1:], ids[-1:], 0))


def test_a_call_is_deterministic() -> None:
    images, ids = pictures().to("cuda"), torch.arange(len(SHAPES), device="cuda")
    for size in (32, 224):
        augment = SimCLRAugment(everything(size), impl="native")
        first = augment(images, ids, 0)
        assert all(torch.equal(augment(images, ids, 0), first) for _ in range(5))
