"""Plans scans along one dimension: one launch, or two where few rows are long. The same bits on every run.

In two launches the parts of a row are first reduced; then every program combines the states of the parts before its
own, always in the same order, and scans from there. Nobody waits for anybody there, but rows are read twice; sums and
products in float32 wait, see look_back.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gems_ops.create.fill import fill_dense
from gems_ops.layout import INT32_EXTENT, contiguous_strides, extent
from gems_ops.op import Declined, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.reduce.engine import TL, sm_count
from gems_ops.rows.tiling import Rows, RowStrides, read_rows, rows_of, strides_along
from gems_ops.scan.kernels import _part_kernel, _scan_kernel
from gems_ops.scan.look_back import _look_back_kernel
from gems_runtime import device

# Chosen with tools/sweep_tiles on an NVIDIA H200, 2026-11-22; cumsum in us, float32 and bfloat16, ATen's in brackets:
# 8192 x 8192 along rows 134, 67 (409, 376), along columns 163, 163 (3002, 3050); (64, 1024, 1024) along the middle 155,
# 122 (445, 420); 16 rows of 1000000 60, 31 (1565, 1539); one row of 10000000 36, 18 (34.5, 42).
TILE = 4096  # elements of a tile, but for whole rows
# Elements of a row in one tile, which is also the tile of parts of longer ones, where a state is one value: two of them would not
# fit the registers (one row of 10000000: logcumsumexp 56 us in tiles of 4096, 97 in these; H100, 2026-11-27).
LONGEST = 8192
ACROSS = (32, 128)  # tile of rows that are neighbours in memory; half as wide and twice as long where they are few
MOST_STATES = 4096  # that a program combines before it starts: one of each row for each part before its own
PROGRAMS_PER_SM = 16  # where rows are cut
# Sums and products of float32 along few long rows; of 16 bits, reading twice costs less than waiting: one row of 10000000 in us, in one
# pass and in two, float32 40, 45, bfloat16 24, 20 (ATen 43, 49; H100, 2026-11-27).
ONE_PASS = frozenset({torch.float32})
PART_STAGES = 3  # tiles of a part that are on their way at once while it is reduced
_TWO_VALUES = ("latest_max", "latest_min", "logsum")


@dataclass(frozen=True)
class Tiling:
    """How rows are cut into programs. `part` elements of a row are one program's."""

    block_r: int
    block_n: int
    programs: int
    parts: int
    part: int
    num_warps: int
    stages: int = 1  # tiles that are on their way at once


