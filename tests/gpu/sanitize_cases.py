"""Every kernel once, on small inputs with partial tiles, for compute-sanitizer.

``python sanitize_cases.py loss|augment`` prints one line per case. Sizes are not multiples of a tile. With
PYTORCH_NO_CUDA_MEMORY_CACHING=1 each tensor is a separate allocation, so that an access beyond its end is out of
bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fastclr import nt_xent
from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.augment.images import RaggedImages
from fastclr.losses import CLIPLoss, DCLLoss, NTLogisticLoss, SigLIPLoss, SupConLoss, contrast_op

Call = Callable[[], object]
Case = tuple[str, Call]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# 2,048 rows or more take the triangular forward
LOSSES = {
    "triangular": (1027, {}),
    "rectangular": (131, {"deterministic": True}),
    "online maximum": (131, {"temperature": 0.001}),
    "statistics": (131, {"return_stats": True}),
    "rows": (131, {"reduction": "none"}),
    "unit rows": (67, {"normalize": False}),
}
ROW_LOSSES: dict[str, tuple[type[torch.nn.Module], bool]] = {
    "CLIP": (CLIPLoss, False),
    "SupCon": (SupConLoss, True),
    "DCL": (DCLLoss, False),
}


PAIR_LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "SigLIP": SigLIPLoss,
    "NT-Logistic": partial(NTLogisticLoss, negatives="both_views"),
}


def views(pairs: int, dim: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Two related views of unit rows, as leaves."""
    base = torch.randn(pairs, dim)
    both = [torch.nn.functional.normalize(base + 0.5 * torch.randn(pairs, dim), dim=1) for _ in range(2)]
    return [view.to(device, dtype).requires_grad_() for view in both]


def loss_cases(device: str, *, few: bool = False) -> Iterator[Case]:
    """Forward and backward for every path, dtype and kind of width; only a few on a slow device."""
    dtypes = ["float16"] if few else DTYPES
    for name, (pairs, options) in LOSSES.items():
        for dtype in dtypes:
            for dim in (37,) if few else (37, 200, 530):
                for learnt in (False,) if "temperature" in options else (True,) if few else (False, True):
                    call = backward(min(pairs, 67) if few else pairs, dim, dtype, device, learnt, options)
                    yield f"{name}, {dtype}, D {dim}, learnt {learnt}", call
    for precision in () if few else ("tf32", "tf32x3", "bf16"):
        yield f"float32 as {precision}", backward(131, 100, "float32", device, False, {"precision": precision})
    if device != "cpu" and torch.cuda.get_device_capability()[0] == 9:
        for dim in (40, 128):
            yield f"gluon, D {dim}", backward(131, dim, "bfloat16", device, False, {"impl": "gluon"})
    for loss_name in ROW_LOSSES:
        for dtype in dtypes:
            for dim in (37,) if few else (37, 200, 530):
                yield f"{loss_name}, {dtype}, D {dim}", partial(row_loss, loss_name, dim, DTYPES[dtype], device)
    for dtype in dtypes:
        for pair_name in PAIR_LOSSES:
            for dim in (37,) if few else (37, 200, 530):
                yield f"{pair_name}, {dtype}, D {dim}", partial(pair_loss, pair_name, dim, DTYPES[dtype], device)
        yield f"one rank of two, {dtype}", partial(one_of_two_ranks, DTYPES[dtype], device)


def backward(pairs: int, dim: int, dtype: str, device: str, learnt: bool, options: dict[str, object]) -> Call:
    """Return a call that computes a loss and all its gradients."""

    def call() -> None:
        leaves, rest = views(pairs, dim, DTYPES[dtype], device), dict(options)
        temperature = rest.pop("temperature", 0.2)
        if learnt:
            temperature = torch.tensor(temperature, device=device, requires_grad=True)
        found = nt_xent(*leaves, temperature, **{"impl": "triton", **rest})  # type: ignore[arg-type]
        loss = found[0] if isinstance(found, tuple) else found
        loss.sum().backward()
        finite(*(leaf.grad for leaf in leaves), loss)

    return call


def row_loss(name: str, dim: int, dtype: torch.dtype, device: str) -> None:
    """A loss on log-sum-exps and all its gradients; labels exclude pairs by id, views by place."""
    make, labelled = ROW_LOSSES[name]
    leaves = views(131, dim, dtype, device)
    inputs = [torch.cat(leaves), torch.arange(262, device=device) % 7] if labelled else leaves
    loss = make(learnable_temperature=True, impl="triton").to(device)(*inputs)
    loss.backward()
    finite(*(leaf.grad for leaf in leaves), loss)


