"""kthvalue and median of short rows: sorted in registers, of which one element is kept.

Not mode: of values that are equally frequent ATen's CUDA kernel names one that follows from how its threads lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import NUMBERS, Declined, Sample, planned, result_buffer
from gems_ops.order.bitonic import Lines, dense_lines, line_offsets, lines_of, short_row_tile, sort_options, sorted_columns
from gems_ops.order.radix import is_short
from gems_ops.order.sorting import dimension, plan_rows
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_ops.workloads import Workload
from gems_runtime import LibEntry

KTH, MEDIAN = "kth", "median"
MOST_DIMS = 24  # that ATen's kernels of these operators have, on a GPU
SHORT = frozenset(d for d in NUMBERS if d.itemsize <= 4)


@LibEntry
@triton.jit(do_not_specialize=["k"])
def _nth_kernel(
    x_ptr, values_ptr, indices_ptr, n_rows, n_cols, k, n_inner, x_stride_outer, x_stride_inner, x_stride_col,
    WHICH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One element of each line of x, and its column, to dense values and indices."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    rows, cols = row[:, None], tl.arange(0, BLOCK_N)[None, :]
    ok = (rows < n_rows) & (cols < n_cols)
    first = line_offsets(row, n_inner, x_stride_outer, x_stride_inner)
    x = tl.load(x_ptr + first[:, None] + cols * x_stride_col, mask=ok, other=0)
    column = sorted_columns(x, cols, n_cols, False)
    if WHICH == "median":
        place = (rows * 0 + (n_cols - 1) // 2).to(tl.int32)
        if x.dtype.is_floating():
            n_nan = tl.sum((ok & (widen(x) != widen(x))).to(tl.int32), 1)[:, None]
            place = tl.where(n_nan > 0, n_cols - n_nan, place)
    else:
        place = (rows * 0 + k).to(tl.int32)
    chosen = tl.sum(tl.where(cols == place, column, 0), 1)
    value = tl.load(x_ptr + first + chosen * x_stride_col, mask=row < n_rows, other=0)
    tl.store(values_ptr + row, value, mask=row < n_rows)
    tl.store(indices_ptr + row, chosen.to(tl.int64), mask=row < n_rows)


def _check_dims(self: Tensor) -> None:
    if self.dim() > MOST_DIMS:
        raise Declined(f"{self.dim()} dimensions: ATen raises")


def _plan_nth(
    plan: Plan, x: Code, shape: tuple[int, int], which: str, k: int, values: Code, indices: Code, result: str,
    lines: Lines | None = None,
) -> Planned:  # fmt: skip
    """The plan that writes one element of each of these rows, dense ones unless `lines` says how they lie, and where it is."""
    n_rows, n_cols = shape
    block_rows, block = short_row_tile(n_rows, n_cols)
    plan.launch(
        _nth_kernel, (triton.cdiv(n_rows, block_rows),),
        x, values, indices, n_rows, n_cols, k, *astuple(lines or dense_lines(n_cols)),
        which, block_rows, block, **sort_options(),
    )  # fmt: skip
    return plan.build(result)


def _plan_along(plan: Plan, self: Tensor, which: str, k: int, dim: int, keepdim: bool) -> Planned:
    _check_dims(self)
    n = dimension(self, dim)
    if not is_short(n, self.dtype):
        raise Declined(f"rows of {n} are too long to be sorted in registers")
    if not 0 <= k < n:
        raise Declined(f"k is {k + 1} of {n}: ATen raises")
    shape = list(self.shape)
    if shape:
        shape[dim : dim + 1 or None] = [1] * keepdim
    dtypes = (self.dtype, torch.int64)
    if not all(result_buffer(t, shape, d, self.device).is_contiguous() for t, d in zip(plan.outs, dtypes, strict=False)):
        raise Declined("out= is not contiguous")
    lines = lines_of(self.shape, self.stride(), dim)
    x = plan_rows(plan, self, dim) if lines is None else Code("self")
    values, indices = (plan.result(shape, dtype, self.device, i) for i, dtype in enumerate(dtypes))
    return _plan_nth(plan, x, (self.numel() // n, n), which, k, values, indices, "(out0, out1)", lines)


def _rows(*rest: Callable[[int], int]) -> Callable[[torch.dtype], Iterator[Sample]]:
    """Rows of distinct numbers: of equal ones ATen may name any. `rest` gives other arguments for a number of columns."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (40, 2)):
            n = torch.Size(shape).numel()
            x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).view(shape).to(dtype)
            for dim in {-1, 0}:
                more = tuple(f(x.shape[dim] if shape else 1) for f in rest)
                yield Sample((x, *more, dim, bool(dim)))
                if x.dim() > 1:
                    more = tuple(f(x.shape[-1 - dim]) for f in rest)
                    yield Sample((x.transpose(0, -1), *more, dim))

    return make


def _bench(*rest: object) -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        # Distinct in every row, so that ATen's choice of equal ones does not matter.
        rows = torch.arange(256, device=where).repeat(65536, 1)
        steps = torch.randint(0, 256, (65536, 1), device=where)
        return (((rows * 77 + steps) % 256).to(dtype), *rest), {}

    return (Workload("65536x256", make),)


# torch.testing's samples have equal elements; test_order_seams.py has ours
@planned("aten::kthvalue", dtypes=SHORT, samples=_rows(lambda n: (n + 1) // 2), bench=_bench(100), any_of_equal=True, opinfo=("none",))
def kthvalue(self: Tensor, k: int, dim: int = -1, keepdim: bool = False, out: tuple[Tensor, Tensor] | None = None) -> Planned:
    """The k-th smallest along dim, nan as the greatest, and where it is."""
    return _plan_along(Plan("self", "_k", "_dim", "_keepdim", out=out), self, KTH, k - 1, dim, keepdim)


@planned("aten::median.dim", dtypes=SHORT, samples=_rows(), bench=_bench(-1), any_of_equal=True, opinfo=("none",))
def median_dim(self: Tensor, dim: int, keepdim: bool = False, out: tuple[Tensor, Tensor] | None = None) -> Planned:
    """The lower of the middle elements along dim and where it is; the first nan, if there is one."""
    return _plan_along(Plan("self", "_dim", "_keepdim", out=out), self, MEDIAN, 0, dim, keepdim)


def _tensors(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _rows()(dtype):
        yield Sample(sample.args[:1])
    if dtype.is_floating_point:
        yield Sample((torch.tensor([3.0, float("nan"), 1.0], dtype=dtype),))


@planned("aten::median", dtypes=SHORT, samples=_tensors, opinfo=("median",))
def median(self: Tensor, out: Tensor | None = None) -> Planned:
    """The lower of the middle elements, or nan if there is one."""
    _check_dims(self)
    n = self.numel()
    if not is_short(n, self.dtype):
        raise Declined(f"{n} elements are too many to be sorted in registers")
    if out is not None:
        result_buffer(out, (), self.dtype, self.device)
    plan = Plan("self", out=out)
    if not self.is_contiguous():
        plan.do("self = self.contiguous()")
    found, index = plan.result((), self.dtype, self.device), plan.empty("index", (), torch.int64, self.device)
    return _plan_nth(plan, Code("self"), (1, n), MEDIAN, 0, found, index, found)
