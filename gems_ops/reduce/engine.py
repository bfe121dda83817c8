"""Plans reductions: one launch, or two where few outputs need many elements. No atomics: the same bits on every run."""

from __future__ import annotations

import functools
from math import prod

import torch
import triton.language as tl
from torch import Tensor

from gems_ops.layout import INT32_EXTENT, contiguous_strides
from gems_ops.op import result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.reduce.geometry import ONE, Geometry, Tiling, geometry, reduced_dims, result_shape, tiling
from gems_ops.reduce.kernels import _reduce_kernel, _reduce_strided_kernel
from gems_runtime import device

TL = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64,
    torch.uint8: tl.uint8, torch.int8: tl.int8, torch.int16: tl.int16, torch.int32: tl.int32, torch.int64: tl.int64,
    torch.bool: tl.int1,
}  # fmt: skip


SM_COUNT_UNKNOWN = 132  # of an H100 or H200, where kernels are compiled for a target that is not here


@functools.cache
def _sm_count(_index: int) -> int:
    return device.identity().sm_count or SM_COUNT_UNKNOWN


def sm_count() -> int:
    """Multiprocessors of the current device."""
    return _sm_count(device.current_index())


def accumulator(dtype: torch.dtype, how: str) -> torch.dtype:
    """The type that a reduction with results of `dtype` adds or compares in."""
    if dtype == torch.float64:
        return torch.float64
    if dtype.is_floating_point:
        return torch.float32
    return torch.int32 if how == "max" and dtype != torch.int64 else torch.int64


def plan_reduction(
    plan: Plan, x: Tensor, dim: int | list[int] | None, keepdim: bool, dtype: torch.dtype, how: str
) -> Planned:
    """The plan finished for a tensor like `x`, which it calls x; `dtype` is the result's. Raises Declined."""
    reduced = reduced_dims(dim, x.dim())
    shape = result_shape(x.shape, reduced, keepdim)
    for out in plan.outs:
        result_buffer(out, shape, dtype, x.device)
    strides = plan.outs[0].stride() if plan.outs else contiguous_strides(shape)
    if keepdim:
        strides = [s for d, s in enumerate(strides) if d not in reduced]
    result = plan.result(shape, dtype, x.device)
    launch(plan, Code("x"), result, geometry(x.shape, x.stride(), strides, reduced), dtype, how, x.device)
    return plan.build(result)


def launch(plan: Plan, x: Code, out: Code, g: Geometry, dtype: torch.dtype, how: str, where: torch.device) -> None:
    """Plan the launches for one geometry: `how` is sum, mean or max."""
    t = tiling(g, sm_count(), device.interpreted())
    acc = accumulator(dtype, how)
    if t.splits == 1:
        _stage(plan, x, out, g, t, dtype, acc, how)
        return
    n_outputs = g.col.size * prod(a.size for a in g.batch)
    partial = plan.empty("stage", (t.splits, n_outputs), acc, where)
    _stage(plan, x, partial, g.numbered(), t, dtype, acc, "sum" if how == "mean" else how, out_stride_split=n_outputs)
    g2 = g.of_partials(t.splits)
    _stage(plan, partial, out, g2, tiling(g2, 1, device.interpreted()), acc, acc, how, divisor=g.n_reduced)


def _stage(
    plan: Plan, x: Code, out: Code, g: Geometry, t: Tiling, cast: torch.dtype, acc: torch.dtype, how: str,
    out_stride_split: int = 0, divisor: int = 0,
) -> None:  # fmt: skip
    """One launch of the short kernel where the geometry fits it, else of the long one."""
    col, n = g.col, g.n
    if len(g.batch) < 2 and not g.outer:
        b = g.batch[0] if g.batch else ONE
        layout = (col.size, col.x, col.out, b.x, b.out, out_stride_split, n.size, n.x)
        kernel = _reduce_kernel
    else:
        b, r = (ONE,) * (4 - len(g.batch)) + g.batch, (ONE,) * (3 - len(g.outer)) + g.outer
        layout = (
            col.size, col.x, col.out, out_stride_split, *(a.size for a in b[1:]), *(a.x for a in b),
            *(a.out for a in b), n.size, n.x, *(a.size for a in r), *(a.x for a in r),
        )  # fmt: skip
        kernel = _reduce_strided_kernel
    constants = (TL[cast], TL[acc], how, g.extent > INT32_EXTENT, t.block_m, t.block_n)
    numbers = (*layout, t.steps_per_split, divisor or g.n_reduced)
    plan.launch(kernel, (t.programs, t.splits), x, out, *numbers, *constants, num_warps=t.num_warps)


def add_rows(plan: Plan, rows: Code, out: Code, shape: tuple[int, int], where: torch.device) -> None:
    """Plan to write the sum of the rows of a dense float32 matrix to `out`, which has a row's elements in any floating type."""
    launch(plan, rows, out, geometry(shape, (shape[1], 1), (1,), frozenset({0})), torch.float32, "sum", where)
