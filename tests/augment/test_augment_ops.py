"""The operators themselves: contracts, fakes, compilation, and their own checks before a byte is read."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastclr.augment import AugmentConfig, SimCLRAugment, native

pytestmark = pytest.mark.skipif(
    not native.kernels("cpu").loaded, reason=f"the native library is {native.kernels('cpu').reason}"
)
SAMPLER = AugmentConfig(32).sampler()
IDS, SIZES = torch.arange(6), torch.tensor([[20, 30]] * 6)


def draw(**change: Any) -> Tensor:
    """Call fastclr::augment_params with some arguments changed."""
    arguments = {"ids": IDS, "sizes": SIZES, "seed": 0, "epoch": 0, "first_view": 0, "views": 2, "size": 32}
    packed: Tensor = torch.ops.fastclr.augment_params(**(arguments | SAMPLER | change))
    return packed


def render(**change: Any) -> Tensor:
    """Call fastclr::augment_apply with some arguments changed."""
    arguments = {
        "data": torch.arange(6 * 1800).to(torch.uint8),
        "offsets": IDS * 1800,
        "sizes": SIZES,
        "params": draw(),
        "size": 32,
        "style": 0,
        "planar": False,
        "mean": [],
        "std": [],
        "dtype": torch.float32,
        "channels_last": False,
    }
    views: Tensor = torch.ops.fastclr.augment_apply(**(arguments | change))
    return views


@pytest.mark.parametrize("name", list(native.SCHEMAS))
def test_schemas_have_one_text(name: str) -> None:
    """The library and the fallback for installations without it define the same operators."""
    operator = getattr(torch.ops.fastclr, name).default
    fallback = torch._C.parse_schema(f"fastclr::{name}{native.SCHEMAS[name]}")
    assert str(operator._schema) == str(fallback)


def test_opcheck() -> None:
    arguments = (IDS, SIZES, 3, 4, 0, 2, 32)
    torch.library.opcheck(torch.ops.fastclr.augment_params.default, arguments, SAMPLER)
    data, offsets = torch.arange(6 * 1800).to(torch.uint8), IDS * 1800
    for mean, std, dtype, channels_last in (
        ([], [], torch.float32, False),
        ([0.5] * 3, [0.2] * 3, torch.bfloat16, True),
    ):
        call = (data, offsets, SIZES, draw(), 32, 0, False, mean, std, dtype, channels_last)
        torch.library.opcheck(torch.ops.fastclr.augment_apply.default, call)


def test_fake_tensors() -> None:
    """Shapes, dtypes and strides without allocation, for any device."""
    with FakeTensorMode():
        data = torch.empty(5 * 1800, dtype=torch.uint8, device="cuda")
        ids, sizes = (torch.empty(shape, dtype=torch.int64, device="cuda") for shape in ((5,), (5, 2)))
        packed = torch.ops.fastclr.augment_params(ids, sizes, 0, 0, 0, 3, 16, **SAMPLER)
        views = torch.ops.fastclr.augment_apply(data, ids, sizes, packed, 16, 0, False, [], [], torch.float16, True)
    assert (packed.shape, packed.dtype, packed.device.type) == ((3, 5, 16), torch.float32, "cuda")
    assert (views.shape, views.dtype, views.device.type) == ((3, 5, 3, 16, 16), torch.float16, "cuda")
    assert views[0].is_contiguous(memory_format=torch.channels_last)


def test_compiles_into_one_graph() -> None:
    """torch.compile(fullgraph=True) gives the same bits, and no new graph per epoch or batch size."""
    augment = SimCLRAugment(32, impl="native")
    images = torch.randint(0, 256, (6, 20, 30, 3), dtype=torch.uint8)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(augment, fullgraph=True, backend=backend)
    for epoch in range(12):
        assert torch.equal(compiled(images, IDS, epoch), augment(images, IDS, epoch))
    for batch in (5, 4, 3):
        assert torch.equal(compiled(images[:batch], IDS[:batch], 7), augment(images[:batch], IDS[:batch], 7))
    assert len(graphs) <= 3
    inductor = torch.compile(augment, fullgraph=True, dynamic=False)
    assert torch.equal(inductor(images, IDS, 1), augment(images, IDS, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": IDS.int()}, "ids must be int64"),
        ({"ids": IDS[:, None]}, "ids must have one dimension, got 2"),
        ({"ids": IDS - 1}, r"ids\[0\] must not be negative, got -1"),
        ({"sizes": SIZES[:5]}, r"sizes must be \[6, 2\]"),
        ({"sizes": SIZES.float()}, "sizes must be int64"),
        ({"sizes": SIZES * 0}, "image 0 has a side of 0 pixels"),
        ({"sizes": SIZES << 24}, "image 0 has a side of 335544320 pixels, expected 1 to 16777216"),
        ({"epoch": -1}, "epoch must be 0 to 2.32 - 1, got -1"),
        ({"epoch": 2**32}, "epoch must be"),
        ({"views": 0}, "views must lie in 0 to 65535, got 0 from 0"),
        ({"first_view": 65535}, "views must lie in"),
        ({"size": 0}, "size must be 1 to 16384, got 0"),
        ({"style": -1}, "style must be 0 to 2, got -1"),
    ],
)
def test_augment_params_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        draw(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": torch.zeros(10800)}, r"data must be contiguous uint8 \[bytes\]"),
        ({"data": torch.zeros(21600, dtype=torch.uint8)[::2]}, "data must be contiguous"),
        ({"data": torch.zeros(10799, dtype=torch.uint8)}, "image 5 takes 1800 bytes from 9000 on, but data has 10799"),
        ({"offsets": IDS - 1}, "image 0 takes 1800 bytes from -1 on"),
        ({"offsets": IDS + 2**62}, "image 0 takes 1800 bytes from 4611686018427387904 on"),
        ({"offsets": IDS.int()}, "offsets must be int64"),
        ({"offsets": IDS[:5]}, r"sizes must be \[5, 2\]"),
        ({"sizes": torch.full((6, 2), 2**24)}, "image 0 takes 844424930131968 bytes"),
        ({"sizes": torch.full((6, 2), 2**62)}, "image 0 has a side of"),
        ({"params": torch.zeros(2, 5, 16)}, r"params must be \[views, 6, 16\]"),
        ({"params": torch.zeros(2, 6, 12)}, r"params must be \[views, 6, 16\]"),
        ({"params": torch.zeros(2, 6, 16).double()}, "params must be float32"),
        (
            {"params": torch.zeros(2, 6, 16)},
            r"params\[0, 0\]: crop box .*height 0.* is not inside the image of 20 x 30",
        ),
        ({"params": torch.full((2, 6, 16), math.nan)}, "crop box"),
        ({"size": 0}, "size must be 1 to 16384, got 0"),
        ({"mean": [0.5]}, "mean and std must both have 0 or 3 values, got 1 and 0"),
        ({"mean": [0.5] * 3, "std": [1.0, 0.0, 1.0]}, "std must be positive, got 0"),
        ({"dtype": torch.float64}, "dtype must be float32, bfloat16, float16 or uint8"),
        ({"dtype": torch.uint8, "mean": [0.5] * 3, "std": [1.0] * 3}, "uint8 views are not normalised"),
        ({"style": 3}, "style must be 0 to 2, got 3"),
    ],
)
def test_augment_apply_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        render(**change)


@pytest.mark.parametrize(
    "box",
    [
        *[(-1, 0, 5, 5), (0, -1, 5, 5), (16, 0, 5, 5), (0, 26, 5, 5), (0, 0, 21, 5), (0, 0, 5, 31)],
        *[(0, 0, 0, 5), (0, 0, 5, 0), (0.5, 0, 5, 5), (0, 0, 5, 1.5)],
        *[(math.inf, 0, 5, 5), (0, 0, math.nan, 5), (0, 2**31, 5, 2**31)],
    ],
)
def test_boxes_are_checked_natively(box: tuple[float, ...]) -> None:
    """Every limit, in the last image of the last view, without the Python checks."""
    params = torch.zeros(2, 6, 16)
    params[..., 2:4], params[..., 9] = 5.0, -1.0
    assert render(params=params).shape == (2, 6, 3, 32, 32)
    params[1, 5, :4] = torch.tensor(box)
    with pytest.raises(RuntimeError, match=r"params\[1, 5\]: crop box .* is not inside the image of 20 x 30"):
        render(params=params)


def test_strided_arguments() -> None:
    """Everything but the bytes may be strided."""
    wide = torch.stack([IDS * 1800, IDS], 1)
    params = draw()
    strided = params.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(render(offsets=wide[:, 0], params=strided, sizes=SIZES[:1].expand(6, 2)), render())
    assert torch.equal(draw(ids=wide[:, 1]), params)
    assert render(params=params[:0]).shape == (0, 6, 3, 32, 32)


def test_operators_exist_without_the_library() -> None:
    """A fresh process that cannot load the library still defines the operators, knows why, and initialises no CUDA."""
    code = """
import torch
def refuse(path):
    raise OSError(f"{path}: undefined symbol: broken")
torch.ops.load_library = refuse
from fastclr.augment import SimCLRAugment
from fastclr.augment import native
print(torch.ops.fastclr.augment_apply.default)
cpu = native.kernels("cpu")
assert not cpu.loaded and "undefined symbol: broken" in cpu.reason and cpu.remedy
assert "cpu library is missing" in native.kernels("cuda").reason
assert len(native.status()) == 3 and not torch.cuda.is_initialized()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "fastclr.augment_apply.default" in result.stdout


@pytest.mark.skipif(not native.kernels("cuda").loaded, reason=f"the CUDA library is {native.kernels('cuda').reason}")
@pytest.mark.parametrize("name", list(native.SCHEMAS))
def test_cuda_kernels_are_registered(name: str) -> None:
    """Loading the CUDA library needs no device, and registers the CUDA kernels of both operators."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastclr::{name}", "CUDA")
