"""Barlow Twins and VICReg, public: the losses that correlate the dimensions of embeddings instead of comparing rows.

``BarlowTwinsLoss`` and ``VICRegLoss`` call ``barlow_twins`` and ``vicreg``, which check their arguments and apply
``GramFunction`` (gram_op.py); impl "reference" goes to gram_reference.py instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fastclr.losses import gram_reference as reference
from fastclr.losses.gram_op import GramFunction, GramOptions
from fastclr.losses.inputs import IMPLS, PRECISIONS, Impl, Precision, check_option, check_views
from fastclr.losses.options import check_gathering, is_deterministic
from fastclr.losses.scalars import as_number, check_number
from fastclr.losses.transforms import check_transforms
from fastclr.parallel import check_same_shape, resolve_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Form = Literal["auto", "primal", "dual"]
FORMS = get_args(Form)


class BarlowTwinsTerms(NamedTuple):
    """What Barlow Twins adds up, without gradient: ``loss = invariance + lambda_param * redundancy``."""

    invariance: Tensor
    redundancy: Tensor


class VICRegTerms(NamedTuple):
    """What VICReg adds up, without gradient, each before its weight."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def barlow_twins(
    z0: Tensor,
    z1: Tensor,
    lambda_param: float = 5e-3,
    *,
    form: Form = "auto",
    precision: Precision = "auto",
    impl: Impl = "auto",
    deterministic: bool | None = None,
    group: ProcessGroup | None = None,
    local_statistics: bool = False,
) -> tuple[Tensor, BarlowTwinsTerms]:
    """Barlow Twins, ``sum_i (1 - C_ii)^2 + lambda_param sum_{i != j} C_ij^2`` with ``C = A^T B / N``, and its terms.

    A and B are the views with columns of mean 0 and variance 1. Value and gradient come from one pass.

    Args:
        z0: ``[N, D]`` embeddings of the first view: float32, float64, float16 or bfloat16, any strides, any device.
        z1: ``[N, D]`` embeddings of the second view, same dtype and device.
        lambda_param: weight of the redundancy, a finite number.
        form: "primal" stores C (``6 N D^2`` operations), "dual" the ``[N, N]`` products of the rows (``8 N^2 D``);
            "auto" is dual where N < D. Same result but for rounding.
        precision: of float32 matrix products, as in :func:`fastclr.nt_xent`.
        impl: "blockwise" (plain PyTorch, any device), "reference" (dense, differentiable twice), or "auto": blockwise.
        deterministic: bitwise reproducible; None follows ``torch.are_deterministic_algorithms_enabled()``. Everything
            here is sums in a fixed order and matrix products, so it always holds where it does for those.
        group: the rows of all ranks of this process group form the batch (``torch.distributed.group.WORLD`` for all).
            Every rank returns the loss of the whole batch; the gradient is that times the world size, which
            DistributedDataParallel divides by. The backward communicates nothing.
        local_statistics: with a group, standardise by the mean and variance of the local rows, as lightly does. The
            gradient is then not that of the whole batch.

    Returns:
        The loss, float64 for float64 inputs and float32 otherwise, also under autocast; and its terms.

    Raises:
        TypeError: inputs are not dense floating-point tensors of one dtype, or a weight is not a number.
        ValueError: shapes, devices or options are wrong, or the batch has a single row.

    Source: Zbontar et al., Barlow Twins, 2021. Same value as ``lightly.loss.BarlowTwinsLoss``.
    """
    weight = _number("lambda_param", lambda_param)
    chosen, group = _check(z0, z1, form, precision, impl, group)
    if chosen == "reference":
        with torch.autocast(z0.device.type, enabled=False):
            terms = reference.barlow_twins_terms(z0, z1)
        return terms[0] + weight * terms[1], BarlowTwinsTerms(*(term.detach() for term in terms))
    if local_statistics and group is not None and len(z0) < 2:
        raise ValueError("local_statistics needs at least two rows on every rank, got 1")
    fixed = is_deterministic(deterministic)
    options = GramOptions("barlow_gram", (weight,), (1.0, weight), form, precision, group, local_statistics, fixed)
    loss, found = GramFunction.apply(z0, z1, options)
    return loss, BarlowTwinsTerms(*found.unbind())


