"""NT-Xent and CLIP's loss: cases, inputs, the float64 gate, floors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fastclr.bench.ceilings import Ceilings
from fastclr.bench.rows import Contestant, Row, WrongResultError
from fastclr.bench.timing import Effort, contest

Layout = Literal["ntxent", "clip"]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,  # float32 tensors, matrix products in TF32 where the device has it
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


# relative gradient error that precision alone explains: inputs and products are rounded to 8 (bf16) or 11 (tf32) bits
LIMITS = {"float64": 1e-8, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 6e-2, "float16": 2e-2}
TRUE_ROWS = 256  # rows whose gradient is compared; their float64 sums run over all rows
TEMPERATURE = 0.1
BLOCK_BYTES = 2**28


@dataclass(frozen=True)
class LossCase:
    """A workload of a contrastive loss.

    Args:
        rows: M. NT-Xent of N pairs has M = 2N rows, CLIP's loss M rows on either side; both have M x M logits.
        dim: D.
        dtype: a key of `DTYPES`.
        layout: `ntxent` or `clip`.
        learnable: whether the temperature gets a gradient too.
        device: where it runs.
    """

    rows: int
    dim: int = 128
    dtype: str = "float32"
    layout: Layout = "ntxent"
    learnable: bool = False
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The case's name, from the parameters that differ between cases."""
        return f"{self.layout}-M{self.rows}-D{self.dim}-{self.dtype}" + ("-learnable" if self.learnable else "")

    def toy(self) -> LossCase:
        """The same case with few rows."""
        return replace(self, rows=min(self.rows, 64), dim=min(self.dim, 32))

    def views(self, layout: Layout | None = None) -> list[Tensor]:
        """Two noisy copies of random embeddings, as leaves: `[M / 2, D]` each for NT-Xent, `[M, D]` for CLIP."""
        count = self.rows // 2 if (layout or self.layout) == "ntxent" else self.rows
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (count, self.dim)
        base = torch.randn(shape, generator=generator, device=self.device)
        made = [base + 0.5 * torch.randn(shape, generator=generator, device=self.device) for _ in range(2)]
        return [view.to(DTYPES[self.dtype]).requires_grad_() for view in made]

    @cached_property
    def truths(self) -> dict[Layout, Truth]:
        """Float64 results by layout, cached per case."""
        return {}

    def truth(self, layout: Layout) -> Truth:
        """The float64 result on the inputs of `layout`."""
        if layout not in self.truths:
            self.truths[layout] = exact([v.detach() for v in self.views(layout)], TEMPERATURE, layout)
        return self.truths[layout]

    def floor_s(self, ceilings: Ceilings) -> float:
        """Seconds that an O(M D)-memory loss needs for forward and backward at the machine's ceilings.

        NT-Xent: 6 M^2 D operations (logits, recomputed logits, one product), CLIP: 8 M^2 D (two products); 2 M^2
        exponentials; every input read twice and its gradient written once. NT-Xent's symmetry can save more.
        """
        m, d = float(self.rows), float(self.dim)
        dtype = DTYPES[self.dtype]
        inputs = (1 if self.layout == "ntxent" else 2) * m * d * dtype.itemsize
        flops = (6 if self.layout == "ntxent" else 8) * m * m * d
        precision = "high" if self.dtype == "tf32" else "highest"
        return max(flops / ceilings.flops(dtype, precision), 2 * m * m / ceilings.exps(), 3 * inputs / ceilings.copy())

    def run(self, ceilings: Ceilings, effort: Effort, contestants: Sequence[Contestant]) -> list[Row]:
        """Time `contestants` in turn."""

        def base() -> Row:
            parameters = {"rows": self.rows, "dim": self.dim, "dtype": self.dtype, "layout": self.layout}
            parameters |= {"learnable": self.learnable, "temperature": TEMPERATURE, "device": self.device}
            return Row(suite="loss", case=self.name, provider="", status="ok", unit="rows", parameters=parameters)

        with matmul_precision("high" if self.dtype == "tf32" else "highest"):
            floor = None if effort.toy else self.floor_s(ceilings)
            return contest(contestants, base, torch.device(self.device), effort, floor_s=floor)


def cases(device: torch.device) -> list[LossCase]:
    """All cases of a device, the most important first."""
    if device.type == "cpu":
        rows = [LossCase(m) for m in (8192, 2048, 512, 128)]
        rows += [LossCase(2048, dtype="bfloat16"), LossCase(2048, 512), LossCase(2048, learnable=True), LossCase(32)]
        # small batches, where calls cost more than arithmetic
        return rows + [LossCase(m, dim) for m in (32, 128, 512) for dim in (64, 512)]
    on = "cuda"
    half = [LossCase(m, dtype="bfloat16", device=on) for m in (65536, 16384, 4096, 1024, 262144)]
    others = [
        LossCase(65536, dtype="bfloat16", layout="clip", device=on),
        LossCase(16384, dtype="tf32", device=on),
        LossCase(16384, 512, "bfloat16", layout="clip", device=on),
        LossCase(16384, dtype="bfloat16", learnable=True, device=on),
        *(LossCase(16384, dim, "bfloat16", device=on) for dim in (64, 256, 512, 1024, 2048)),
        LossCase(2**20, dtype="bfloat16", device=on),
        LossCase(65536, dtype="tf32", device=on),
        LossCase(16384, dtype="float32", device=on),
        LossCase(65536, dtype="float16", device=on),
        *(LossCase(m, dtype="bfloat16", device=on) for m in (8192, 2048, 512, 256, 128)),
        LossCase(4096, dtype="tf32", device=on),
    ]
    return half + others