def pair_loss(name: str, dim: int, dtype: torch.dtype, device: str) -> None:
    """A loss on pairs and all its gradients, in one pass and in two."""
    for reduction in ("mean", "none"):
        leaves = views(131, dim, dtype, device)
        loss = PAIR_LOSSES[name](reduction=reduction, impl="triton").to(device)(*leaves)
        loss.sum().backward()
        finite(*(leaf.grad for leaf in leaves), loss)


def one_of_two_ranks(dtype: torch.dtype, device: str) -> None:
    """The rectangular kernels with an offset, as a rank of a distributed job calls them."""
    pairs = 45
    parts = [views(pairs, 37, dtype, device) for _ in range(2)]
    rows = [contrast_op.ntxent_prologue(*(view.detach() for view in part), True, "ieee", "triton") for part in parts]
    columns, tau = torch.cat([row[0] for row in rows]), torch.tensor(0.2, device=device)
    forward = [
        contrast_op.ntxent_fwd(z, columns, positive, tau, 2 * pairs * r, "runtime", "ieee", False, False, "triton")
        for r, (z, _, positive) in enumerate(rows)
    ]
    lse, scale = torch.cat([found[1] for found in forward]), torch.ones((), device=device)
    weight = torch.rand(4 * pairs, device=device)
    for r, (part, (z, inverse, positive)) in enumerate(zip(parts, rows, strict=True)):
        leaves = [view.detach() for view in part]
        dz0, dz1, dot = contrast_op.ntxent_bwd(
            *leaves, z, columns, inverse, positive, forward[r][0], lse, weight, scale, tau, 2 * pairs * r, True,
            "runtime", "ieee", "triton",
        )  # fmt: skip
        finite(dz0, dz1, dot)


def augment_cases(device: str) -> Iterator[Case]:
    """Both operators in every style, layout, dtype and kind of batch, at sizes for one and for several passes."""
    sizes = torch.tensor([(33, 47), (1, 9), (150, 111), (13, 1)], device=device)
    ends = (3 * sizes.prod(1)).cumsum(0)
    pixels = torch.randint(0, 256, (int(ends[-1]),), dtype=torch.uint8, device=device)
    images = RaggedImages(pixels, ends - 3 * sizes.prod(1), sizes)
    dense = torch.randint(0, 256, (5, 41, 29, 3), dtype=torch.uint8, device=device)
    everything = {"jitter_p": 1.0, "gray_p": 0.5, "blur_p": 1.0, "solarize_p": 0.5}
    for size in (7, 32, 96, 224):
        for style in ("torchvision", "simclr_tf"):
            config = AugmentConfig(size, style=style, **everything)  # type: ignore[arg-type]
            for dtype in (torch.float32, torch.bfloat16, torch.uint8):
                for last in (False, True):
                    augment = SimCLRAugment(config, views=2, dtype=dtype, channels_last=last, impl="native")
                    name = f"{size} px, {style}, {dtype}, channels_last {last}"
                    yield f"{name}, ragged", made(augment, images, ids(4, device))
                    yield f"{name}, dense", made(augment, dense, ids(5, device))
        augment = SimCLRAugment(AugmentConfig(size, mean=(0.5,) * 3, std=(0.2,) * 3), impl="native")
        planar = dense.permute(0, 3, 1, 2).contiguous()
        yield f"{size} px, planar", made(augment, planar, ids(5, device))
        rows = torch.tensor([4, 0], device=device)
        yield f"{size} px, rows", made(augment, dense, ids(2, device), rows)


def made(augment: SimCLRAugment, images: Tensor | RaggedImages, numbers: Tensor, rows: Tensor | None = None) -> Call:
    """Return a call that computes the views."""
    return lambda: finite(augment(images, numbers, 1, indices=rows))


def ids(count: int, device: str) -> Tensor:
    """Numbers of images."""
    return torch.arange(count, device=device)


def finite(*tensors: Tensor | None) -> None:
    """Raise unless all values are present and finite: a sanitizer does not notice values that were never written."""
    for tensor in tensors:
        if tensor is None or not bool(tensor.float().isfinite().all()):
            raise ArithmeticError("a result is missing or not finite")


def main(part: str, device: str = "cuda") -> None:
    """Run all cases of a part."""
    torch.manual_seed(0)
    count = 0
    for name, call in loss_cases(device) if part == "loss" else augment_cases(device):
        call()
        count += 1
        print(name, flush=True)
    print(f"{count} cases of {part}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