def vicreg(
    z0: Tensor,
    z1: Tensor,
    lambda_param: float = 25.0,
    mu_param: float = 25.0,
    nu_param: float = 1.0,
    eps: float = 1e-4,
    *,
    form: Form = "auto",
    precision: Precision = "auto",
    impl: Impl = "auto",
    deterministic: bool | None = None,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, VICRegTerms]:
    """VICReg, ``lambda invariance + mu variance + nu covariance``, and these terms.

    ``invariance = mean (z0 - z1)^2``, ``variance = 1/2 sum_views mean_d max(0, 1 - sqrt(var_d + eps))``,
    ``covariance = 1/D sum_views sum_{i != j} Cov_ij^2``; var and Cov divide by N - 1.

    Args:
        z0, z1, form, precision, impl, deterministic, group: as in :func:`barlow_twins`. With a group the value of the
            invariance covers the local rows.
        lambda_param, mu_param, nu_param: weights, finite numbers.
        eps: added to the variance under the root, positive.

    Returns:
        The loss, float64 for float64 inputs and float32 otherwise, also under autocast; and its terms.

    Raises:
        TypeError: inputs are not dense floating-point tensors of one dtype, or a weight is not a number.
        ValueError: shapes, devices or options are wrong, or the batch has a single row, which has no variance.

    Source: Bardes et al., VICReg, 2022. Same value as ``lightly.loss.VICRegLoss``.
    """
    weights = (_number("lambda_param", lambda_param), _number("mu_param", mu_param), _number("nu_param", nu_param))
    eps = _positive_eps(eps)
    chosen, group = _check(z0, z1, form, precision, impl, group)
    if chosen == "reference":
        with torch.autocast(z0.device.type, enabled=False):
            terms = reference.vicreg_terms(z0, z1, eps)
        loss = weights[0] * terms[0] + weights[1] * terms[1] + weights[2] * terms[2]
        return loss, VICRegTerms(*(term.detach() for term in terms))
    fixed = is_deterministic(deterministic)
    options = GramOptions("vicreg_gram", (*weights, eps), weights, form, precision, group, False, fixed)
    loss, found = GramFunction.apply(z0, z1, options)
    return loss, VICRegTerms(*found.unbind())


def _check(
    z0: Tensor, z1: Tensor, form: str, precision: str, impl: str, group: ProcessGroup | None
) -> tuple[str, ProcessGroup | None]:
    """Check what both losses take; the implementation and, if there is more than one rank, the group."""
    group = None if group is None else resolve_group(group)
    check_views(z0, z1, group)
    _check_options(form, precision, impl)
    chosen = "reference" if impl == "reference" else "blockwise"
    if group is not None:
        if chosen == "reference":
            raise ValueError("gathering over a process group needs impl 'auto' or 'blockwise', got impl='reference'")
        check_same_shape(z0, group)
    elif len(z0) < 2:
        raise ValueError("Barlow Twins and VICReg need at least two rows, got 1: a single row has no variance")
    check_transforms(chosen, z0, z1)
    return chosen, group


def _check_options(form: str, precision: str, impl: str) -> None:
    check_option("form", form, FORMS)
    check_option("precision", precision, PRECISIONS)
    check_option("impl", impl, IMPLS)
    if impl == "triton":
        raise ValueError(
            "Gram losses have no kernel in Triton: use impl='auto' or 'blockwise', which run on any device"
        )


def _number(name: str, value: float) -> float:
    number = as_number(name, value)
    check_number(name, number, zero=True)
    return number


def _positive_eps(eps: float) -> float:
    if _number("eps", eps) <= 0:
        raise ValueError(f"eps must be positive: the root of a zero variance has no gradient, got {eps}")
    return float(eps)


