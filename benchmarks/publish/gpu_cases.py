"""What a day with a GPU computes first: every kernel once on small inputs, and every loss, beside float64.

A case is a loss in one dtype and size, with its inputs and the error that its precision explains. The tests of
`tests/gpu` ask more, in more time; these are chosen so that each compile-time choice of each kernel occurs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastclr import losses, nt_xent
from fastclr.losses import NTXentLoss

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# unit roundoff of the rows or of the products, whichever is coarser
UNITS = {"bf16": 2**-8, "fp16": 2**-11, "fp32": 2**-21, "tf32x3": 2**-18, "tf32": 2**-10}
WIDTHS = (128, 64, 256, 512, 33)


class WithStats(nn.Module):
    """NT-Xent and the entropy that `return_stats` adds; the accuracy is a matter of luck between equal candidates."""

    def __init__(self, temperature: float, impl: str) -> None:
        super().__init__()
        self.temperature, self.impl = temperature, impl

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Mean loss, and the entropy of every row, which has no gradient."""
        loss, stats = nt_xent(z0, z1, self.temperature, return_stats=True, impl=self.impl)
        return torch.cat([loss.reshape(1), stats.entropy.to(loss.dtype)])


@dataclass(frozen=True)
class Case:
    """A loss on inputs of given shapes.

    Args:
        name: unique.
        make: from the keywords `impl` (and the case's options) to the loss.
        shapes: of the inputs; pairs of equal shapes are noisy copies of each other.
        dtype: a key of `DTYPES`.
        limit: of the relative error of the loss and of each gradient.
        options: keywords of `make`.
        arguments: further arguments of the loss, from the inputs.
        impl: the implementation that is compared with "reference".
    """

    name: str
    make: Callable[..., nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    limit: float
    options: dict[str, Any] = field(default_factory=dict)
    arguments: Callable[[list[Tensor]], dict[str, Tensor]] = lambda inputs: {}
    impl: str = "triton"

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Noisy copies of random rows in the case's dtype."""
        generator, found = torch.Generator().manual_seed(0), []
        base: dict[tuple[int, ...], Tensor] = {}
        for shape in self.shapes:
            rows = base.setdefault(shape, torch.randn(shape, generator=generator))
            noisy = rows + 0.5 * torch.randn(shape, generator=generator)
            found.append(noisy.to(device, DTYPES[self.dtype]))
        return found

    def outcome(self, device: torch.device, exact: bool = False) -> list[Tensor]:
        """Loss, and the gradients of inputs and parameters, by the kernels or by the specification in float64."""
        inputs = self.inputs(device)
        arguments = self.arguments(inputs)
        loss_of = self.make(impl="reference" if exact else self.impl, **self.options).to(device)
        if exact:
            loss_of, inputs = loss_of.double(), [x.double() for x in inputs]
            arguments = {name: x.double() if x.is_floating_point() else x for name, x in arguments.items()}
        leaves = [x.requires_grad_() for x in inputs]
        loss = loss_of(*leaves, **arguments)
        weight = torch.linspace(0.5, 1.5, loss.numel(), device=device, dtype=loss.dtype).reshape(loss.shape)
        grads = torch.autograd.grad((loss * weight).sum(), [*leaves, *loss_of.parameters()])
        return [loss.detach(), *grads]

    def toy(self) -> Case:
        """The same case with few rows and features, for a rehearsal."""
        shapes = tuple(tuple(min(size, 18 if axis == 0 else 12) for axis, size in enumerate(s)) for s in self.shapes)
        return Case(self.name, self.make, shapes, self.dtype, self.limit, self.options, self.arguments, self.impl)


def relative_errors(mine: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Error of each result as a fraction of the length of the truth; what float32 cannot represent counts as right."""
    errors = []
    for value, true in zip(mine, truth, strict=True):
        distance, length = float((value.double() - true.double()).norm()), float(true.double().norm())
        tiny = torch.finfo(value.dtype).tiny * math.sqrt(value.numel())
        errors.append(0.0 if distance <= tiny else distance / max(length, 1e-300))
    return errors


def nt_xent_cases() -> Iterator[Case]:
    """Every kernel of NT-Xent in every precision and kind of width; the paths that most people take come first."""

    def case(path: str, pairs: int, dim: int, dtype: str, precision: str = "ieee", **options: Any) -> Case:
        tau = options.setdefault("temperature", 0.1)
        unit = UNITS[precision] if dtype == "fp32" and precision != "ieee" else UNITS[dtype]
        unit = UNITS["bf16"] if precision == "bf16" else unit
        # half rows are rounded once before the products, the gradient once after
        limit = unit * (2 + 1 / abs(tau))
        name = f"NT-Xent {path}, N {pairs}, D {dim}, {dtype}" + (f" as {precision}" if precision != "ieee" else "")
        make = WithStats if path == "statistics" else NTXentLoss
        more = {} if path == "statistics" else {"precision": precision}
        return Case(name, make, ((pairs, dim), (pairs, dim)), dtype, limit, options | more)

    for dim in WIDTHS:
        for dtype in DTYPES if dim in (128, 33) else ("bf16", "fp32"):
            yield case("triangular", 1040, dim, dtype)
            yield case("rectangular", 131, dim, dtype)
            yield case("deterministic", 1040, dim, dtype, deterministic=True)
            yield case("learnt temperature", 131, dim, dtype, learnable_temperature=True)
            yield case("online maximum", 131, dim, dtype, temperature=0.004)
    for dim in (128, 512):
        for precision in ("tf32", "tf32x3", "bf16"):
            yield case("triangular", 1040, dim, "fp32", precision)
            yield case("rectangular", 131, dim, "fp32", precision)
    for dtype in DTYPES:
        yield case("statistics", 131, 128, dtype)
        yield case("rows", 131, 128, dtype, reduction="none")
        yield case("unit rows", 131, 128, dtype, normalize=False, temperature=30.0)


def labels(inputs: list[Tensor]) -> dict[str, Tensor]:
    """Seven classes, two rows without one."""
    found = torch.arange(len(inputs[0]), device=inputs[0].device) % 7
    found[1:3] = -1
    return {"labels": found}


def equal_ids(inputs: list[Tensor]) -> dict[str, Tensor]:
    """Three rows an id."""
    return {"ids": torch.arange(len(inputs[0]), device=inputs[0].device) // 3}


def momentum(inputs: list[Tensor]) -> dict[str, Tensor]:
    """Momentum features and queues for BLIP, by exact operations."""
    a, b = (x.detach() for x in inputs)
    features = {"momentum_image": a.flip(1), "momentum_text": b.flip(1)}
    return features | {"image_queue": b.flip(0), "text_queue": a.roll(1, 1)}


def row_cases() -> Iterator[Case]:
    """The losses on ``lse``: every kind of excluded pair, limits of rows and columns, one side and two."""
    n = 150
    for dim in (128, 512):
        for dtype in DTYPES:
            two, tau = ((n, dim),) * 2, 0.2
            limit = UNITS[dtype] * (16 + 4 / tau)

            def case(
                name: str,
                make: Callable[..., nn.Module],
                shapes: tuple[tuple[int, ...], ...],
                arguments: Callable[[list[Tensor]], dict[str, Tensor]] = lambda inputs: {},
                dim: int = dim,
                dtype: str = dtype,
                tau: float = tau,
                limit: float = limit,
                **options: Any,
            ) -> Case:
                options |= {"temperature": tau, "learnable_temperature": True}
                return Case(f"{name}, D {dim}, {dtype}", make, shapes, dtype, limit, options, arguments)

            yield case("CLIP", losses.CLIPLoss, two)
            yield case("CLIP by id", losses.CLIPLoss, two, equal_ids)
            yield case("SupCon", losses.SupConLoss, ((n, dim),), labels)
            yield case("SupCon, L_in", losses.SupConLoss, ((n, dim),), labels, form="in")
            yield case("DCL", losses.DCLLoss, two)
            yield case("InfoNCE", losses.InfoNCELoss, (*two, (2 * n + 3, dim)))
            yield case("InfoNCE filtered", losses.InfoNCELoss, two, margin=0.2)
            yield case("CLIP filtered", losses.CLIPLoss, two, equal_ids, margin=0.2)
            yield case("multiple negatives", losses.MultipleNegativesLoss, (*two, (n + 5, dim)))
            yield case("hard negatives", losses.DebiasedNTXentLoss, two, hardness=1.0)
            yield case("BLIP", losses.BLIPLoss, two, momentum)


def pair_cases() -> Iterator[Case]:
    """The losses on ``softplus_pairs``: value and gradient together and apart, with bias and weights, the hinge."""
    makes: dict[str, Callable[..., nn.Module]] = {
        "SigLIP": lambda **o: losses.SigLIPLoss(10.0, -5.0, learnable=True, **o),
        "NT-Logistic": lambda **o: losses.NTLogisticLoss(0.3, learnable_temperature=True, **o),
        "NT-Logistic, both views": lambda **o: losses.NTLogisticLoss(0.3, negatives="both_views", **o),
        "margin triplet": lambda **o: losses.MarginTripletLoss(0.4, mining="none", **o),
    }
    for dim in (128, 512):
        for dtype in DTYPES:
            for name, make in makes.items():
                for reduction in ("mean", "none"):
                    # the hinge jumps where rounding moves a similarity over it
                    limit = UNITS[dtype] * (512 if name == "margin triplet" else 64)
                    full = f"{name}, {reduction}, D {dim}, {dtype}"
                    yield Case(full, make, ((150, dim),) * 2, dtype, limit, {"reduction": reduction})


def gluon_cases() -> Iterator[Case]:
    """The warp-specialised backward, which has never run: last, since it may not end."""
    for dim, dtype in ((128, "bf16"), (64, "bf16"), (128, "fp16")):
        for tau in (0.1, 0.004):
            name = f"NT-Xent gluon, N 1040, D {dim}, {dtype}, tau {tau}"
            limit = UNITS[dtype] * (2 + 1 / tau)
            yield Case(name, NTXentLoss, ((1040, dim),) * 2, dtype, limit, {"temperature": tau}, impl="gluon")


def cases(rehearse: bool = False) -> list[Case]:
    """All cases in the order in which they run; for a rehearsal one of each name in float32, small."""
    found = [*nt_xent_cases(), *row_cases(), *pair_cases(), *gluon_cases()]
    if not rehearse:
        return found
    # the interpreter has no bfloat16
    first = {
        case.name.partition(",")[0]: case.toy() for case in found if case.dtype == "fp32" and "bf16" not in case.name
    }
    return list(first.values())
