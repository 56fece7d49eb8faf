"""NT-Xent, public: ``NTXentLoss`` calls ``nt_xent``, which checks its arguments and applies ``NTXentFunction``.

That autograd function and the operators below it are in contrast_op.py. Rows on a CPU go to the one operator of
contrast_native.py where it covers the case, impl "reference" goes to contrast_reference.py, and a memory bank to the
operator of lse_op.py instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor

from fastclr.losses import contrast_reference as reference
from fastclr.losses.contrast_native import covered_temperature, ntxent_native
from fastclr.losses.contrast_op import KERNELS, NTXentFunction, NTXentOptions
from fastclr.losses.inputs import (
    PRECISIONS,
    REDUCTIONS,
    TRITON_FOUND,
    Precision,
    Reduction,
    bank_shape,
    check_option,
    check_views,
    exponent_shift,
    matmul_precision,
    reduce_rows,
    select_impl,
    temperature_tensor,
    unit_rows,
)
from fastclr.losses.lse_op import LSEOptions, lse
from fastclr.losses.memory_bank import MemoryBank
from fastclr.losses.options import check_gathering, is_deterministic
from fastclr.losses.row_inputs import softplus
from fastclr.losses.temperature import WithTemperature
from fastclr.losses.tiles import vector_dtype
from fastclr.losses.transforms import check_transforms
from fastclr.parallel import check_same_shape, gather_rows, resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Impl = Literal["auto", "triton", "blockwise", "reference", "gluon"]
IMPLS = get_args(Impl)


class NTXentStats(NamedTuple):
    """Per-row statistics over the N candidates of the other view, without gradient (SimCLR paper, Table 5)."""

    accuracy: Tensor
    """``[2N]``: 1 where no candidate is more similar than the positive, else 0."""
    entropy: Tensor
    """``[2N]``: entropy of the softmax over the candidates, in nats."""


@overload
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = ...,
    *,
    normalize: bool = ...,
    reduction: Reduction = ...,
    precision: Precision = ...,
    impl: Impl = ...,
    deterministic: bool | None = ...,
    return_stats: Literal[False] = ...,
    group: ProcessGroup | None = ...,
) -> Tensor:
    """Return the loss."""


@overload
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = ...,
    *,
    normalize: bool = ...,
    reduction: Reduction = ...,
    precision: Precision = ...,
    impl: Impl = ...,
    deterministic: bool | None = ...,
    return_stats: Literal[True],
    group: ProcessGroup | None = ...,
) -> tuple[Tensor, NTXentStats]:
    """Return the loss and its statistics."""


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    reduction: Reduction = "mean",
    precision: Precision = "auto",
    impl: Impl = "auto",
    deterministic: bool | None = None,
    return_stats: bool = False,
    group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, NTXentStats]:
    """NT-Xent, ``loss_i = log sum_{j != i} exp(s_ij) - s_ip`` with ``s_ij = <z_i, z_j> / tau``, in O(N D) memory.

    Args:
        z0: ``[N, D]`` embeddings of the first view: float32, float64, float16 or bfloat16, any strides, any device.
        z1: ``[N, D]`` embeddings of the second view, same dtype and device; ``z1[i]`` is the positive of ``z0[i]``.
        temperature: tau, a finite number with ``|tau| >= 1e-8`` (negative is allowed), or a 0-dim tensor on the device
            of z0, with or without gradient. A tensor's value is not checked: that would synchronise with the device.
        normalize: divide every row by ``max(|u|, 1e-12)`` first; rows no longer than 1e-12 get no gradient.
        reduction: "mean" over the 2N rows, "sum", or "none" (``[2N]``: view 0, then view 1).
        precision: of the matrix products of float32 inputs: "ieee", "tf32", "tf32x3" or "bf16"; "auto" follows
            ``torch.get_float32_matmul_precision()`` ("highest" ieee, "high" tf32, "medium" bf16). Other dtypes are
            multiplied as they are and accumulated in float32. On a CPU this is the lowest precision allowed.
        impl: "triton" (CUDA; CPU tensors under TRITON_INTERPRET=1), "blockwise" (plain PyTorch, any device),
            "reference" (dense, differentiable twice), or "auto": triton for CUDA tensors, on a CPU the
            operator of contrast_native.py where it is built and covers the case, neither for float64; else blockwise.
            "gluon" is "triton" with a warp-specialised backward for an H100 or H200, which was compiled and emulated
            but has never run on a GPU: check its gradients before you train with it (docs/gpu-model.md).
        deterministic: bitwise reproducible; None follows ``torch.are_deterministic_algorithms_enabled()``. On a CPU
            every result is.
        return_stats: also return :class:`NTXentStats`.
        group: gather the rows of all ranks of this process group (``torch.distributed.group.WORLD`` for all). The value
            covers the local rows; the gradient is that of the whole batch times the world size, which
            DistributedDataParallel divides by. The backward communicates nothing.

    Returns:
        The loss, float64 for float64 inputs and float32 otherwise, also under autocast; with `return_stats` also
        the statistics.

    Raises:
        TypeError: inputs are not dense floating-point tensors of one dtype, or the temperature is not a number.
        ValueError: shapes, devices, temperature or options are wrong, or the implementation cannot run here.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020. Same value as
    ``lightly.loss.NTXentLoss``.
    """
    group = None if group is None else resolve_group(group)
    check_views(z0, z1, group)
    check_option("reduction", reduction, REDUCTIONS)
    check_option("precision", precision, PRECISIONS)
    check_option("impl", impl, IMPLS)
    chosen = _check_gluon(z0, precision) if impl == "gluon" else select_impl(impl, z0)
    check_transforms(chosen, z0, z1, temperature)
    if impl == "auto" and normalize and not return_stats and group is None:
        checked = temperature if type(temperature) is float else temperature_tensor(temperature, z0, on_cpu=True)
        number = covered_temperature(z0, checked)
        if number is not None:
            return ntxent_native(z0, z1, checked, number, reduction)
    tau = temperature_tensor(temperature, z0, on_cpu=chosen not in KERNELS)
    if group is not None:
        if chosen == "reference" or reduction == "none":
            raise ValueError(
                f"gathering over a process group needs impl 'triton' or 'blockwise' and reduction 'mean' or 'sum', "
                f"got impl={chosen!r}, reduction={reduction!r}"
            )
        check_same_shape(z0, group)
    if chosen == "reference":
        return _run_reference(z0, z1, tau, normalize, reduction, return_stats)
    options = NTXentOptions(
        impl=chosen,
        normalize=normalize,
        reduction=reduction,
        precision=matmul_precision(precision, z0.dtype) if chosen in KERNELS else precision,
        shift=exponent_shift(temperature, normalize),
        deterministic=is_deterministic(deterministic),
        stats=return_stats,
        group=group,
    )
    loss, accuracy, entropy = NTXentFunction.apply(z0, z1, tau, options)
    return (loss, NTXentStats(accuracy, entropy)) if return_stats else loss


def _check_gluon(z0: Tensor, precision: str) -> str:
    """Raise a ValueError unless the warp-specialised backward computes such rows on their device."""
    from fastclr.kernels.tile_table import device_traits, gluon_tile

    if not z0.is_cuda:
        raise ValueError(f"impl='gluon' needs CUDA tensors on an H100 or H200, got {z0.device}; use impl='auto'")
    if not TRITON_FOUND or find_spec("triton.experimental.gluon") is None:
        raise ValueError("impl='gluon' needs Triton 3.6 or newer, which PyTorch 2.11 brings, or impl='auto'")
    rounded = z0.dtype == torch.float32 and matmul_precision(precision, z0.dtype) == "bf16"
    gluon_tile(device_traits(z0.device)[0], torch.bfloat16 if rounded else z0.dtype, z0.shape[1])
    return "gluon"


def _run_reference(
    z0: Tensor, z1: Tensor, temperature: Tensor, normalize: bool, reduction: str, return_stats: bool
) -> Tensor | tuple[Tensor, NTXentStats]:
    with torch.autocast(z0.device.type, enabled=False):
        loss = reference.nt_xent(z0, z1, temperature, normalize=normalize, reduction=reduction)
        if not return_stats:
            return loss
        return loss, NTXentStats(*reference.nt_xent_stats(z0, z1, temperature, normalize=normalize))


class NTXentLoss(WithTemperature):
    """:func:`nt_xent` as a module: replaces ``lightly.loss.NTXentLoss``, with the same first three arguments.

    With a memory bank of K keys the loss is MoCo's, over the N rows of out0:
    ``loss_i = log(1 + sum_k exp((<z0_i, b_k> - <z0_i, z1_i>) / tau))``. out1 is then pushed to the bank if out0
    requires a gradient.
    """

    memory_bank: MemoryBank | None

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        *,
        learnable_temperature: bool = False,
        normalize: bool = True,
        reduction: Reduction = "mean",
        precision: Precision = "auto",
        impl: Impl = "auto",
        deterministic: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            temperature: tau, finite with ``|tau| >= 1e-8``, or a 0-dim tensor, with or without gradient; negative only
                if not learnable.
            memory_bank_size: 0 for none, or (K, D): K past embeddings of length D as the negatives.
            gather_distributed: gather the rows (with a memory bank: the keys) of all ranks.
            learnable_temperature: make ``log_temperature`` a parameter, ``tau = exp(log_temperature)``, which stays
                positive and is learnt on a log scale. Exempt it from weight decay, which would pull tau to 1.
            normalize, reduction, precision, impl, deterministic: as in :func:`nt_xent`.
            process_group: the ranks to gather over; None for all of them.

        Raises:
            TypeError: the temperature is not a number.
            ValueError: another argument is out of range; the message says what was expected.
        """
        super().__init__()
        check_option("reduction", reduction, REDUCTIONS)
        check_option("precision", precision, PRECISIONS)
        check_option("impl", impl, IMPLS)
        check_gathering(gather_distributed, process_group)
        size = bank_shape(memory_bank_size)
        if size is not None and impl not in ("auto", "blockwise"):
            raise ValueError(f"with a memory bank impl must be 'auto' or 'blockwise', got {impl!r}")
        self.memory_bank = None if size is None else MemoryBank(*size)
        self.gather_distributed = gather_distributed
        self.normalize = normalize
        self.reduction: Reduction = reduction
        self.precision: Precision = precision
        self.impl: Impl = impl
        self.deterministic = deterministic
        self.process_group = process_group
        self.own_temperature(temperature, learnable_temperature)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``: 0-dim, or per row for reduction "none"; errors as in :func:`nt_xent`.

        Raises:
            ValueError: gather_distributed without an initialised process group.
        """
        group = resolve_group(self.process_group) if self.gather_distributed else None
        if self.memory_bank is not None:
            return self._forward_bank(out0, out1, self.memory_bank, group)
        return nt_xent(
            out0,
            out1,
            self.temperature,
            normalize=self.normalize,
            reduction=self.reduction,
            precision=self.precision,
            impl=self.impl,
            deterministic=self.deterministic,
            group=group,
        )

    def _forward_bank(self, out0: Tensor, out1: Tensor, bank: MemoryBank, group: ProcessGroup | None) -> Tensor:
        check_views(out0, out1, group)
        if out0.shape[1] != bank.bank.shape[1]:
            raise ValueError(f"embeddings must have the memory bank's length {bank.bank.shape[1]}, got {out0.shape[1]}")
        if group is not None:
            check_same_shape(out1, group)
        tau = temperature_tensor(self.temperature, out0, on_cpu=True)
        with torch.autocast(out0.device.type, enabled=False):
            queries, keys = out0.to(tau.dtype), out1.to(tau.dtype)
            if self.normalize:
                queries, keys = unit_rows(queries), unit_rows(keys)
            scale = tau.to(vector_dtype(queries.device)).reciprocal()
            options = LSEOptions("blockwise", "online", self.precision, deterministic=False, group=None)
            # a copy: the push below must not change what the backward reads
            negatives, _ = lse(queries, bank.bank.to(queries, copy=True), scale, options)
            positive = torch.linalg.vecdot(queries.to(scale.dtype), keys.to(scale.dtype)) * scale
            loss = softplus(negatives - positive).to(tau.dtype)
            if queries.requires_grad:
                bank.push(keys if group is None else gather_rows(keys, group))
            return reduce_rows(loss, self.reduction)

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        tau = self._temperature if self.log_temperature is None else "learnable"
        return f"temperature={tau}, gather_distributed={self.gather_distributed}, impl={self.impl!r}"
