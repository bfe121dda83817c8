"""sort and topk: rows sorted whole, or the first k of each selected and then sorted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import triton
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, BOOL, Declined, Sample, planned, result_buffer
from gems_ops.order.bitonic import Lines, lines_of, plan_short_rows
from gems_ops.order.few import are_few, plan_few
from gems_ops.order.radix import IN_REGISTERS, WHOLE, is_short, plan_sorted_rows
from gems_ops.order.select import select_kernel
from gems_ops.order.sweeps import plan_long_rows
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

# topk reads a row in chunks that hold k, two warps for each 512 elements. 8192 rows of 128256, k 50, H200, 2026-11-22:
# chunk 512 with 2 warps 3.9 ms in bfloat16 and 4.5 in float32, 2048 with 8 6.4 and 9.3, ATen 7.5 and 11.6.
_LEAST_CHUNK, _MOST_K = 512, 2048
# A program of 64-bit rows holds one, in 256 places at least: 64 x 64 int64 19 us as ATen's, 65536 x 64 1840 us and 892, but 8192 x 256
# 232 and 373 (H100, 2026-11-27).
_LEAST_WIDE = 192
# One program reads a row; ATen spreads long ones over several, which is faster where rows are few.
_FEW_ROWS, _LONG_ROW = 512, 65536


def dimension(x: Tensor, dim: int) -> int:
    """How many elements x has along dim. Declines a dim out of range."""
    ndim = max(x.dim(), 1)
    if not -ndim <= dim < ndim:
        raise Declined(f"dim {dim} is out of range: ATen raises")
    return x.shape[dim] if x.dim() else 1


def is_last(x: Tensor, dim: int) -> bool:
    return dim in (-1, max(x.dim() - 1, 0))


def plan_rows(plan: Plan, x: Tensor, dim: int) -> Code:
    """x, which the plan calls self, dense and with dim last: the rows of a matrix."""
    if x.is_contiguous() and is_last(x, dim):
        return Code("self")
    plan.do("rows = self.movedim({dim}, -1).contiguous()", dim=dim)
    return Code("rows")


class Fill(Protocol):
    """Plans what fills values and indices from rows: dense ones, or lines as they lie in memory."""

    def __call__(self, rows: Code, values: Code, indices: Code, lines: Lines | None = None, to: Lines | None = None) -> None: ...


def _plan_along(
    plan: Plan, x: Tensor, dim: int, shape: tuple[int, ...], strides: tuple[int, ...], fill: Fill, takes_lines: bool
) -> Planned:
    """The plan of (values, indices) of this shape, and with these strides where they are new.

    `fill` gets x and results as they lie if it takes lines, else dense rows; those are the results, where dim is the last of
    contiguous ones.
    """
    dtypes = (x.dtype, torch.int64)
    for out, dtype in zip(plan.outs, dtypes, strict=False):
        result_buffer(out, shape, dtype, x.device)
    new = torch.empty_strided(shape, strides, device="meta")
    lines, *to = (lines_of(t.shape, t.stride(), dim) for t in (x, *(plan.outs or (new, new))))
    as_they_lie = takes_lines and lines is not None and to[0] is not None and to[0] == to[1]
    rows = Code("self") if as_they_lie else plan_rows(plan, x, dim)
    if plan.outs:
        results = [Code("out0"), Code("out1")]
    else:
        results = [plan.empty(f"out{i}", shape, dtype, x.device, strides) for i, dtype in enumerate(dtypes)]
    if as_they_lie:
        fill(rows, *results, lines, to[0])
    elif is_last(x, dim) and all(t.is_contiguous() for t in plan.outs or (new,)):
        fill(rows, *results)
    else:
        found = [plan.empty(f"found{i}", new.movedim(dim, -1).shape if shape else (), dtype, x.device) for i, dtype in enumerate(dtypes)]
        fill(rows, *found)
        for result, dense in zip(results, found, strict=True):
            plan.do(f"{result}.movedim({{dim}}, -1).copy_({dense})" if shape else f"{result}.copy_({dense})", dim=dim)
    return plan.build("(out0, out1)")


def _specials(dtype: torch.dtype) -> Tensor:
    nan, inf = float("nan"), float("inf")
    return torch.tensor([1.0, nan, -inf, 0.0, -0.0, inf, -nan, 0.0, -1.0, 65504.0, -0.0], dtype=dtype)


def _sorts(dtype: torch.dtype) -> Iterator[Sample]:
    # rows of one tile, and of two
    yield Sample((values((2, 300 if dtype.itemsize == 8 else 1100), dtype),), {"stable": True, "descending": True})
    if dtype in (torch.float32, torch.int64, torch.bool):
        yield Sample((values((1, WHOLE + 4), dtype),), {"stable": True})
    for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (2, 40)):
        yield Sample((values(shape, dtype),), {"stable": True, "dim": -1, "descending": False})
        yield Sample((values(shape, dtype),), {"stable": True, "dim": 0, "descending": True})
    for x in layouts((6, 10), dtype):
        yield Sample((x,), {"stable": True, "dim": 0})
    if dtype.is_floating_point:
        yield Sample((_specials(dtype),), {"stable": True, "descending": True})
        yield Sample((_specials(dtype),), {"stable": None})


def _bench_sort(shape: tuple[int, ...], dim: int = -1) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, where),), {"stable": True, "dim": dim}

    return Workload("x".join(map(str, shape)) + f" dim {dim}", make)


def _bench_sort_int64(shape: tuple[int, ...], bits: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (torch.randint(0, 1 << bits, shape, dtype=dtype, device=where),), {"stable": True}

    return Workload("x".join(map(str, shape)) + f" of {bits} bits", make, dtypes=(torch.int64,))


@planned(
    "aten::sort.stable", dtypes=ALL, samples=_sorts, opinfo=("sort", "argsort", "msort"),
    bench=(
        *(_bench_sort(shape) for shape in ((65536, 256), (8192, 1024), (8192, 4096), (8192, 8192), (128, 128256))),
        *(_bench_sort((1, n)) for n in (10_000_000, 1 << 20, 32768)), _bench_sort((512, 8192), 0),
        *(_bench_sort_int64(shape, 32) for shape in ((8192, 1024), (8192, 4096), (1, 10_000_000))),
        *(_bench_sort_int64((1, n), 8) for n in (1 << 20, 32768)),
    ),
)  # fmt: skip
def sort(
    self: Tensor, stable: bool | None, dim: int = -1, descending: bool = False, out: tuple[Tensor, Tensor] | None = None
) -> Planned:
    """The values in order along dim, nan as the greatest, and where each was. Always stable."""
    n = dimension(self, dim)
    n_rows = self.numel() // n
    if self.dtype.itemsize == 8 and n < _LEAST_WIDE:
        raise Declined(f"rows of {n} elements of 64 bits are sorted as fast or faster by ATen")
    short = is_short(n, self.dtype) and (n <= IN_REGISTERS or not is_last(self, dim))
    plan, shape = Plan("self", "_stable", "_dim", "_descending", out=out), (n_rows, n)
    # New results keep the order of the dimensions in memory.
    strides = torch.empty_like(self, device="meta").stride()

    def fill(rows: Code, values: Code, indices: Code, lines: Lines | None = None, to: Lines | None = None) -> None:
        if short:
            plan_short_rows(plan, rows, shape, n, descending, values, indices, lines=lines, to=to)
        elif n <= WHOLE:
            plan_sorted_rows(plan, rows, self, shape, n, descending, values, indices)
        else:
            plan_long_rows(plan, rows, self, shape, descending, values, indices)

    return _plan_along(plan, self, dim, tuple(self.shape), strides, fill, takes_lines=short)


def _tops(dtype: torch.dtype) -> Iterator[Sample]:
    # Distinct values: of equal ones ATen may give any.
    for shape in ((1,), (7,), (3, 5), (2, 3, 4)):
        n = torch.Size(shape).numel()
        x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).view(shape).to(dtype)
        for k in {1, shape[-1] // 2, shape[-1]} - {0}:
            yield Sample((x, k))
            yield Sample((x, min(k, shape[0]), 0, False, True))
    if dtype in (torch.float32, torch.int64):  # several chunks, and values that all come too late or all in time
        yield Sample((_long(dtype, 1601), 5))
        yield Sample((_long(dtype, 1601).sort().values, 7, -1, True, True))


def _long(dtype: torch.dtype, n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(n)).to(dtype).view(1, -1)


def _bench_topk(n_rows: int, n_cols: int, k: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        # Distinct in every row, so that ATen's choice of equal ones does not matter.
        rows = torch.arange(n_cols, device=where).repeat(n_rows, 1)
        steps = torch.randint(0, n_cols, (n_rows, 1), device=where)
        return (((rows * 40503 + steps) % n_cols).to(dtype), k), {}

    return Workload(f"{n_rows}x{n_cols} k {k}", make)


@planned(
    # torch.testing's samples have equal elements, of which ATen may give any; test_order_seams.py has ours.
    "aten::topk", dtypes=ALL - BOOL, samples=_tops, any_of_equal=True, opinfo=("none",),
    bench=(_bench_topk(8192, 128256, 50), _bench_topk(8192, 8192, 8), _bench_topk(65536, 256, 8), _bench_topk(512, 32000, 1)),
)  # fmt: skip
def topk(
    self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, out: tuple[Tensor, Tensor] | None = None  # noqa: A002
) -> Planned:
    """The k largest (or smallest) along dim in order, nan as the greatest, and where they were; of equal ones the first."""
    n = dimension(self, dim)
    n_rows = self.numel() // n
    short = is_short(n, self.dtype)
    if not 0 < k <= n:
        raise Declined(f"k is {k} of {n}")
    if not short and (k > _MOST_K or (n_rows < _FEW_ROWS and n > _LONG_ROW) or n >= 2**31):
        raise Declined(f"k {k} of {n_rows} rows of {n} is found faster by ATen")
    shape = list(self.shape)
    if shape:
        shape[dim] = k
    plan = Plan("self", "_k", "_dim", "_largest", "_sorted", out=out)

    def fill(rows: Code, values: Code, indices: Code, lines: Lines | None = None, to: Lines | None = None) -> None:
        if short:
            plan_short_rows(plan, rows, (n_rows, n), k, largest, values, indices, lines=lines, to=to)
        elif are_few(n, k, self.dtype):
            plan_few(plan, rows, (n_rows, n), k, largest, values, indices)
        else:
            _plan_selection(plan, rows, self, (n_rows, n), k, largest, values, indices)

    return _plan_along(plan, self, dim, tuple(shape), contiguous_strides(shape), fill, takes_lines=short)


def _plan_selection(
    plan: Plan, rows: Code, like: Tensor, shape: tuple[int, int], k: int, largest: bool, values: Code, indices: Code
) -> None:
    """Select the k first of each row, then sort them."""
    n_rows, n_cols = shape
    chunk = max(_LEAST_CHUNK, triton.next_power_of_2(k))
    spare = triton.next_power_of_2(chunk + k)
    kept, spare_values = (plan.empty(name, (n_rows, n), like.dtype, like.device) for name, n in (("kept", k), ("spare", spare)))
    numbers, spare_indices = (plan.empty(name, (n_rows, n), torch.int32, like.device) for name, n in (("numbers", k), ("spare_numbers", spare)))
    plan.launch(
        select_kernel, (n_rows,), rows, kept, numbers, spare_values, spare_indices, n_cols, k, largest, chunk, spare,
        num_warps=chunk // 256,
    )  # fmt: skip
    plan_sorted_rows(plan, kept, like, (n_rows, k), k, largest, values, indices, numbers)
