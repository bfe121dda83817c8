"""unique_dim of few slices: each is compared with each, which gives its rank; slices of one rank's run are equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, planned
from gems_ops.order.keys import ordered
from gems_ops.order.radix import WHOLE
from gems_ops.order.unique import plan_runs
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload
from gems_runtime import LibEntry, device

# Equal slices are read to their ends, each once for each: so many elements at most, all in all.
MOST_COMPARED = 1 << 28
BLOCK = 512


@LibEntry
@triton.jit(do_not_specialize=["n"])
def _ranks_kernel(x_ptr, order_ptr, run_ptr, n, width, BLOCK: tl.constexpr):
    """Row i of x [n, width] has rank r: order[r] = i, run[r] = how many rows are less, the same for all that equal it."""
    i = tl.program_id(0).to(tl.int64)
    n_less, n_before, is_nan = 0, 0, False
    for first in range(0, n, BLOCK):
        j = first + tl.arange(0, BLOCK)
        is_equal = (j < n).to(tl.int32)
        is_less = tl.zeros((BLOCK,), tl.int32)
        col = 0
        while (col < width) & (tl.max(is_equal, 0) > 0):
            own = tl.load(x_ptr + i * width + col)
            x = tl.load(x_ptr + j.to(tl.int64) * width + col, mask=is_equal > 0, other=0)
            own_key, key = ordered(own, False), ordered(x, False)
            is_less = tl.where((is_equal > 0) & (key < own_key), 1, is_less)
            is_equal = tl.where(key == own_key, is_equal, 0)
            if own.dtype.is_floating():
                is_nan |= widen(own) != widen(own)
            col += 1
        n_less += tl.sum(is_less, 0)
        n_before += tl.sum(tl.where(j < i, is_equal, 0), 0)
    rank = n_less + n_before
    tl.store(order_ptr + rank, i)
    # nan differs from nan: a row that has one is a run of its own, as ATen has it
    tl.store(run_ptr + rank, tl.where(is_nan, rank, n_less).to(tl.int64))


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, dim in (((7,), 0), ((9, 2), 0), ((2, 9), 1), ((3, 8, 2), 1), ((1, 4), 0), ((40, 3), -2)):
        x = values(shape, dtype, 0, 3)
        yield Sample((x.floor() if dtype.is_floating_point else x, dim, True, True, True))
    for x in layouts((9, 2), dtype, 0, 3):
        yield Sample((x, 0, True, True, True))
    yield Sample((torch.ones(5, 4, dtype=dtype), 0, False, True, True))
    if dtype.is_floating_point:
        nan = float("nan")
        x = torch.tensor([[1.0, nan], [0.0, -0.0], [-0.0, 0.0], [1.0, nan], [-1.0, 3.0]], dtype=dtype)
        yield Sample((x, 0, True, True, True))


def _bench() -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (torch.randint(0, 4, (2048, 8), device=where), 0, True, True, True), {}

    return (Workload("2048x8", make, dtypes=(torch.int64,)),)


@planned("aten::unique_dim", dtypes=ALL, samples=_samples, opinfo=("unique",), bench=_bench(), waits=True)
def unique_dim(
    self: Tensor, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False  # noqa: A002
) -> Planned:
    """The distinct slices along dim in order, for each slice which it is, and how often each occurs."""
    if not -self.dim() <= dim < self.dim():
        raise Declined(f"dim {dim} of {self.dim()} dimensions: ATen raises")
    n, where = self.shape[dim], self.device
    if n > WHOLE or n * self.numel() > MOST_COMPARED:
        raise Declined(f"{n} slices of {self.numel() // n} elements are too many to be compared each with each")
    plan = Plan("self", "_dim", "_sorted", "_return_inverse", "_return_counts")
    plan.do("rows = self.movedim({dim}, 0).contiguous()", dim=dim)
    order, run = plan.empty("order", (n,), torch.int64, where), plan.empty("run", (n,), torch.int64, where)
    block = triton.next_power_of_2(n) if device.interpreted() else min(BLOCK, triton.next_power_of_2(n))
    plan.launch(_ranks_kernel, (n,), Code("rows"), order, run, n, self.numel() // n, block, num_warps=max(1, block // 128))
    plan_runs(plan, run, torch.int64, n, where, order, return_inverse, return_counts)
    # A run's number is the rank of its first slice.
    plan.do("chosen = order.index_select(0, found)")
    # ATen's CPU kernel leaves the slices outermost in memory, its CUDA kernel gives a contiguous result.
    if device.interpreted():
        return plan.build(f"rows.index_select(0, chosen).movedim(0, {dim}), which, lengths")
    return plan.build(f"self.index_select({dim}, chosen), which, lengths")
