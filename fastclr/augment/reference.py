"""The specification of the augmentation: the sampler in NumPy, pixels by reference_torchvision.py or reference_tf.py.

Both functions take the arguments of the operators in `fastclr.augment.op`. The sampler matches the native ones bit for
bit because every step is a correctly rounded IEEE double operation. Pixels are accurate to the rounding of the compute
type, float64 included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastclr.augment import reference_tf, reference_torchvision

Doubles = NDArray[np.float64]
Words = NDArray[np.uint32]


# the operators' style codes: torchvision, SimCLR's TensorFlow code with multiplicative (v2) or additive (v1) brightness
TORCHVISION, SIMCLR_TF, SIMCLR_TF_ADDITIVE = 0, 1, 2
NO_ID = 2**64 - 1  # the id of draws that all samples share


# index -> permutation of the colour operations (0 brightness, 1 contrast, 2 saturation, 3 hue), in lexicographic order
ORDERS: tuple[tuple[int, ...], ...] = tuple(permutations(range(4)))
CROP_ATTEMPTS = 10


def philox(counter: Sequence[NDArray[Any]], key: Sequence[NDArray[Any]]) -> list[Words]:
    """One block of Philox4x32-10 per element.

    Args:
        counter: four arrays of 32-bit words that broadcast together.
        key: two arrays of 32-bit words.

    Returns:
        Four uint32 arrays.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    mask = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (np.asarray(word).astype(np.uint64) for word in counter)
    k0, k1 = (np.asarray(word).astype(np.uint64) for word in key)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & mask, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return [word.astype(np.uint32) for word in np.broadcast_arrays(c0, c1, c2, c3)]


def uniform(word: Words) -> Doubles:
    """Map 32-bit words to [0, 1): the top 24 bits times 2^-24."""
    return (word >> np.uint32(8)).astype(np.float64) * (1.0 / 16777216.0)


def between(word: Words, lo: float, hi: float) -> Doubles:
    """Map 32-bit words to [lo, hi)."""
    return lo + uniform(word) * (hi - lo)


