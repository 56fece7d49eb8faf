"""Random shapes, offsets, strides, boxes and parameters: refused before a byte is read, or computed within bounds.

`make test-asan` runs this with every read and write checked; here, what is accepted must be what an independent
predicate accepts, and must not depend on the batch around it.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import pytest
import torch
from effort import EFFORT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_augment_cuda_emulated import LARGE, SMALL, kernels, render  # noqa: F401  # a fixture
from torch import Tensor

from fastclr.augment import AugmentConfig, native
from fastclr.augment.images import RaggedImages

pytestmark = pytest.mark.skipif(not native.kernels("cpu").loaded, reason="the native library is not built")
FUZZ = settings(max_examples=80 * EFFORT, deadline=None)
STYLES = [
    AugmentConfig(8, style=s, brightness=b) for s, b in (("torchvision", "multiplicative"), ("simclr_tf", "additive"))
]
STYLES.append(AugmentConfig(8, style="simclr_tf"))
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]
FACTORS = st.one_of(st.floats(0, 3, width=32), st.sampled_from([0.0, 1e-30, 1e6]))
SIGMAS = st.one_of(st.floats(0, 4, width=32), st.sampled_from([0.0, 1e-40, 1e-6, 1e6]))
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 300]))
ANY_FLOAT = st.one_of(st.floats(width=32), st.integers(-3, 50).map(float), st.sampled_from([2.0**24, 2.0**31, -0.0]))
ANY_INT = st.one_of(st.integers(-3, 60), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**24, 2**24 + 1, 2**62]))


def fixed(generator: np.random.Generator, count: int) -> Tensor:
    """Random bytes."""
    return torch.from_numpy(generator.integers(0, 256, count, dtype=np.uint8))


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Images with gaps and overlaps in a buffer that ends with the last image, and rows of valid parameters."""
    count, views = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    sizes = [(draw(SIDES), draw(SIDES)) for _ in range(count)]
    offsets = [draw(st.integers(0, 9)) for _ in range(count)]
    rows = np.zeros((views, count, 16), dtype=np.float32)
    for v, n in np.ndindex(views, count):
        height, width = draw(st.integers(1, sizes[n][0])), draw(st.integers(1, sizes[n][1]))
        box = (draw(st.integers(0, sizes[n][0] - height)), draw(st.integers(0, sizes[n][1] - width)), height, width)
        factors = [draw(FACTORS) for _ in range(3)]
        hue, order = draw(st.floats(-0.5, 0.5, width=32)), draw(st.integers(-1, 23))
        coins = [draw(st.booleans()) for _ in range(3)]
        rows[v, n] = [*box, coins[0], *factors, hue, order, coins[1], draw(SIGMAS), coins[2], 0, 0, 0]
    end = max(offset + 3 * h * w for offset, (h, w) in zip(offsets, sizes, strict=True))
    return {
        "data": fixed(np.random.default_rng(end), end),
        "offsets": torch.tensor(offsets),
        "sizes": torch.tensor(sizes),
        "params": torch.from_numpy(rows),
        "size": draw(st.integers(1, 70)),
        "style": draw(st.integers(0, 2)),
        "planar": draw(st.booleans()),
        "mean": [],
        "std": [],
        "dtype": draw(st.sampled_from(DTYPES)),
        "channels_last": draw(st.booleans()),
    }


@FUZZ
@given(batches())
def test_valid_batches(batch: dict[str, Any]) -> None:
    """Values in [0, 1] that are the same for strided arguments and for each image alone."""
    views = torch.ops.fastclr.augment_apply(**batch)
    assert views.shape == (*batch["params"].shape[:2], 3, batch["size"], batch["size"])
    if batch["dtype"] != torch.uint8:
        assert bool(((views >= 0) & (views <= 1.0001)).all())
    rows, sizes = batch["params"], batch["sizes"]
    strided = rows.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    places = torch.stack([batch["offsets"], batch["offsets"]], 1)[:, 0]
    change = {"params": strided, "offsets": places, "sizes": sizes.T.contiguous().T}
    assert torch.equal(torch.ops.fastclr.augment_apply(**(batch | change)), views)
    for n in range(len(sizes)):
        one = {"params": rows[:, n : n + 1], "offsets": batch["offsets"][n : n + 1], "sizes": sizes[n : n + 1]}
        assert torch.equal(torch.ops.fastclr.augment_apply(**(batch | one)), views[:, n : n + 1])


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """A valid batch with one value replaced by an arbitrary one."""
    batch = draw(batches())
    name = draw(st.sampled_from(["offsets", "sizes", "params", "params", "params"]))
    value = draw(ANY_FLOAT if name == "params" else ANY_INT)
    changed = batch[name].clone()
    changed.view(-1)[draw(st.integers(0, changed.numel() - 1))] = value
    return batch | {name: changed}