@dataclass(frozen=True)
class Truth:
    """Float64 loss, and its gradients with respect to the rows `picked` of both views and to the temperature."""

    loss: float
    picked: Tensor
    gradients: tuple[Tensor, Tensor]
    temperature: float


def exact(views: Sequence[Tensor], tau: float, layout: Layout, count: int = TRUE_ROWS) -> Truth:
    """Compute loss and gradients in float64, block by block, from closed forms that no contestant uses.

    With unit rows z, ``p_ij = exp(s_ij - lse_i)`` and ``q_ij = exp(s_ij - lse_j)``: NT-Xent has
    ``dL/dz_i = (sum_j (p_ij + q_ij) z_j - 2 z_p(i)) / (M tau)``, CLIP's loss the same over the other side with 2 M;
    ``dL/du = (g - (g.z) z) / |u|``; ``dL/dtau = -mean_i(sum_j p_ij s_ij - s_ip) / tau`` over all softmaxes.
    """
    u = [view.double() for view in views]
    sizes = [view.norm(dim=1, keepdim=True) for view in u]
    z = [view / size for view, size in zip(u, sizes, strict=True)]
    n, device = len(views[0]), views[0].device
    picked = torch.linspace(0, n - 1, min(count, n), device=device).long()
    ends: list[tuple[Tensor, Tensor, Tensor, Tensor | None]]
    s_positive = (z[0] * z[1]).sum(1) / tau
    if layout == "ntxent":
        columns = torch.cat(z)
        lse, mean_s = _softmaxes(columns, columns, tau, torch.arange(2 * n, device=device))
        ends = [(columns, lse, lse, picked), (columns, lse, lse, picked + n)]
        positive, total = s_positive.repeat(2), 2 * n
    else:
        row_lse, row_s = _softmaxes(z[0], z[1], tau, None)
        column_lse, column_s = _softmaxes(z[1], z[0], tau, None)
        lse, mean_s = torch.cat([row_lse, column_lse]), torch.cat([row_s, column_s])
        ends = [(z[1], row_lse, column_lse, None), (z[0], column_lse, row_lse, None)]
        positive, total = s_positive.repeat(2), 2 * n
    gradients = []
    for view, (columns, own, other, itself) in enumerate(ends):
        mine = own[picked + view * n] if layout == "ntxent" else own[picked]
        rows = z[view][picked]
        parts = []
        for start in range(0, len(rows), _block(len(columns))):
            part = slice(start, start + _block(len(columns)))
            s = rows[part] @ columns.T / tau
            weights = (s - mine[part, None]).exp() + (s - other[None]).exp()
            if itself is not None:
                weights[torch.arange(len(weights)), itself[part]] = 0
            parts.append(weights @ columns)
        g = (torch.cat(parts) - 2 * z[1 - view][picked]) / (total * tau)
        gradients.append((g - (g * rows).sum(1, keepdim=True) * rows) / sizes[view][picked])
    loss = float((lse - positive).mean())
    d_tau = -float((mean_s - positive).mean()) / tau
    return Truth(loss, picked, (gradients[0], gradients[1]), d_tau)


def _softmaxes(rows: Tensor, columns: Tensor, tau: float, itself: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return log-sum-exp and softmax-weighted mean of every row's logits, in blocks; `itself` is excluded."""
    lse, mean = torch.empty_like(rows[:, 0]), torch.empty_like(rows[:, 0])
    for start in range(0, len(rows), _block(len(columns))):
        part = slice(start, start + _block(len(columns)))
        s = rows[part] @ columns.T / tau
        if itself is not None:
            s[torch.arange(len(s)), itself[part]] = -torch.inf
        lse[part] = s.logsumexp(1)
        p = (s - lse[part, None]).exp()
        mean[part] = (p * s.nan_to_num_(neginf=0.0)).sum(1)
    return lse, mean


def _block(columns: int) -> int:
    return max(1, BLOCK_BYTES // (8 * columns))


def check_gradient(case: LossCase, layout: Layout, loss: Tensor, views: list[Tensor], d_tau: float | None) -> float:
    """Return the relative error of a contestant's gradient; raise WrongResultError beyond the limit of the dtype."""
    truth, limit = case.truth(layout), LIMITS[case.dtype]
    found = torch.cat([v.grad[truth.picked].double() for v in views if v.grad is not None])
    expected = torch.cat(truth.gradients)
    if len(found) != len(expected):
        raise WrongResultError(float("inf"), limit, "gradient of a view is missing")
    error = float((found - expected).norm() / expected.norm())
    if not error <= limit:
        raise WrongResultError(error, limit, "gradient")
    value = abs(float(loss.detach()) - truth.loss) / abs(truth.loss)
    if not value <= limit:
        raise WrongResultError(value, limit, "loss")
    if d_tau is not None:
        off = abs(d_tau - truth.temperature) / abs(truth.temperature)
        if not off <= limit:
            raise WrongResultError(off, limit, "gradient of the temperature")
    return error


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set float32 matrix products to "highest" or "high" (TF32) inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
