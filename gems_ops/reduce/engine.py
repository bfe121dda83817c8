"""Plans reductions: one launch, or two where few outputs need many elements. No atomics: the same bits on every run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.layout import INT32_EXTENT, contiguous_strides
from gems_ops.op import Declined, result_buffer
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
_POSITIONS = ("argmax", "argmin")
# Where the values of a state are read or written, one to three; None for those that nobody wants.
Places = tuple[Code | None, ...]
_STATES = {"both": 2, "argmax": 2, "argmin": 2, "logsum": 2, "distances": 3, "moments": 3}


@functools.cache
def _sm_count(_index: int) -> int:
    return device.identity().sm_count or SM_COUNT_UNKNOWN


def sm_count() -> int:
    """Multiprocessors of the current device."""
    return _sm_count(device.current_index())


@dataclass(frozen=True)
class Fold:
    """One way to reduce, in the words of `folds`."""

    how: str  # how states combine
    each: str = "same"  # what an element becomes first
    finish: str = "state"  # what becomes of the last state
    parameter: float = 0.0  # of `each` or `finish`; for a mean, the number of elements

    def stages(self) -> tuple[Fold, Fold]:
        """The same reduction in two: elements to states, states to results."""
        merge = "moments" if self.how == "distances" else self.how
        return Fold(self.how, self.each, "state", self.parameter), Fold(merge, "state", self.finish, self.parameter)

    def accumulator(self, dtype: torch.dtype) -> torch.dtype:
        """The type that elements of `dtype` are added or compared in."""
        if self.each == "nonzero":
            return torch.int64 if self.how == "add" else torch.int32
        if dtype == torch.float64:
            return torch.float64
        if dtype.is_floating_point:
            return torch.float32
        return torch.int64 if self.how in ("add", "mul") or dtype == torch.int64 else torch.int32


def plan_reduction(
    plan: Plan, x: Tensor, dim: int | Sequence[int] | None, keepdim: bool, fold: Fold, cast: torch.dtype,
    results: Sequence[torch.dtype | None], strides: Sequence[int] | None = None,
) -> Planned:  # fmt: skip
    """The plan finished for a tensor like `x`, which it calls x, of other strides where they are given. Raises Declined.

    Elements become `cast` before anything else. `results` are the types of the values of the last state, None for one
    that is not wanted; the plan gives back those that are.
    """
    reduced = reduced_dims(dim, x.dim())
    shape = result_shape(x.shape, reduced, keepdim)
    wanted = [dtype for dtype in results if dtype is not None]
    for out, dtype in zip(plan.outs, wanted, strict=bool(plan.outs)):
        result_buffer(out, shape, dtype, x.device)
    to = one_layout(plan.outs) if plan.outs else contiguous_strides(shape)
    if keepdim:
        to = tuple(s for d, s in enumerate(to) if d not in reduced)
    names = [plan.result(shape, dtype, x.device, i) for i, dtype in enumerate(wanted)]
    places = iter(names)
    codes = tuple(None if dtype is None else next(places) for dtype in results)
    g = geometry(x.shape, x.stride() if strides is None else strides, to, reduced)
    launch(plan, (Code("x"),), codes, g, fold, cast, x.device)
    return plan.build(names[0] if len(names) == 1 else f"({', '.join(names)})")


def one_layout(outs: Sequence[Tensor]) -> tuple[int, ...]:
    """The strides of several outputs. Declines different ones: a kernel has one set of strides for all."""
    if any(out.stride() != outs[0].stride() for out in outs):
        raise Declined("out= tensors have different strides")
    return outs[0].stride()


def launch(plan: Plan, x: Places, out: Places, g: Geometry, fold: Fold, cast: torch.dtype, where: torch.device) -> None:
    """Plan the launches for one geometry."""
    if fold.finish == "mean":
        fold = replace(fold, parameter=g.n_reduced)
    t = tiling(g, sm_count(), device.interpreted(), cast.itemsize, _STATES.get(fold.how, 1))
    acc = fold.accumulator(cast)
    wide = g.extent > INT32_EXTENT
    if t.splits == 1:
        _stage(plan, x, out, g, t, fold, cast, acc, wide)
        return
    n_outputs = g.col.size * prod(a.size for a in g.batch)
    types = (acc, torch.int64 if fold.how in _POSITIONS else acc, acc)[: _STATES.get(fold.how, 1)]
    states = tuple(plan.empty(f"stage{i}", (t.splits, n_outputs), dtype, where) for i, dtype in enumerate(types))
    first, second = fold.stages()
    _stage(plan, x, states, g.numbered(), t, first, cast, acc, wide, out_stride_split=n_outputs)
    g2 = g.of_partials(t.splits)
    _stage(plan, states, out, g2, tiling(g2, 1, device.interpreted(), acc.itemsize), second, acc, acc, wide)


def _stage(
    plan: Plan, x: Places, out: Places, g: Geometry, t: Tiling, fold: Fold, cast: torch.dtype, acc: torch.dtype, wide: bool,
    out_stride_split: int = 0,
) -> None:  # fmt: skip
    """One launch of the short kernel where the geometry fits it, else of the long one."""
    col, n = g.col, g.n
    if len(g.batch) < 2 and not g.outer:
        b = g.batch[0] if g.batch else ONE
        layout = (col.size, col.x, col.out, b.x, b.out, out_stride_split, n.size, n.x)
        kernel, loops = _reduce_kernel, ()
    else:
        b, r = (ONE,) * (4 - len(g.batch)) + g.batch, (ONE,) * (3 - len(g.outer)) + g.outer
        steps_n = triton.cdiv(n.size, t.block_n)
        layout = (
            col.size, col.x, col.out, out_stride_split, *(a.size for a in b[1:]), *(a.x for a in b), *(a.out for a in b),
            n.size, n.x, steps_n * prod(a.size for a in r), steps_n, *(a.size for a in r[1:]), *(a.x for a in r),
        )  # fmt: skip
        kernel, loops = _reduce_strided_kernel, (len(g.outer),)
    alone = t.steps_per_split == 1
    stages = 1 if alone else t.stages
    constants = (TL[cast], TL[acc], fold.each, fold.how, fold.finish, wide, *loops, alone, t.block_m, t.block_n, stages)
    numbers = (*layout, t.steps_per_split, fold.parameter)
    places = (*(*x, None, None)[:3], *(*out, None, None)[:3])
    # a state of several values needs their registers
    num_warps = min(8, t.num_warps * (2 if fold.how in _STATES else 1))
    plan.launch(kernel, (t.programs, t.splits), *places, *numbers, *constants, num_warps=num_warps)


def add_rows(plan: Plan, rows: Code, out: Code, shape: tuple[int, int], where: torch.device) -> None:
    """Plan to write the sum of the rows of a dense float32 matrix to `out`, which has a row's elements in any floating type."""
    g = geometry(shape, (shape[1], 1), (1,), frozenset({0}))
    launch(plan, (rows,), (out,), g, Fold("add"), torch.float32, where)
