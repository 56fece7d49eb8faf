"""SimCLR's augmentation in other libraries, as close to the same recipe as they allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.images import RaggedImages
from fastclr.bench.augment_cases import DTYPES, AugmentCase, check_pixels, check_views
from fastclr.bench.rows import Attempt, Contestant, Unsuitable

ONE_DRAW = "one draw of parameters for the whole batch: not SimCLR's distribution"


def contestants(case: AugmentCase) -> list[Contestant]:
    """Return all contestants, fastclr first."""
    cpu = case.device == "cpu"
    uint8_note = "rounds to bytes after every step"
    per_image = "image by image" if cpu else ONE_DRAW
    found = [
        Contestant("fastclr", lambda: fastclr(case)),
        Contestant("torchvision-float", lambda: torchvision(case, True), ("torchvision",), per_image),
    ]
    if cpu:
        found.append(
            Contestant(
                "torchvision-uint8", lambda: torchvision(case, False), ("torchvision",), f"{per_image}; {uint8_note}"
            )
        )
    return [
        *found,
        Contestant(
            "kornia", lambda: kornia(case), ("kornia",), "mixed sizes are cut to the smallest; one order of jitter"
        ),
        Contestant(
            "albumentations", lambda: albumentations(case), ("albumentations",), f"OpenCV on bytes; {uint8_note}"
        ),
        Contestant(
            "dali", lambda: dali(case), ("nvidia-dali-cuda130",), "hue as a rotation in YIQ, one order of jitter"
        ),
        Contestant(
            "triton-augment", lambda: triton_augment(case), ("triton-augment",), "no resize, hue or blur: does less"
        ),
    ]


def _attempt(case: AugmentCase, views: Callable[[], Tensor], count: int, error: Callable[[], float | None]) -> Attempt:
    def check() -> float | None:
        check_views(case, views(), count)
        return error()

    return Attempt({"augment": lambda _: views()}, check, 2 * count)


def _slow(case: AugmentCase, views_of: Callable[[list[Tensor]], Callable[[], Tensor]]) -> Attempt:
    return _attempt(case, views_of(case.images(case.slow_count)), case.slow_count, lambda: None)


def as_batch(images: list[Tensor]) -> Tensor | RaggedImages:
    """Return one tensor if all images have the same size, else one buffer."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(images)
    sizes = torch.tensor([image.shape[:2] for image in images])
    counts = 3 * sizes.prod(1)
    return RaggedImages(torch.cat([image.reshape(-1) for image in images]), counts.cumsum(0) - counts, sizes)


def fastclr(case: AugmentCase) -> Attempt:
    """`SimCLRAugment`: one call for the batch."""
    device = torch.device(case.device)
    if not SimCLRAugment.supports(device):
        raise Unsuitable(f"the operator is not built for {device}: `fastclr info` says why")
    augment = SimCLRAugment(case.config, views=2, impl="native", dtype=DTYPES[case.dtype])
    batch, epochs = as_batch(case.images(case.count)).to(case.device), itertools.count()
    ids = torch.arange(case.count, device=device)
    return _attempt(case, lambda: augment(batch, ids, next(epochs)), case.count, lambda: check_pixels(case))