class _GramLoss(nn.Module):
    """Options that both losses have."""

    def __init__(
        self,
        gather_distributed: bool,
        form: Form,
        precision: Precision,
        impl: Impl,
        deterministic: bool | None,
        process_group: ProcessGroup | None,
    ) -> None:
        super().__init__()
        _check_options(form, precision, impl)
        check_gathering(gather_distributed, process_group)
        self.gather_distributed = gather_distributed
        self.form: Form = form
        self.precision: Precision = precision
        self.impl: Impl = impl
        self.deterministic = deterministic
        self.process_group = process_group

    def _group(self) -> ProcessGroup | None:
        return resolve_group(self.process_group) if self.gather_distributed else None


class BarlowTwinsLoss(_GramLoss):
    """:func:`barlow_twins` as a module: replaces ``lightly.loss.BarlowTwinsLoss``, with the same arguments."""

    def __init__(
        self,
        lambda_param: float = 5e-3,
        gather_distributed: bool = False,
        *,
        form: Form = "auto",
        precision: Precision = "auto",
        impl: Impl = "auto",
        deterministic: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            lambda_param, form, precision, impl, deterministic: as in :func:`barlow_twins`.
            gather_distributed: the rows of all ranks form the batch.
            process_group: those ranks; None for all of them.

        Raises:
            TypeError: lambda_param is not a number.
            ValueError: another argument is out of range; the message says what was expected.
        """
        super().__init__(gather_distributed, form, precision, impl, deterministic, process_group)
        self.lambda_param = _number("lambda_param", lambda_param)

    def terms(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, BarlowTwinsTerms]:
        """The loss and what it adds up; errors as in :func:`barlow_twins`."""
        return barlow_twins(
            z_a,
            z_b,
            self.lambda_param,
            form=self.form,
            precision=self.precision,
            impl=self.impl,
            deterministic=self.deterministic,
            group=self._group(),
        )

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``, 0-dim; errors as in :func:`barlow_twins`.

        Raises:
            ValueError: gather_distributed without an initialised process group.
        """
        return self.terms(z_a, z_b)[0]

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        return f"lambda_param={self.lambda_param}, gather_distributed={self.gather_distributed}, form={self.form!r}"


class VICRegLoss(_GramLoss):
    """:func:`vicreg` as a module: replaces ``lightly.loss.VICRegLoss``, with the same arguments."""

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool = False,
        eps: float = 1e-4,
        *,
        form: Form = "auto",
        precision: Precision = "auto",
        impl: Impl = "auto",
        deterministic: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Check and store the options.

        Args:
            lambda_param, mu_param, nu_param, eps, form, precision, impl, deterministic: as in :func:`vicreg`.
            gather_distributed: the rows of all ranks form the batch.
            process_group: those ranks; None for all of them.

        Raises:
            TypeError: a weight is not a number.
            ValueError: another argument is out of range; the message says what was expected.
        """
        super().__init__(gather_distributed, form, precision, impl, deterministic, process_group)
        self.lambda_param = _number("lambda_param", lambda_param)
        self.mu_param = _number("mu_param", mu_param)
        self.nu_param = _number("nu_param", nu_param)
        self.eps = _positive_eps(eps)

    def terms(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, VICRegTerms]:
        """The loss and what it adds up; errors as in :func:`vicreg`."""
        return vicreg(
            z_a,
            z_b,
            self.lambda_param,
            self.mu_param,
            self.nu_param,
            self.eps,
            form=self.form,
            precision=self.precision,
            impl=self.impl,
            deterministic=self.deterministic,
            group=self._group(),
        )

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Loss of two views ``[N, D]``, 0-dim; errors as in :func:`vicreg`.

        Raises:
            ValueError: gather_distributed without an initialised process group.
        """
        return self.terms(z_a, z_b)[0]

    def extra_repr(self) -> str:
        """The most frequently varied options."""
        weights = f"lambda_param={self.lambda_param}, mu_param={self.mu_param}, nu_param={self.nu_param}"
        return f"{weights}, gather_distributed={self.gather_distributed}, form={self.form!r}"
