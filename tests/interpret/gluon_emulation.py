"""Runs a warp-specialised Gluon kernel on the CPU: partitions are threads, tensors are torch's, layouts do not exist.

Of what the hardware does asynchronously the worst that is allowed happens: a copy writes its stage at once, and a
matrix product reads its operands only when it is waited for. So a stage that is released too early is overwritten, a
result that is used too early is an error, and partitions that wait for each other in a circle are an error, too.
"""

from __future__ import annotations

import math
import threading
import types
from typing import Any

import torch

PATIENCE = 30.0  # seconds until a barrier that nobody completes is an error
LOCAL = threading.local()
HALVES = (torch.bfloat16, torch.float16)


class Pointer:
    """A tensor's memory from an offset on, which may be a tensor of offsets."""

    def __init__(self, memory: torch.Tensor, offset: Any = 0) -> None:
        self.memory, self.offset = memory, offset

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.offset + offset)


def load(pointer: Pointer, mask: torch.Tensor | None = None, other: float = 0.0) -> torch.Tensor:
    """What the pointer refers to; an element outside of the tensor is an error, unless it is masked."""
    offset = torch.as_tensor(pointer.offset).long()
    if mask is None:
        assert bool(((offset >= 0) & (offset < pointer.memory.numel())).all()), "read outside of a tensor"
        return pointer.memory.view(-1)[offset]
    return torch.where(mask, load(pointer + torch.where(mask, 0, -offset)), other)


def store(pointer: Pointer, value: torch.Tensor, mask: torch.Tensor) -> None:
    """Write the elements where the mask is set; none twice."""
    places = pointer.offset[mask]
    assert places.numel() == 0 or 0 <= int(places.min()) <= int(places.max()) < pointer.memory.numel()
    assert places.unique().numel() == places.numel()
    pointer.memory.view(-1)[places] = value[mask].to(pointer.memory.dtype)


class Shared:
    """Shared memory; new memory is NaN."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data, self.dtype = data, data.dtype

    def index(self, i: Any) -> Shared:
        return Shared(self.data[int(i)])

    def slice(self, start: Any, length: Any) -> Shared:
        return Shared(self.data[int(start) : int(start) + int(length)])

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.data.permute(order))

    def load(self, layout: object) -> torch.Tensor:
        """In registers, where it stays for all products of the partition."""
        LOCAL.kept = self.data.clone()
        return LOCAL.kept


class Barrier:
    """An mbarrier: a phase ends when ``count`` have arrived and all bytes that it expects are there."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.count = self.missing = self.phase = self.bytes = 0

    def arrive(self, expected: int = 0) -> None:
        with self.condition:
            self.missing, self.bytes = self.missing - 1, self.bytes + expected
            assert self.missing >= 0, "more arrivals than the barrier counts"
            self.complete()

    def receive(self, size: int) -> None:
        with self.condition:
            self.bytes -= size
            self.complete()

    def complete(self) -> None:
        if self.missing == 0 and self.bytes == 0:
            self.missing, self.phase = self.count, self.phase + 1
            self.condition.notify_all()

    def wait(self, parity: Any) -> None:
        """Until the phase of this parity has ended; that before the first counts as one that has."""
        with self.condition:
            ended = self.condition.wait_for(lambda: (self.phase + 1) % 2 == int(parity), PATIENCE)
        assert ended, "a barrier is never completed"


class Barriers(list[Barrier]):
    """Barriers in shared memory."""

    def index(self, i: Any) -> Barrier:  # type: ignore[override]
        return self[int(i)]


class Product:
    """A matrix product in flight."""

    def __init__(self, *operands: Any) -> None:
        self.operands = operands
        self.result: torch.Tensor | None = None

    def finish(self) -> None:
        a, b, acc, use_acc = self.operands
        a = a.data if isinstance(a, Shared) else a
        acc = acc.result if isinstance(acc, Product) else acc
        product = a.float() @ b.data.float()
        self.result = acc + product if use_acc else product


def warpgroup_mma(a: Any, b: Shared, acc: Any, *, use_acc: bool = True, is_async: bool = False) -> Product:
    assert is_async and b.dtype in HALVES and a.dtype == b.dtype, "the kernel multiplies halves, asynchronously"
    product = Product(a, b, acc, use_acc)
    LOCAL.flying.append(product)
    return product


def warpgroup_mma_wait(count: int, deps: list[Any]) -> Any:
    """Finish all products but the last ``count``; registers that they read must be among what the wait returns."""
    while len(LOCAL.flying) > count:
        product = LOCAL.flying.pop(0)
        product.finish()
        a = product.operands[0]
        assert product in deps, "the result of a product that has ended is not among the dependencies"
        held = isinstance(a, Shared) or a is LOCAL.kept or any(a is dep for dep in deps)
        assert held, "the registers of an operand may be overwritten while it is read"
    results = [dep.result if isinstance(dep, Product) else dep for dep in deps]
    assert all(result is not None for result in results), "a result is used before its product has ended"
    return results[0] if len(results) == 1 else tuple(results)