def is_valid(batch: dict[str, Any], view: int, image: int) -> bool:
    """The documented requirements on a row, its image's size and its offset, in plain Python numbers."""
    height, width = batch["sizes"][image].tolist()
    offset = int(batch["offsets"][image])
    if not (1 <= height <= 2**24 and 1 <= width <= 2**24 and offset >= 0):
        return False
    if offset + 3 * height * width > batch["data"].numel():
        return False
    top, left, rows, columns, _, b, c, s, hue, order, _, sigma, *_ = batch["params"][view, image].tolist()
    if not all(math.isfinite(x) for x in (top, left, rows, columns, b, c, s, hue, order, sigma)):
        return False
    if any(x != int(x) for x in (top, left, rows, columns, order)):
        return False
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        return False
    lowest = -1e6 if batch["style"] == 2 else 0.0
    factors = lowest <= b <= 1e6 and min(c, s, sigma) >= 0 and max(c, s, sigma) <= 1e6
    return factors and -1 <= order <= 23 and abs(hue) <= 0.5


@FUZZ
@given(spoiled())
def test_spoiled_batches(batch: dict[str, Any]) -> None:
    """The operator refuses exactly what is invalid."""
    views, images = batch["params"].shape[:2]
    if all(is_valid(batch, v, n) for v in range(views) for n in range(images)):
        torch.ops.fastclr.augment_apply(**batch)
    else:
        with pytest.raises(RuntimeError, match=r"image \d+ (takes|has a side)|params\[\d+, \d+\]"):
            torch.ops.fastclr.augment_apply(**batch)


@settings(max_examples=40 * EFFORT, deadline=None)
@given(spoiled(), st.sampled_from([SMALL, LARGE]))
def test_spoiled_batches_in_the_kernels(kernels: ctypes.CDLL, batch: dict[str, Any], path: int) -> None:  # noqa: F811
    """The CUDA kernels give NaN (bytes: 0) for exactly what is invalid, and the CPU operator's values for the rest."""
    style = {0: STYLES[0], 1: STYLES[2], 2: STYLES[1]}[batch["style"]]
    config = AugmentConfig(batch["size"], style=style.style, brightness=style.brightness)
    images = RaggedImages(batch["data"], batch["offsets"], batch["sizes"])
    dtype = batch["dtype"]
    ours = render(kernels, images, batch["params"], config, path, dtype, batch["channels_last"])
    for v, n in np.ndindex(*batch["params"].shape[:2]):
        if not is_valid(batch, v, n):
            assert bool(ours[v, n].isnan().all() if dtype != torch.uint8 else (ours[v, n] == 0).all())
            continue
        one = {"params": batch["params"][v : v + 1, n : n + 1], "planar": False}
        one |= {"offsets": batch["offsets"][n : n + 1], "sizes": batch["sizes"][n : n + 1]}
        assert torch.equal(ours[v, n], torch.ops.fastclr.augment_apply(**(batch | one))[0, 0])


@FUZZ
@given(
    st.lists(st.tuples(ANY_INT, ANY_INT, ANY_INT), min_size=1, max_size=4),
    st.tuples(ANY_INT, ANY_INT, ANY_INT),
    st.sampled_from(STYLES),
)
def test_params_of_anything(
    rows: list[tuple[int, int, int]], numbers: tuple[int, int, int], config: AugmentConfig
) -> None:
    """Arbitrary ids, sizes, epoch, first view and output size: the crop lies inside the image, or the call raises."""
    epoch, first_view, size = numbers
    ids, sizes = torch.tensor([row[0] for row in rows]), torch.tensor([row[1:] for row in rows])
    valid = 0 <= epoch < 2**32 and 0 <= first_view <= 65534 and 1 <= size <= 16384
    valid = valid and all(i >= 0 and 1 <= h <= 2**24 and 1 <= w <= 2**24 for i, h, w in rows)
    arguments = (ids, sizes, 3, epoch, first_view, 2, size)
    if not valid:
        with pytest.raises(RuntimeError, match=r"must|has a side"):
            torch.ops.fastclr.augment_params(*arguments, **config.sampler())
        return
    packed = torch.ops.fastclr.augment_params(*arguments, **config.sampler()).double()
    assert bool((packed[..., :2] >= 0).all() and (packed[..., 2:4] >= 1).all())
    assert bool((packed[..., :2] + packed[..., 2:4] <= sizes).all())