def torchvision_steps(config: AugmentConfig, window: int) -> list[Any]:
    """Return torchvision's transforms, without conversions; `window` is the size of the blur kernel, 1 for no blur."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomResizedCrop(config.size, scale=config.crop_scale, antialias=True)]
    steps += [v2.RandomHorizontalFlip(config.flip_p)]
    steps += [v2.RandomApply([v2.ColorJitter(*config.jitter)], p=config.jitter_p), v2.RandomGrayscale(config.gray_p)]
    if window > 1:
        steps.append(v2.RandomApply([v2.GaussianBlur(window, config.blur_sigma)], p=config.blur_p))
    return steps


def torchvision(case: AugmentCase, as_float: bool) -> Attempt:
    """torchvision v2: image by image on a CPU (in float32 it computes what fastclr does), per batch on a GPU."""
    from torchvision.transforms import v2

    dtype = DTYPES[case.dtype]
    convert = v2.ToDtype(dtype, scale=True)
    steps = torchvision_steps(case.config, case.window)
    transform = v2.Compose([convert, *steps] if as_float else [*steps, convert])

    def views_of(images: list[Tensor]) -> Callable[[], Tensor]:
        planar = [image.permute(2, 0, 1).contiguous() for image in images]
        if case.device == "cpu":
            return lambda: torch.stack([transform(image) for _ in range(2) for image in planar])
        batch = torch.stack(planar).to(case.device)
        return lambda: torch.stack([transform(batch) for _ in range(2)])

    return _slow(case, views_of)


def kornia(case: AugmentCase) -> Attempt:
    """kornia on the whole batch, in float32."""
    import kornia.augmentation as K

    config, size = case.config, (case.config.size, case.config.size)
    b, c, s, h = config.jitter
    steps = [K.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio), K.RandomHorizontalFlip()]
    steps += [K.ColorJitter(b, c, s, h, p=config.jitter_p), K.RandomGrayscale(p=config.gray_p)]
    if case.window > 1:
        steps.append(K.RandomGaussianBlur((case.window, case.window), config.blur_sigma, p=config.blur_p))
    transform = torch.nn.Sequential(*steps)
    images = case.images(case.count)
    height, width = (min(image.shape[axis] for image in images) for axis in (0, 1))
    batch = torch.stack([image[:height, :width] for image in images]).permute(0, 3, 1, 2).to(case.device)
    dtype = DTYPES[case.dtype]
    views = lambda: torch.stack([transform(batch / 255.0) for _ in range(2)]).to(dtype)  # noqa: E731
    return _attempt(case, views, case.count, lambda: None)


def albumentations(case: AugmentCase) -> Attempt:
    """albumentations, image by image."""
    _cpu_only(case)
    import albumentations as A

    config, size = case.config, (case.config.size, case.config.size)
    b, c, s, h = config.jitter
    factors = [(max(0.0, 1 - x), 1 + x) for x in (b, c, s)]
    steps = [A.RandomResizedCrop(size=size, scale=config.crop_scale, ratio=config.crop_ratio), A.HorizontalFlip()]
    steps += [A.ColorJitter(*factors, (-h, h), p=config.jitter_p), A.ToGray(p=config.gray_p)]
    if case.window > 1:
        window = (case.window, case.window)
        steps.append(A.GaussianBlur(blur_limit=window, sigma_limit=config.blur_sigma, p=config.blur_p))
    transform = A.Compose(steps)

    def views_of(images: list[Tensor]) -> Callable[[], Tensor]:
        arrays = [image.numpy() for image in images]

        def views() -> Tensor:
            made = [torch.from_numpy(transform(image=array)["image"]) for _ in range(2) for array in arrays]
            return torch.stack(made).permute(0, 3, 1, 2) / 255.0

        return views

    return _slow(case, views_of)


def dali(case: AugmentCase) -> Attempt:
    """DALI's operators, the batch as one pipeline."""
    nvidia: Any = import_module("nvidia.dali")
    fn: Any = import_module("nvidia.dali.fn")
    arrays = [image.numpy() for image in case.images(case.count)]
    on_gpu = case.device != "cpu"
    options = {"num_threads": torch.get_num_threads(), "device_id": 0 if on_gpu else None, "seed": 0}
    built = nvidia.Pipeline(batch_size=len(arrays), prefetch_queue_depth=IN_FLIGHT, **options)
    with built:
        source = fn.external_source(lambda: arrays, batch=True, layout="HWC")
        source = source.gpu() if on_gpu else source
        built.set_outputs(*(dali_view(case.config, case.window, source) for _ in range(2)))
    dali_start(built)
    dtype = DTYPES[case.dtype]

    def views() -> Tensor:
        (made,) = (torch.cat(dali_tensors(outputs)).to(dtype) for outputs in dali_runs(built, 1))
        return made

    return _attempt(case, views, case.count, lambda: None)


