"""unique and unique_consecutive of few elements: sort, then in one program mark where a new value begins and number the marks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, planned
from gems_ops.order.radix import WHOLE
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload
from gems_runtime import LibEntry


@LibEntry
@triton.jit(do_not_specialize=["n"])
def _distinct_kernel(
    x_ptr, index_ptr, values_ptr, inverse_ptr, counts_ptr, n, FROM: tl.constexpr, COUNTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The runs of equal elements of x [n]: their values, each element's run (at index_ptr's place if FROM), their lengths.

    inverse_ptr may be None. Behind the lengths, of which there is room for n if COUNTS, stands how many runs there are.
    """
    at = tl.arange(0, BLOCK)
    ok = at < n
    x = tl.load(x_ptr + at, mask=ok, other=0)
    before = tl.load(x_ptr + at - 1, mask=ok & (at > 0), other=0)
    # nan differs from nan, so each is a run of its own, as ATen has it.
    differs = widen(x) != widen(before) if x.dtype.is_floating() else x != before
    begins = ok & ((at == 0) | differs)
    run = tl.cumsum(begins.to(tl.int32), 0) - 1
    total = tl.sum(begins.to(tl.int64), 0)
    tl.store(values_ptr + run, x, mask=begins)
    if inverse_ptr is not None:
        place = tl.load(index_ptr + at, mask=ok, other=0) if FROM else at
        tl.store(inverse_ptr + place, run.to(tl.int64), mask=ok)
    if COUNTS:
        # First where each run begins, then the distance to the next.
        tl.store(counts_ptr + run, at.to(tl.int64), mask=begins)
        tl.debug_barrier()
        start = tl.load(counts_ptr + at, mask=at < total, other=0)
        stop = tl.load(counts_ptr + at + 1, mask=at + 1 < total, other=0)
        tl.debug_barrier()
        tl.store(counts_ptr + at, tl.where(at + 1 < total, stop, n) - start, mask=at < total)
        tl.store(counts_ptr + n, total)
    else:
        tl.store(counts_ptr, total)


def plan_runs(plan: Plan, x: Code, dtype: torch.dtype, n: int, where: torch.device, places: Code | None, inverse: bool, counts: bool) -> None:
    """Name found, which and lengths what `_distinct_kernel` finds in x, dense; one wait for how many, as in ATen.

    `places` is where each element was. What nobody asked for is empty.
    """
    found = plan.empty("found", (n,), dtype, where)
    which = plan.empty("which", (n,), torch.int64, where) if inverse else None
    lengths = plan.empty("lengths", (n + 1 if counts else 1,), torch.int64, where)
    block = max(triton.next_power_of_2(n), 16)
    plan.launch(
        _distinct_kernel, (1,), x, places, found, which, lengths, n, places is not None, counts, block, num_warps=max(1, min(8, block // 512))
    )
    if where.type == "meta":  # compiling for a target with no device: nothing is counted
        plan.do("size = {n}", n=n)
    else:
        plan.do("size = int(lengths[-1])")
    # in the memory that was allocated, as ATen has it
    plan.do("found.resize_(size)")
    plan.do("lengths.resize_({size})", size=Code("size") if counts else 0)
    if not inverse:
        plan.empty("which", (0,), torch.int64, where)


def _plan_distinct(plan: Plan, x: Tensor, ordered: bool, inverse: bool, counts: bool) -> None:
    n = x.numel()
    if n > WHOLE:
        raise Declined(f"{n} elements, of more than {WHOLE} ATen finds the distinct ones faster")
    source, places = Code("self"), None
    if not x.is_contiguous():
        plan.do("self = self.contiguous()")
    if ordered:
        # ATen's: of one row, a sort by several programs is faster than ours by one. Host and wait included, unique took 129 us more than
        # unique_consecutive when the sort was ours; ATen's takes 78 more (4096 int64, H100, 2026-11-27).
        plan.do("ordered, order = {sort}(self.view({n}), stable=True)", sort=torch.sort, n=n)
        source, places = Code("ordered"), Code("order")
    plan_runs(plan, source, x.dtype, n, x.device, places, inverse, counts)
    if inverse and x.dim() != 1:
        plan.do("which = which.view({shape})", shape=tuple(x.shape))


def _bench(n: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (torch.randint(0, 1000, (n,), device=where),), {"return_inverse": True, "return_counts": True}

    return Workload(f"{n} of 1000 values", make, dtypes=(torch.int64,))


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (150,)):
        for wanted in (False, True):
            yield Sample((values(shape, dtype),), {"return_inverse": wanted, "return_counts": True})
            yield Sample((values(shape, dtype).round() if dtype.is_floating_point else values(shape, dtype),), {"return_inverse": wanted})
    for x in layouts((6, 10), dtype):
        yield Sample((x,), {"return_inverse": True, "return_counts": True})
    if dtype.is_floating_point:
        yield Sample((torch.tensor([1.0, float("nan"), -0.0, 0.0, float("nan"), 1.0], dtype=dtype),), {"return_counts": True})


@planned("aten::_unique2", dtypes=ALL, samples=_samples, opinfo=("unique",), bench=(_bench(4096),), waits=True)
def unique(self: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Planned:  # noqa: A002
    """The distinct elements in order, for each element which it is, and how often each occurs."""
    # of truth values ATen's CUDA kernel returns the counts always, and no tensor at all for places nobody asked for
    truths = self.dtype == torch.bool and self.is_cuda and self.numel() > 0
    plan = Plan("self", "_sorted", "_return_inverse", "_return_counts")
    _plan_distinct(plan, self, True, return_inverse, return_counts or truths)
    return plan.build("found, None, lengths" if truths and not return_inverse else "found, which, lengths")


@planned("aten::unique_consecutive", dtypes=ALL, samples=_samples, opinfo=("unique_consecutive",), bench=(_bench(4096),), waits=True)
def unique_consecutive(self: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Planned:
    """The elements without repetitions of the one before, for each which it is, and how long each run is."""
    if dim is not None:
        raise Declined("runs of slices along a dimension are left to ATen")
    plan = Plan("self", "_return_inverse", "_return_counts", "_dim")
    _plan_distinct(plan, self, False, return_inverse, return_counts)
    return plan.build("found, which, lengths")
