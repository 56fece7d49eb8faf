"""Gradient caching: the gradient of a large contrastive batch in the activation memory of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Extra = TypeVar("Extra")


# relative to the norm of z: differently rounded kernels stay far below this, different random numbers rarely do
MOST_DRIFT = 0.1


Embed = Callable[[nn.Module, tuple[Tensor, ...]], Sequence[Tensor]]


def rows_of_views(model: nn.Module, views: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Return the embeddings of every view, all views in one pass: ``model(cat(views))``, cut into V parts.

    Raises:
        TypeError: the model returns no tensor.
        ValueError: it returns another number of rows than it got.
    """
    rows = torch.cat(views)  # unlike a reshape this preserves channels_last
    z = model(rows)
    if not isinstance(z, Tensor):
        raise TypeError(f"the model must return a tensor [n, ...], got {type(z).__name__}")
    if z.dim() == 0 or len(z) != len(rows):
        raise ValueError(f"the model must return one row per image, {len(rows)} in all, got {list(z.shape)}")
    return z.chunk(len(views))


@overload
def cached_step(
    model: nn.Module,
    views: Tensor | Sequence[Tensor],
    loss: Callable[..., Tensor],
    micro_batch: int,
    *,
    embed: Embed = ...,
) -> Tensor:
    """Return the loss."""


@overload
def cached_step(
    model: nn.Module,
    views: Tensor | Sequence[Tensor],
    loss: Callable[..., tuple[Tensor, Extra]],
    micro_batch: int,
    *,
    embed: Embed = ...,
) -> tuple[Tensor, Extra]:
    """Return the loss and the extra value that came with it."""


def cached_step(
    model: nn.Module,
    views: Tensor | Sequence[Tensor],
    loss: Callable[..., Any],
    micro_batch: int,
    *,
    embed: Embed = rows_of_views,
) -> Tensor | tuple[Tensor, Any]:
    """Accumulate the gradient of ``loss(model(view_0), ..., model(view_V-1))`` in ``.grad``, one micro-batch at a time.

    A contrastive loss is not a sum over micro-batches, but its gradient is:
    ``dL/dw = sum_k <dL/dz_k, dz_k/dw>`` over micro-batches k. The embeddings z of the whole batch are computed without
    a graph, the loss gives dL/dz, and each micro-batch then runs again with its graph and goes backward with its rows
    of dL/dz. This costs one forward more than ``loss(...).backward()``, and keeps the activations of one micro-batch
    plus z and dL/dz of the whole batch.

    The gradient equals that of the direct step if each embedding depends on its own images alone. Batch normalisation
    in training mode uses the statistics of a micro-batch (all its views), so its gradient differs.
    The second forward repeats the first: the states of torch's generators (CPU, and the CUDA devices of the model and
    the views) are replayed, and the model's buffers are restored, so running statistics are updated once per
    micro-batch. Other randomness (``random``, NumPy) and state outside of buffers are not replayed; if that changes
    the embeddings of a micro-batch by more than a tenth of their norm, the step raises. On CUDA this check
    synchronises with the device once, at the end.

    Args:
        model: maps images ``[n, ...]`` to embeddings ``[n, ...]``. A DistributedDataParallel reduces its gradients
            once, in the last micro-batch; every rank needs the same number of images, and only the module inside may
            be compiled. A model without trainable parameters is not run again.
        views: ``[V, N, ...]``, or V tensors ``[N, ...]`` of one shape: V views of N images, on the model's device,
            not requiring gradients. With an `embed` of one's own they may differ in all but N, as images and the token
            ids of their captions do.
        loss: takes V embeddings ``[N, ...]``, returns a 0-dim loss, or ``(loss, extra)``. It is called once, and its
            own parameters get their gradient. It may gather over ranks, as `fastclr.NTXentLoss` does.
        micro_batch: images per forward, at least 1. Their views go through the model together, view after view:
            ``V * micro_batch`` rows, fewer in the last forward if N is not a multiple.
        embed: calls the model on V views of some images, ``[n, ...]`` each, and returns any number of embeddings
            ``[n, ...]``, which the loss takes in that order. Default: one for each view, from a model as above. Given
            one's own, the model may be any module; what it returns without gradient, such as the keys of a momentum
            encoder, is a constant.

    Returns:
        The detached loss, or ``(loss, extra)`` with the extra unchanged.

    Raises:
        TypeError: a view, the model's output or the loss is not a tensor, or ``micro_batch`` is not an integer.
        ValueError: a size is wrong, views require gradients, gradients are disabled, a DistributedDataParallel is
            compiled, the model returns the wrong number of rows, the loss is not 0-dim or has no gradient, or the
            embeddings do not depend on the trainable parameters. After the gradients were accumulated: the second
            forward differed from the first.

    Autocast that is active at the call applies to the model and the loss, but not to their backward. With a
    gradient scaler let the loss return ``scaler.scale(value), value``.

    Source: Gao, Zhang, Han and Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
    """
    batch = _check(model, views, micro_batch, alike=embed is rows_of_views)
    parts = [slice(start, start + micro_batch) for start in range(0, len(batch[0]), micro_batch)]
    devices = sorted({t.get_device() for t in (*model.parameters(), *batch) if t.is_cuda})
    embeddings, states = _embed(model, batch, parts, devices, embed)
    leaves = [z.detach().requires_grad_() for z in embeddings]
    result = loss(*leaves)
    value = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    _check_loss(value)
    # as in an ordinary step, the backward runs outside of autocast
    no_autocast = torch.autocast(batch[0].device.type, enabled=False)
    with no_autocast:
        value.backward()
    gradients = [torch.zeros_like(z) if z.grad is None else z.grad for z in leaves]
    if any(parameter.requires_grad for parameter in model.parameters()):
        is_ddp = isinstance(model, DistributedDataParallel)
        drifts = []
        with torch.random.fork_rng(devices):
            for part, state in zip(parts, states, strict=True):
                _set_random_state(state, devices)
                # gradients accumulate locally; the backward of the last micro-batch reduces the sum over the ranks
                with model.no_sync() if is_ddp and part is not parts[-1] else nullcontext():  # type: ignore[operator]
                    again = embed(model, _part(batch, part))
                    moving = [index for index, z in enumerate(again) if z.requires_grad]
                    if not moving:
                        raise ValueError("the model has trainable parameters, but its output does not depend on them")
                    before = _part(embeddings, part)
                    drifts += [_drift(z.detach(), kept) for z, kept in zip(again, before, strict=True)]
                    with no_autocast:
                        torch.autograd.backward(
                            [again[index] for index in moving], [gradients[index][part] for index in moving]
                        )
        if (drift := float(torch.stack(drifts).max())) > MOST_DRIFT:
            raise ValueError(
                f"the gradient is wrong: recomputing a micro-batch changed its embeddings by {100 * drift:.0f}%. "
                "Does the model draw random numbers outside of torch or keep state outside of buffers, or did "
                "torch.compile fall back to eager for one of the two forwards (recompile_limit)?"
            )
    return value.detach() if value is result else (value.detach(), result[1])