def tiling(rows: Rows, across: bool, processors: int, two_values: bool = False) -> Tiling:
    """Tiles that fill a machine of so many multiprocessors (0: one that pays per program); rows are cut where there are too few.

    `two_values` says that the state of a row is two.
    """
    n_pow2, rows_pow2 = triton.next_power_of_2(rows.n_cols), triton.next_power_of_2(rows.n_rows)
    if across:
        width, length = ACROSS
        if triton.cdiv(rows.n_rows, width) < 2 * processors:
            width, length = width // 2, length * 2
        block_r, block_n = min(width, rows_pow2), min(length, n_pow2)
    else:
        block_n = n_pow2 if n_pow2 <= LONGEST else TILE
        block_r = min(rows_pow2, max(1, TILE // block_n))
        while block_r > 1 and triton.cdiv(rows.n_rows, block_r) < 2 * processors:
            block_r //= 2
    programs = triton.cdiv(rows.n_rows, block_r)
    if programs >= processors:  # reading twice costs more than it brings
        return cut(rows, block_r, block_n, 1)
    parts = min(PROGRAMS_PER_SM * processors // programs, MOST_STATES // block_r)
    if across or n_pow2 <= LONGEST or two_values:
        return cut(rows, block_r, block_n, min(parts, triton.cdiv(rows.n_cols, 2 * block_n)))
    return cut(rows, 1, LONGEST, parts)


def cut(rows: Rows, block_r: int, block_n: int, parts: int) -> Tiling:
    """Tiles of this size; rows in about so many parts."""
    programs, steps = triton.cdiv(rows.n_rows, block_r), triton.cdiv(rows.n_cols, block_n)
    per_part = triton.cdiv(steps, max(1, min(parts, steps)))
    num_warps = max(1, min(8, block_r * block_n // 1024))
    return Tiling(block_r, block_n, programs, triton.cdiv(steps, per_part), per_part * block_n, num_warps)


def accumulator(dtype: torch.dtype, how: str) -> torch.dtype:
    """The type that a scan of `dtype` adds or compares in."""
    if dtype == torch.float64 or dtype == torch.int64:
        return dtype
    if dtype.is_floating_point:
        return torch.float32
    return torch.int64 if how in ("add", "mul") else torch.int32


def plan_scan(
    plan: Plan, x: Tensor, dim: int, how: str, cast: torch.dtype, results: Sequence[torch.dtype], in_place: bool = False
) -> Planned:
    """The plan finished for a tensor like `x`, which it calls x. `results` are the types of values and positions."""
    rows = rows_of(x.shape, dim)
    for out, dtype in zip(plan.outs, results, strict=bool(plan.outs)):
        result_buffer(out, x.shape, dtype, x.device)
    if in_place and results[0] != x.dtype:
        raise Declined(f"{x.dtype} cannot hold a result of {results[0]}")
    to = _written(x, plan.outs, dim, rows, in_place)
    # what is scanned may be a copy, but not in place
    plan.has("x", x)
    strides = to if in_place else read_rows(plan, "x", x, dim, rows)
    outs = [Code("x")] if in_place else [plan.result(x.shape, dtype, x.device, i) for i, dtype in enumerate(results)]
    _launches(plan, rows, strides, to, outs, how, cast, x)
    return plan.build(outs[0] if len(outs) == 1 else f"({', '.join(outs)})")


def _written(x: Tensor, outs: Sequence[Tensor], dim: int, rows: Rows, in_place: bool) -> RowStrides:
    """The strides that write results as `rows`. Declines outputs that cannot be."""
    targets = [x] if in_place else outs
    found = {strides_along(t.shape, t.stride(), dim, rows) for t in targets}
    if not found:
        return strides_along(x.shape, contiguous_strides(x.shape), dim, rows)
    if None in found or len(found) > 1:
        raise Declined("out= tensors cannot be written as rows of one kind")
    return found.pop()


def _launches(
    plan: Plan, rows: Rows, strides: RowStrides, to: RowStrides, outs: Sequence[Code], how: str, cast: torch.dtype, x: Tensor
) -> None:
    """One launch, or with parts two."""
    step = strides[1] if rows.inner > 1 else strides[0]
    across = 0 < step < strides[2] and rows.n_rows > 1
    t = tiling(rows, across, 0 if device.interpreted() else sm_count(), how in _TWO_VALUES)
    acc = accumulator(cast, how)
    wide = max(rows.n_cols * max(strides[2], to[2], 1), extent(x.shape, x.stride())) > INT32_EXTENT
    sizes = (rows.n_rows, rows.n_cols, rows.inner)
    constants = (TL[cast], TL[acc], how)
    if t.parts > 1 and t.block_n == LONGEST and not across and _may_look_back(how, cast):
        _one_pass(plan, rows, t, (*sizes, *strides, *to), outs[0], (*constants, wide), x.device)
        return
    # whole rows stay a loop of one step: without it Triton 3.6 takes 83 registers a thread instead of 64 (8192 float32, sm_90)
    alone = t.parts > 1 and t.part == t.block_n
    a = b = None
    if t.parts > 1:
        a = plan.empty("before", (t.parts, rows.n_rows), acc, x.device)
        if how in _TWO_VALUES:
            b = plan.empty("before1", (t.parts, rows.n_rows), acc if how == "logsum" else torch.int64, x.device)
        plan.launch(
            _part_kernel, (t.programs, t.parts - 1), Code("x"), a, b, *sizes, *strides, t.part, *constants, wide,
            alone, t.block_r, t.block_n, min(PART_STAGES, t.part // t.block_n), num_warps=t.num_warps,
        )  # fmt: skip
    places = (Code("x"), a, b, *(*outs, None)[:2])
    plan.launch(
        _scan_kernel, (t.programs, t.parts), *places, *sizes, *strides, *to, t.part, *constants,
        "log" if how == "logsum" else "state", wide, t.parts == 1 and t.part == t.block_n, alone, t.block_r, t.block_n,
        triton.next_power_of_2(t.parts), t.stages, num_warps=t.num_warps,
    )  # fmt: skip


def _may_look_back(how: str, cast: torch.dtype) -> bool:
    """True if that pays, a state is one word, and a program's warps are of 32 threads, as many as it reads words."""
    return how in ("add", "mul") and cast in ONE_PASS and (device.interpreted() or device.identity().vendor == "nvidia")


def _one_pass(
    plan: Plan, rows: Rows, t: Tiling, layout: Sequence[int], out: Code, constants: Sequence[object], where: torch.device
) -> None:
    """The launch in which programs wait for those before them, and one that clears what they wait for."""
    parts, group = triton.cdiv(rows.n_cols, t.block_n), 32 * t.num_warps
    of_a_row = parts + parts // group
    n_words = 1 + rows.n_rows * of_a_row
    words = plan.empty("words", (n_words,), torch.int64, where)
    fill_dense(plan, words, n_words, torch.int64, 0)
    plan.launch(
        _look_back_kernel, (rows.n_rows * parts,), Code("x"), words, out, *layout, parts, of_a_row, *constants, t.block_n, group,
        num_warps=t.num_warps,
    )  # fmt: skip