def pick(word: Words, count: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Map 32-bit words to the integers 0..count-1 by the high half of a product."""
    return ((word.astype(np.uint64) * np.asarray(count).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def exp_exact(x: Doubles) -> Doubles:
    """exp(x) for x <= 700 from correctly rounded operations: 2^k times a Taylor polynomial on |r| <= ln(2) / 2."""
    k = np.rint(x * 1.4426950408889634)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    p = np.ones_like(r)
    for n in range(13, 0, -1):
        p = 1.0 + p * r / float(n)
    return np.ldexp(p, k.astype(np.int64))


def _boxes(words: Callable[[int], list[Words]], sizes: NDArray[np.int64], sampler: Mapping[str, float]) -> NDArray[Any]:
    """Crop boxes [V, N, 4] as torchvision's RandomResizedCrop.get_params draws them."""
    height, width = sizes[:, 0], sizes[:, 1]
    h, w = height.astype(np.float64), width.astype(np.float64)
    ratio_lo, ratio_hi = sampler["crop_ratio_lo"], sampler["crop_ratio_hi"]
    # start from the fallback and go backwards, so that the first attempt that fits wins
    bh = np.where(w / h < ratio_lo, np.rint(w / ratio_lo), h)
    bw = np.where(w / h > ratio_hi, np.rint(h * ratio_hi), w)
    bh, bw = np.maximum(bh, 1.0).astype(np.int64), np.maximum(bw, 1.0).astype(np.int64)
    box = np.stack([(height - bh) // 2, (width - bw) // 2, bh, bw], axis=-1)
    for attempt in reversed(range(CROP_ATTEMPTS)):
        random = words(attempt)
        area = h * w * between(random[0], sampler["crop_scale_lo"], sampler["crop_scale_hi"])
        aspect = exp_exact(between(random[1], sampler["log_ratio_lo"], sampler["log_ratio_hi"]))
        box_w, box_h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (box_w > 0) & (box_w <= w) & (box_h > 0) & (box_h <= h)
        bw, bh = np.where(fits, box_w, 1.0).astype(np.int64), np.where(fits, box_h, 1.0).astype(np.int64)
        drawn = np.stack([pick(random[2], height - bh + 1), pick(random[3], width - bw + 1), bh, bw], axis=-1)
        box = np.where(fits[..., None], drawn, box)
    return box


def augment_params(
    ids: Tensor,
    sizes: Tensor,
    *,
    seed: int,
    epoch: int,
    first_view: int,
    views: int,
    size: int,
    sampler: Mapping[str, float],
) -> Tensor:
    """Draw packed parameters: float32 ``[views, N, 16]`` from int64 `ids` ``[N]`` and `sizes` ``[N, 2]``.

    Word j of block b is ``philox((b | view << 16, epoch, id_lo, id_hi), (seed_lo, seed_hi))[j]``. Blocks 0 to 9 are the
    crop's attempts (area, log ratio, top, left), blocks 256 to 355 those of the TensorFlow styles (ratio, height,
    top, left); block 16 holds flip, jitter coin, order, grey coin; block 17 brightness, contrast, saturation, hue;
    block 18 blur coin, sigma, solarise coin. A sigma shared by all samples uses id 2^64 - 1.

    Source of the distributions: torchvision's RandomResizedCrop, ColorJitter, RandomGrayscale and GaussianBlur, or
    SimCLR's TensorFlow code.
    """
    samples = ids.detach().cpu().numpy().astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    view = np.arange(first_view, first_view + views, dtype=np.uint64)[:, None] << np.uint64(16)

    def words(block: int, ids: NDArray[np.uint64] = samples) -> list[Words]:
        counter = [view | np.uint64(block), np.array(epoch), ids & low, ids >> np.uint64(32)]
        return philox(counter, [np.array(seed & 0xFFFFFFFF), np.array(seed >> 32)])

    coins, colour, rest = words(16), words(17), words(18)
    jitter = uniform(coins[1]) < sampler["jitter_p"]
    packed = np.zeros((views, len(samples), 16), dtype=np.float32)
    sides = sizes.detach().cpu().numpy()
    if sampler["style"] == TORCHVISION:
        packed[..., 0:4] = _boxes(words, sides, sampler)
    else:
        packed[..., 0:4] = reference_tf.boxes(words, between, pick, sides, sampler)
    packed[..., 4] = uniform(coins[0]) < sampler["flip_p"]
    for column, strength in enumerate(("brightness", "contrast", "saturation")):
        factor = between(colour[column], max(1.0 - sampler[strength], 0.0), 1.0 + sampler[strength])
        packed[..., 5 + column] = np.where(jitter, factor, 1.0)
    if sampler["style"] == SIMCLR_TF_ADDITIVE:
        summand = between(colour[0], -sampler["brightness"], sampler["brightness"])
        packed[..., 5] = np.where(jitter, summand, 0.0)
    packed[..., 8] = np.where(jitter, between(colour[3], -sampler["hue"], sampler["hue"]), 0.0)
    packed[..., 9] = np.where(jitter, pick(coins[2], 24), -1)
    packed[..., 10] = uniform(coins[3]) < sampler["gray_p"]
    if size // 10 // 2 > 0:
        shared = words(18, np.array(NO_ID, dtype=np.uint64)) if sampler["blur_sigma_per_batch"] else rest
        sigma = between(shared[1], sampler["blur_sigma_lo"], sampler["blur_sigma_hi"])
        packed[..., 11] = np.where(uniform(rest[0]) < sampler["blur_p"], sigma, 0.0)
    packed[..., 12] = uniform(rest[2]) < sampler["solarize_p"]
    return torch.from_numpy(packed).to(ids.device)


def augment_apply(
    data: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    params: Tensor,
    *,
    size: int,
    style: int,
    planar: bool,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    channels: int = 3,
) -> Tensor:
    """Compute views one by one, operation by operation; the arguments are those of `fastclr.augment.op.augment_apply`.

    `dtype` may also be float64; the 16-bit types and uint8 are computed in float32 and rounded at the end. Unless there
    are three channels, each is replayed as a grey image.
    """
    compute = dtype if dtype == torch.float64 else torch.float32
    views = torch.empty((*params.shape[:2], channels, size, size), dtype=dtype, device=data.device)
    for n, (offset, (height, width)) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        pixels = data[offset : offset + channels * height * width]
        image = (
            pixels.view(channels, height, width) if planar else pixels.view(height, width, channels).permute(2, 0, 1)
        )
        image = image.to(compute).contiguous() / 255
        for v, row in enumerate(params[:, n].tolist()):
            parts = []
            for part in [image] if channels == 3 else image.split(1):
                if style == TORCHVISION:
                    parts.append(reference_torchvision.replay(part, row, size))
                else:
                    parts.append(reference_tf.replay(part, row, size, style == SIMCLR_TF_ADDITIVE))
            view = torch.cat(parts)
            if mean:
                view = (view - view.new_tensor(mean)[:, None, None]) / view.new_tensor(std)[:, None, None]
            views[v, n] = (view.clamp(0, 1) * 255 + 0.5).floor() if dtype == torch.uint8 else view
    if channels_last:
        return views.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return views