IN_FLIGHT = 2  # runs of a DALI pipeline in flight at a time, DALI's own default


def dali_start(pipeline: Any) -> None:
    """Build a pipeline and consume the runs that DALI prefetches with the first one."""
    pipeline.build()
    pipeline.schedule_run()
    for _ in range(IN_FLIGHT):
        pipeline.share_outputs()
        pipeline.release_outputs()


def dali_runs(pipeline: Any, count: int) -> Iterator[Any]:
    """Yield the outputs of `count` runs of a started DALI pipeline; copy each before asking for the next.

    `Pipeline.run` would prefetch further runs, which would continue in the background during the other contestants'
    turns.
    """
    for _ in range(min(IN_FLIGHT, count)):
        pipeline.schedule_run()
    for index in range(count):
        yield pipeline.share_outputs()
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the caller's copies must end before DALI reuses the memory
        pipeline.release_outputs()
        if index + IN_FLIGHT < count:
            pipeline.schedule_run()


def dali_tensors(outputs: Any) -> list[Tensor]:
    """Return the outputs of a run as tensors that share their memory."""
    return [from_dlpack(output.as_tensor()) for output in outputs]


def dali_view(config: AugmentConfig, window: int, source: Any) -> Any:
    """Return the graph of one view of HWC DALI images; `window` is the size of the blur kernel, 1 for no blur."""
    fn: Any = import_module("nvidia.dali.fn")
    float_type = import_module("nvidia.dali.types").FLOAT

    def coin(p: float) -> Any:
        return fn.random.coin_flip(probability=p)

    def between(low: float, high: float) -> Any:
        return fn.random.uniform(range=(low, high))

    b, c, s, h = config.jitter
    x = fn.random_resized_crop(source, size=(config.size, config.size), random_area=config.crop_scale)
    on = fn.cast(coin(config.jitter_p), dtype=float_type)
    factor = [1 + on * between(-min(strength, 1.0), strength) for strength in (b, c, s)]
    hue = on * between(-360 * h, 360 * h)
    x = fn.color_twist(x, brightness=factor[0], contrast=factor[1], saturation=factor[2], hue=hue)
    x = fn.hsv(x, saturation=1.0 - fn.cast(coin(config.gray_p), dtype=float_type))
    if window > 1:
        blur = fn.cast(coin(config.blur_p), dtype=float_type)
        x = fn.gaussian_blur(x, window_size=window, sigma=0.01 + blur * between(*config.blur_sigma))
    return fn.crop_mirror_normalize(x, mirror=coin(config.flip_p), std=[255.0] * 3, dtype=float_type)


def triton_augment(case: AugmentCase) -> Attempt:
    """TritonFusedAugment of triton-augment: random crop without resize, flip, three of the four jitters, grayscale."""
    transforms: Any = import_module("triton_augment")
    if case.device == "cpu":
        raise Unsuitable("runs on CUDA devices only")
    config = case.config
    b, c, s, _ = config.jitter
    transform = transforms.TritonFusedAugment(
        crop_size=config.size,
        horizontal_flip_p=config.flip_p,
        brightness=b,
        contrast=c,
        saturation=s,
        grayscale_p=config.gray_p,
    )
    batch, dtype = torch.stack(case.images(case.count)).permute(0, 3, 1, 2).to(case.device), DTYPES[case.dtype]

    def views() -> Tensor:
        return torch.stack([transform((batch / 255.0).to(dtype)) for _ in range(2)])

    return _attempt(case, views, case.count, lambda: None)


def _cpu_only(case: AugmentCase) -> None:
    if case.device != "cpu":
        raise Unsuitable("runs on CPUs only")
