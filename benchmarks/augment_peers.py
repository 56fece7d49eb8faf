"""SimCLR's augmentation as other libraries do it, with the same recipe, for bench_augment.py.

Each function takes a case and returns what computes two views of all its images. A library that is not installed raises
ModuleNotFoundError.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.images import RaggedImages

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Images uint8 [H, W, 3], and what to do with them."""

    name: str
    config: AugmentConfig
    images: list[Tensor]

    @property
    def window(self) -> int:
        """Size of the blur's kernel; 1 for none."""
        return 2 * (self.config.size // 10 // 2) + 1 if self.config.blur_p > 0 else 1


def as_batch(images: list[Tensor]) -> Tensor | RaggedImages:
    """One tensor if the sizes allow it, else one buffer."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(images)
    sizes = torch.tensor([image.shape[:2] for image in images])
    counts = 3 * sizes.prod(1)
    return RaggedImages(torch.cat([image.reshape(-1) for image in images]), counts.cumsum(0) - counts, sizes)


def fastclr(case: Case) -> Run:
    """One call for the batch."""
    augment = SimCLRAugment(case.config, views=2, impl="native")
    batch, ids, epochs = as_batch(case.images), torch.arange(len(case.images)), itertools.count()
    return lambda: augment(batch, ids, next(epochs))


def torchvision_steps(case: Case) -> list[Any]:
    """The transforms after the conversion to float, if there is one."""
    from torchvision.transforms import v2

    config = case.config
    steps: list[Any] = [v2.RandomResizedCrop(config.size, antialias=True), v2.RandomHorizontalFlip()]
    steps += [v2.RandomApply([v2.ColorJitter(*config.jitter)], p=config.jitter_p), v2.RandomGrayscale(config.gray_p)]
    if case.window > 1:
        steps.append(v2.RandomApply([v2.GaussianBlur(case.window, config.blur_sigma)], p=config.blur_p))
    return steps


def torchvision_float(case: Case) -> Run:
    """torchvision v2, image by image, in float32: the numbers of fastclr."""
    from torchvision.transforms import v2

    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), *torchvision_steps(case)])
    images = [image.permute(2, 0, 1).contiguous() for image in case.images]
    return lambda: torch.stack([transform(image) for _ in range(2) for image in images])


def torchvision_uint8(case: Case) -> Run:
    """torchvision v2, image by image, on bytes until the end: rounds after every step."""
    from torchvision.transforms import v2

    transform = v2.Compose([*torchvision_steps(case), v2.ToDtype(torch.float32, scale=True)])
    images = [image.permute(2, 0, 1).contiguous() for image in case.images]
    return lambda: torch.stack([transform(image) for _ in range(2) for image in images])


def kornia(case: Case) -> Run:
    """kornia on the batch; images of mixed sizes are cut to the smallest, for it takes no others."""
    import kornia.augmentation as K

    config, size = case.config, (case.config.size, case.config.size)
    b, c, s, h = config.jitter
    steps = [K.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio), K.RandomHorizontalFlip()]
    steps += [K.ColorJitter(b, c, s, h, p=config.jitter_p), K.RandomGrayscale(p=config.gray_p)]
    if case.window > 1:
        steps.append(K.RandomGaussianBlur((case.window, case.window), config.blur_sigma, p=config.blur_p))
    transform = torch.nn.Sequential(*steps)
    height, width = (min(image.shape[axis] for image in case.images) for axis in (0, 1))
    batch = torch.stack([image[:height, :width] for image in case.images]).permute(0, 3, 1, 2)
    return lambda: torch.stack([transform(batch / 255.0) for _ in range(2)])


def albumentations(case: Case) -> Run:
    """albumentations (OpenCV on bytes), image by image."""
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
    arrays = [image.numpy() for image in case.images]

    def run() -> Tensor:
        views = [torch.from_numpy(transform(image=array)["image"]) for _ in range(2) for array in arrays]
        return torch.stack(views).permute(0, 3, 1, 2) / 255.0

    return run


def dali(case: Case) -> Run:
    """DALI's CPU operators, the batch as one pipeline; its hue is a rotation in YIQ and its order fixed."""
    from nvidia.dali import fn, pipeline_def, types

    config = case.config
    b, c, s, h = config.jitter
    arrays = [image.numpy() for image in case.images]

    @pipeline_def(batch_size=len(arrays), num_threads=torch.get_num_threads(), device_id=None, seed=0)
    def pipeline() -> tuple[Any, ...]:
        source = fn.external_source(lambda: arrays, batch=True, layout="HWC")
        return tuple(view(source) for _ in range(2))

    def coin(p: float) -> Any:
        return fn.random.coin_flip(probability=p)

    def view(source: Any) -> Any:
        x = fn.random_resized_crop(source, size=(config.size, config.size), random_area=config.crop_scale)
        on = fn.cast(coin(config.jitter_p), dtype=types.FLOAT)
        factor = [1 + on * fn.random.uniform(range=(-min(x, 1.0), x)) for x in (b, c, s)]
        hue = on * fn.random.uniform(range=(-360 * h, 360 * h))
        x = fn.color_twist(x, brightness=factor[0], contrast=factor[1], saturation=factor[2], hue=hue)
        x = fn.hsv(x, saturation=1.0 - fn.cast(coin(config.gray_p), dtype=types.FLOAT))
        if case.window > 1:
            blur = fn.cast(coin(config.blur_p), dtype=types.FLOAT)
            x = fn.gaussian_blur(
                x, window_size=case.window, sigma=0.01 + blur * fn.random.uniform(range=config.blur_sigma)
            )
        return fn.crop_mirror_normalize(x, mirror=coin(config.flip_p), std=[255.0] * 3, dtype=types.FLOAT)

    built = pipeline()
    built.build()
    return lambda: torch.cat([torch.from_dlpack(output.as_tensor()) for output in built.run()])


PEERS: dict[str, Callable[[Case], Run]] = {
    "fastclr": fastclr,
    "torchvision-float": torchvision_float,
    "torchvision-uint8": torchvision_uint8,
    "kornia": kornia,
    "albumentations": albumentations,
    "dali": dali,
}
