"""The backward for sm_90, warp-specialised in Gluon: ``impl="gluon"``. It has never run on a GPU.

What is known of it without one: it compiles without spills (tests/compile_only), an emulation of its operations gives
the gradients of the float64 definition (tests/interpret), and the model of docs/gpu-model.md counts its cycles. So
nothing chooses it but ``impl="gluon"``, until tests/gpu has passed on an H100 or H200.

One warp copies column tiles into a ring in shared memory, and two groups of four warps take 64 rows each. A group
multiplies the next tile while it computes the exponentials of this one, and nothing keeps the groups in step.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from . import ntxent_backward
from .ntxent_backward import Launch
from .ntxent_forward import ntxent_fwd
from .ntxent_normalize import ntxent_prologue
from .numerics import FP16_LIFT, LOG2E, fixed_shift, shift_applies
from .pair_masks import negatives
from .tile_table import Tile, device_traits, gluon_tile
from .tiles import count_tiles, load_columns, nth_tile, row_tile, row_tile_specials

__all__ = ["ntxent_bwd", "ntxent_fwd", "ntxent_prologue"]

# rows of a group of four warps: a matrix product of sm_90 has that many
GROUP_ROWS = gl.constexpr(64)
# registers per thread as the program starts, then those of a group, then those of the warp that copies
START_REGISTERS = 168
GROUP_REGISTERS, COPY_REGISTERS = gl.constexpr(240), gl.constexpr(24)


# the warp that copies, in the order in which the groups take tiles: first those without masks. a stage is free when
# both groups have arrived at its barrier ``empty``; its first use waits for nothing
@gluon.jit
def copy_tiles(
    columns, ring, full, empty, specials, BLOCK_N: gl.constexpr, BLOCK_D: gl.constexpr, STAGES: gl.constexpr
):
    done = 0
    for MASKED in gl.static_range(2):
        count = count_tiles(specials, MASKED)
        for i in range(0, count):
            at = done + i
            stage = at % STAGES
            mbarrier.wait(empty.index(stage), (at // STAGES + 1) % 2)
            mbarrier.expect(full.index(stage), BLOCK_N * BLOCK_D * 2)
            first_col = nth_tile(i, specials, MASKED) * BLOCK_N
            tma.async_copy_global_to_shared(columns, [first_col, 0], full.index(stage), ring.index(stage))
        done += count


# p_ij of a tile from its products, as the left operand of the next product; see ntxent_bwd_kernel
@gluon.jit
def weigh(
    s,
    tile,
    pointers,
    of_rows,
    numbers,
    MASKED: gl.constexpr,
    IS_ONLINE: gl.constexpr,
    HAS_WEIGHT: gl.constexpr,
    BLOCK_N: gl.constexpr,
    PRODUCTS: gl.constexpr,
    OPERAND: gl.constexpr,
    DTYPE: gl.constexpr,
):
    lse, factor, weight = pointers
    self_col, positive_col, row_number, row_weight = of_rows
    num_cols, scale, shift = numbers
    cols = tile * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, PRODUCTS))
    s = s * scale
    if IS_ONLINE:
        column_lse = load_columns(lse, cols, num_cols, MASKED) * LOG2E
        row_part = gl.exp2(s - row_number[:, None])
        column_part = gl.exp2(s - column_lse[None, :])
        if HAS_WEIGHT:
            row_part = row_part * row_weight[:, None]
            column_part = column_part * load_columns(weight, cols, num_cols, MASKED)[None, :]
        p = row_part + column_part
    else:
        p = gl.exp2(s - shift) * (row_number[:, None] + gl.load(factor + cols)[None, :])
    if MASKED:
        p = gl.where(negatives(cols, self_col, positive_col) & (cols < num_cols)[None, :], p, 0.0)
    if gl.float16 == DTYPE:
        p = p * FP16_LIFT
    return gl.convert_layout(p.to(DTYPE), OPERAND)


# the groups issue products in turns, so that one computes exponentials while the other multiplies: in step, both would
# wait for the tensor cores and then leave them idle. the first turn is that of group 0
@gluon.jit
def take_turn(turns, at, GROUP: gl.constexpr):
    mbarrier.wait(turns.index(GROUP), (at + 1 - GROUP) % 2)


@gluon.jit
def pass_turn(turns, GROUP: gl.constexpr):
    mbarrier.arrive(turns.index(1 - GROUP))


# one group: sums p_ij k_j for its rows. in the loop without masks the products of tile i and of p of tile i - 1 are in
# flight together, and p is among what the second wait depends on, since its registers are read until then
@gluon.jit
def sum_rows(
    z_tile,
    ring,
    ready,
    full,
    empty,
    turns,
    pointers,
    partial,
    specials,
    numbers,
    place,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_D: gl.constexpr,
    STAGES: gl.constexpr,
    IS_ONLINE: gl.constexpr,
    GUARDED: gl.constexpr,
    HAS_WEIGHT: gl.constexpr,
):
    PRODUCTS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    RESULT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, RESULT, 2)
    DTYPE: gl.constexpr = ring.dtype
    lse, factor, weight = pointers
    n, offset, view, pair, split, applies = place

    pairs = pair + GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, PRODUCTS))
    in_rows = pairs < n
    if GUARDED:
        in_rows = in_rows & applies
    self_col = offset + view * n + pairs
    positive_col = offset + (1 - view) * n + pairs
    if IS_ONLINE:
        row_number = gl.load(lse + self_col, mask=in_rows, other=0.0) * LOG2E
    else:
        row_number = gl.load(factor + self_col, mask=in_rows, other=0.0)
    row_weight = gl.load(weight + self_col, mask=in_rows, other=0.0) if HAS_WEIGHT else row_number
    of_rows = (self_col, positive_col, row_number, row_weight)

    mbarrier.wait(ready, 0)
    # in registers: shared memory would have to serve it for every tile
    q = z_tile.slice(GROUP * GROUP_ROWS, GROUP_ROWS).load(gl.DotOperandLayout(0, PRODUCTS, 2))
    acc = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, RESULT)
    nothing = gl.zeros([GROUP_ROWS, BLOCK_N], gl.float32, PRODUCTS)

    plain = count_tiles(specials, False)
    if plain > 0:
        mbarrier.wait(full.index(0), 0)
        take_turn(turns, 0, GROUP)
        s = warpgroup_mma(q, ring.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
        pass_turn(turns, GROUP)
        s = warpgroup_mma_wait(0, deps=[s])
        tile = nth_tile(0, specials, False)
        p = weigh(s, tile, pointers, of_rows, numbers, False, IS_ONLINE, HAS_WEIGHT, BLOCK_N, PRODUCTS, OPERAND, DTYPE)
        for i in range(1, plain):
            stage = i % STAGES
            before = (i - 1) % STAGES
            mbarrier.wait(full.index(stage), i // STAGES % 2)
            take_turn(turns, i, GROUP)
            s = warpgroup_mma(q, ring.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
            acc = warpgroup_mma(p, ring.index(before), acc, is_async=True)
            pass_turn(turns, GROUP)
            s = warpgroup_mma_wait(1, deps=[s])
            tile = nth_tile(i, specials, False)
            following = weigh(
                s, tile, pointers, of_rows, numbers, False, IS_ONLINE, HAS_WEIGHT, BLOCK_N, PRODUCTS, OPERAND, DTYPE
            )
            acc, p = warpgroup_mma_wait(0, deps=[acc, p])
            mbarrier.arrive(empty.index(before))
            p = following
        last = (plain - 1) % STAGES
        acc = warpgroup_mma(p, ring.index(last), acc, is_async=True)
        acc, p = warpgroup_mma_wait(0, deps=[acc, p])
        mbarrier.arrive(empty.index(last))
    for i in range(0, count_tiles(specials, True)):
        at = plain + i
        stage = at % STAGES
        mbarrier.wait(full.index(stage), at // STAGES % 2)
        s = warpgroup_mma(q, ring.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[s])
        tile = nth_tile(i, specials, True)
        p = weigh(s, tile, pointers, of_rows, numbers, True, IS_ONLINE, HAS_WEIGHT, BLOCK_N, PRODUCTS, OPERAND, DTYPE)
        acc = warpgroup_mma(p, ring.index(stage), acc, is_async=True)
        acc, p = warpgroup_mma_wait(0, deps=[acc, p])
        mbarrier.arrive(empty.index(stage))
    if gl.float16 == DTYPE:
        acc = acc / FP16_LIFT

    pairs = pair + GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, RESULT))
    in_rows = pairs < n
    if GUARDED:
        in_rows = in_rows & applies
    d = gl.arange(0, BLOCK_D, layout=gl.SliceLayout(0, RESULT))
    first = (split.to(gl.int64) * (2 * n) + view * n + pair) * D
    offsets = (pairs - pair)[:, None] * D + d[None, :]
    gl.store(partial + first + offsets, acc, mask=in_rows[:, None] & (d < D)[None, :])


# as ntxent_bwd_kernel, with rows and columns as tensor descriptors, whose copies are zero outside of the tensor
@gluon.jit(do_not_specialize=["n", "num_cols", "offset", "tiles_per_split"])
def ntxent_bwd_gluon_kernel(
    z,
    columns,
    lse,
    factor,
    weight,
    temperature,
    partial,
    n,
    num_cols,
    offset,
    tiles_per_split,
    D: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    BLOCK_D: gl.constexpr,
    STAGES: gl.constexpr,
    IS_ONLINE: gl.constexpr,
    GUARDED: gl.constexpr,
    HAS_WEIGHT: gl.constexpr,
):
    z_tile = gl.allocate_shared_memory(z.dtype, [BLOCK_M, BLOCK_D], z.layout)
    ring = gl.allocate_shared_memory(columns.dtype, [STAGES, BLOCK_N, BLOCK_D], columns.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    for i in gl.static_range(2):
        mbarrier.init(turns.index(i), count=1)
    mbarrier.init(ready, count=1)
    fence_async_shared()  # the copies must see the barriers

    view, pair = row_tile(gl.program_id(0), n, BLOCK_M)
    split = gl.program_id(1)
    begin = split * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(num_cols, BLOCK_N))
    applies = True
    if GUARDED:
        applies = shift_applies(temperature, num_cols, IS_ONLINE)
        end = tl.where(applies, end, begin)
    specials = row_tile_specials(begin, end, pair, offset, n, num_cols, BLOCK_M, BLOCK_N)
    scale = 1.0 / gl.load(temperature) * LOG2E
    mbarrier.expect(ready, BLOCK_M * BLOCK_D * 2)
    tma.async_copy_global_to_shared(z, [view * n + pair, 0], ready, z_tile)
    pointers = (lse, factor, weight)
    numbers = (num_cols, scale, fixed_shift(num_cols))
    place = (n, offset, view, pair, split, applies)
    gl.warp_specialize(
        [
            (
                sum_rows,
                (
                    z_tile, ring, ready, full, empty, turns, pointers, partial, specials, numbers, place,
                    0, D, BLOCK_N, BLOCK_D, STAGES, IS_ONLINE, GUARDED, HAS_WEIGHT,
                ),
            ),
            (
                sum_rows,
                (
                    z_tile, ring, ready, full, empty, turns, pointers, partial, specials, numbers, place,
                    1, D, BLOCK_N, BLOCK_D, STAGES, IS_ONLINE, GUARDED, HAS_WEIGHT,
                ),
            ),
            (copy_tiles, (columns, ring, full, empty, specials, BLOCK_N, BLOCK_D, STAGES)),
        ],
        [4, 1],
        [GROUP_REGISTERS, COPY_REGISTERS],
    )  # fmt: skip


def launch_gluon(a: Launch) -> None:
    """Launch `ntxent_bwd_gluon_kernel`; what it cannot compute, `tile_table.gluon_tile` refuses."""
    width, tile = a.z.shape[1], a.tile
    layout = gl.NVMMASharedLayout(swizzle_byte_width=min(128, 2 * tile.block_d), element_bitwidth=16, rank=2)
    ntxent_bwd_gluon_kernel[(a.row_tiles, a.partial.shape[0])](
        TensorDescriptor.from_tensor(a.z, [tile.block_m, tile.block_d], layout),
        TensorDescriptor.from_tensor(a.columns, [tile.block_n, tile.block_d], layout),
        a.lse,
        a.factor,
        a.lse if a.weight is None else a.weight,
        a.temperature,
        a.partial,
        a.z.shape[0] // 2,
        a.columns.shape[0],
        a.offset,
        a.tiles_per_split,
        D=width,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_D=tile.block_d,
        STAGES=tile.num_stages,
        IS_ONLINE=a.is_online,
        GUARDED=a.guarded,
        HAS_WEIGHT=a.is_online and a.weight is not None,
        num_warps=tile.num_warps,
        maxnreg=START_REGISTERS,
    )


def ntxent_bwd(*saved: Any, tile: Tile | None = None, splits: int | None = None) -> tuple[torch.Tensor, ...]:
    """`ntxent_backward.ntxent_bwd` with this kernel.

    Args:
        saved: the arguments of that function.
        tile: overrides the table; ``num_warps`` are those of a group, ``num_stages`` those of the ring.
        splits: overrides the number of column splits.

    Raises:
        ValueError: the device, the dtype or the width of the rows is not among what the kernel computes.
    """
    z = saved[2]
    tile = tile or gluon_tile(device_traits(z.device)[0], z.dtype, z.shape[1])
    return ntxent_backward.ntxent_bwd(*saved, tile=tile, splits=splits, launch=launch_gluon)