def _embed(
    model: nn.Module, batch: Sequence[Tensor], parts: list[slice], devices: list[int], embed: Embed
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return the embeddings of the whole batch, and the generators' states before every micro-batch."""
    # the wrapper would broadcast buffers, but they are restored after this pass
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    embeddings: list[Tensor] = []
    states = []
    with torch.no_grad(), _kept_buffers(inner):
        for part in parts:
            states.append(_random_state(devices))
            found = embed(inner, _part(batch, part))
            if not embeddings:
                embeddings = [z.new_empty((len(batch[0]), *z.shape[1:])) for z in found]
            for kept, new in zip(embeddings, found, strict=True):
                kept[part] = new
    return embeddings, states


def _drift(z: Tensor, before: Tensor) -> Tensor:
    """Return ``|z - before| / |before|``, 0-dim on the device."""
    difference, norm = (torch.linalg.vector_norm(x.float()) for x in (z - before, before))
    drift: Tensor = difference / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return drift


def _part(batch: Sequence[Tensor], part: slice) -> tuple[Tensor, ...]:
    """Return the same images of every view, or the same rows of every embedding."""
    return tuple(rows[part] for rows in batch)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore all buffers on exit, including those that a forward replaced by new tensors."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            buffer.copy_(before)
            setattr(module, name, buffer)


def _random_state(devices: list[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _set_random_state(state: list[Tensor], devices: list[int]) -> None:
    torch.set_rng_state(state[0])
    for device, cuda_state in zip(devices, state[1:], strict=True):
        torch.cuda.set_rng_state(cuda_state, device)


def _check(model: nn.Module, views: Tensor | Sequence[Tensor], micro_batch: int, *, alike: bool) -> tuple[Tensor, ...]:
    """Return the views as a tuple, or raise; if they need not be alike, only their number of rows must agree."""
    if not isinstance(micro_batch, int):
        raise TypeError(f"micro_batch must be an integer, got {micro_batch!r}")
    if micro_batch < 1:
        raise ValueError(f"micro_batch must be at least 1, got {micro_batch}")
    if not torch.is_grad_enabled():
        raise ValueError("cached_step computes gradients, but gradients are disabled: call it outside of no_grad")
    batch = tuple(views)
    for view in batch:
        if not isinstance(view, Tensor):
            raise TypeError(f"views must be tensors, got {type(view).__name__}")
    shapes = [list(view.shape) for view in batch]
    compared = shapes if alike else [shape[:1] for shape in shapes if len(shape) > 1 and 0 not in shape]
    if not batch or len(shapes[0]) < 2 or 0 in shapes[0] or compared != compared[:1] * len(shapes):
        wanted = "shape" if alike else "number of rows N"
        raise ValueError(f"views must be [V, N, ...] or V tensors [N, ...] of one non-empty {wanted}, got {shapes}")
    if any(view.requires_grad for view in batch):
        raise ValueError("views must not require gradients, only the model's parameters get them: detach the views")
    wrapped = getattr(model, "_orig_mod", model)  # the module inside torch.compile
    if isinstance(wrapped, DistributedDataParallel) and (wrapped is not model or model._compiled_call_impl):
        # the two forwards of a micro-batch would be split into different graphs and draw different random numbers
        raise ValueError("compile the wrapped model: DistributedDataParallel(torch.compile(model)), not the reverse")
    return batch


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss must be a 0-dim tensor or (0-dim tensor, extra), got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(f"the loss must be 0-dim (reduction 'mean' or 'sum'), got shape {list(value.shape)}")
    if not value.requires_grad:
        raise ValueError("the loss must depend on the embeddings, but it has no gradient")