def copy_tile(descriptor: Any, place: list[Any], barrier: Barrier, tile: Shared) -> None:
    """A tile of a matrix, with zeros outside of it."""
    rows, columns = descriptor.block_shape
    row, column = (int(x) for x in place)
    block = torch.zeros(rows, columns, dtype=descriptor.base.dtype)
    inside = descriptor.base[row : row + rows, column : column + columns]
    block[: inside.shape[0], : inside.shape[1]] = inside
    tile.data.copy_(block)
    barrier.receive(block.numel() * block.element_size())


def warp_specialize(partitions: list[Any], warps: object, registers: object) -> None:
    """Run every partition in a thread."""
    failures: list[BaseException] = []
    program = LOCAL.program

    def run(function: Any, arguments: Any) -> None:
        LOCAL.program, LOCAL.flying, LOCAL.kept = program, [], None
        try:
            function(*arguments)
            assert not LOCAL.flying, "a product is never waited for"
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=partition) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def allocate(dtype: torch.dtype, shape: list[Any], layout: Any) -> Any:
    if layout is Barriers:
        return Barriers(Barrier() for _ in range(int(shape[0]))) if len(shape) > 1 else Barrier()
    return Shared(torch.full([int(x) for x in shape], math.nan, dtype=dtype))


def init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.missing = count


def scalar(x: Any) -> torch.Tensor:
    return torch.as_tensor(x)


def nothing(*_: object, **__: object) -> None:
    """Layouts and fences."""


LANGUAGE = types.SimpleNamespace(
    abs=torch.abs,
    allocate_shared_memory=allocate,
    arange=lambda start, end, layout=None: torch.arange(int(start), int(end), dtype=torch.int32),
    cdiv=lambda a, b: -(-a // b),
    constexpr=object,
    convert_layout=lambda x, layout: x,
    exp2=torch.exp2,
    float16=torch.float16,
    float32=torch.float32,
    int64=torch.int64,
    load=load,
    log2=torch.log2,
    maximum=lambda a, b: torch.maximum(scalar(a), scalar(b)),
    minimum=lambda a, b: torch.minimum(scalar(a), scalar(b)),
    program_id=lambda axis: torch.tensor(LOCAL.program[axis], dtype=torch.int32),
    static_range=range,
    store=store,
    warp_specialize=warp_specialize,
    where=torch.where,
    zeros=lambda shape, dtype, layout=None: torch.zeros([int(x) for x in shape], dtype=dtype),
    DotOperandLayout=nothing,
    NVMMADistributedLayout=nothing,
    SliceLayout=nothing,
)
HOPPER = {
    "fence_async_shared": nothing,
    "mbarrier": types.SimpleNamespace(
        MBarrierLayout=lambda: Barriers,
        arrive=lambda barrier: barrier.arrive(),
        expect=lambda barrier, size: barrier.arrive(int(size)),
        init=init,
        wait=lambda barrier, parity: barrier.wait(parity),
    ),
    "tma": types.SimpleNamespace(async_copy_global_to_shared=copy_tile),
    "warpgroup_mma": warpgroup_mma,
    "warpgroup_mma_wait": warpgroup_mma_wait,
}


class Descriptor:
    """A tensor descriptor as a kernel sees it."""

    def __init__(self, descriptor: Any) -> None:
        self.base, self.block_shape, self.layout = descriptor.base, descriptor.block_shape, descriptor.layout
        self.dtype = descriptor.base.dtype


def emulated(function: Any, known: dict[Any, Any]) -> Any:
    """The Python function of a kernel, with the emulation in place of Triton wherever it reaches."""
    raw = function.fn
    if raw in known:
        return known[raw]
    scope = dict(raw.__globals__)
    copied = types.FunctionType(raw.__code__, scope, raw.__name__, raw.__defaults__)
    known[raw] = copied
    for name in raw.__code__.co_names:
        value = scope.get(name)
        if name in ("gl", "tl"):
            scope[name] = LANGUAGE
        elif name in HOPPER:
            scope[name] = HOPPER[name]
        elif hasattr(value, "fn"):
            scope[name] = emulated(value, known)
        elif type(value).__name__ == "constexpr":
            scope[name] = value.value
    return copied


class EmulatedKernel:
    """Stands for a Gluon kernel: ``kernel[grid](*arguments, **constants)`` runs its programs one after the other."""

    def __init__(self, kernel: Any) -> None:
        self.function = emulated(kernel, {})

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, num_warps: int, maxnreg: int, **constants: Any) -> None:
            given = [self.argument(argument) for argument in arguments]
            for x in range(grid[0]):
                for y in range(grid[1]):
                    LOCAL.program = (x, y)
                    self.function(*given, **constants)

        return launch

    @staticmethod
    def argument(value: Any) -> Any:
        """As a kernel sees it."""
        if isinstance(value, torch.Tensor):
            return Pointer(value)
        return torch.tensor(value, dtype=torch.int32) if isinstance(value, int) else Descriptor(value)
