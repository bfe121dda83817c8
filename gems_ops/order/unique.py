"""unique and unique_consecutive: sort, then mark where a new value begins and number the marks; of few elements in one program."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.index.compact import plan_offsets
from gems_ops.op import ALL, Declined, Sample, planned
from gems_ops.order.radix import WHOLE, plan_sorted_rows
from gems_ops.order.sweeps import MOST, plan_long_rows
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload
from gems_runtime import LibEntry

_BLOCK, _WARPS = 4096, 8  # of a program, where there are several


@triton.jit
def _elements(x_ptr, at, n):
    """The elements at these places, and which of them differ from the one before."""
    x = tl.load(x_ptr + at, mask=at < n, other=0)
    before = tl.load(x_ptr + at - 1, mask=(at < n) & (at > 0), other=0)
    # nan differs from nan, so each is a run of its own, as ATen has it.
    differs = widen(x) != widen(before) if x.dtype.is_floating() else x != before
    return x, (at < n) & ((at == 0) | differs)


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
    x, begins = _elements(x_ptr, at, n)
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


@LibEntry
@triton.jit(do_not_specialize=["n"])
def _count_kernel(x_ptr, offset_ptr, n, BLOCK: tl.constexpr):
    """How many runs begin in each block."""
    _, begins = _elements(x_ptr, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), n)
    tl.store(offset_ptr + tl.program_id(0), tl.sum(begins.to(tl.int32), 0))


@LibEntry
@triton.jit(do_not_specialize=["n"])
def _number_kernel(x_ptr, index_ptr, offset_ptr, values_ptr, inverse_ptr, starts_ptr, n, FROM: tl.constexpr, BLOCK: tl.constexpr):
    """As `_distinct_kernel`, of many: `offset` runs begin in the blocks before. Where each run begins, if starts_ptr is there."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, begins = _elements(x_ptr, at, n)
    run = tl.load(offset_ptr + tl.program_id(0)) + tl.cumsum(begins.to(tl.int32), 0) - 1
    tl.store(values_ptr + run, x, mask=begins)
    if inverse_ptr is not None:
        place = tl.load(index_ptr + at, mask=at < n, other=0) if FROM else at
        tl.store(inverse_ptr + place, run.to(tl.int64), mask=at < n)
    if starts_ptr is not None:
        tl.store(starts_ptr + run, at, mask=begins)


@LibEntry
@triton.jit(do_not_specialize=["n_runs", "n"])
def _lengths_kernel(starts_ptr, lengths_ptr, n_runs, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    stop = tl.load(starts_ptr + at + 1, mask=at + 1 < n_runs, other=0)
    length = tl.where(at + 1 < n_runs, stop, n) - tl.load(starts_ptr + at, mask=at < n_runs, other=0)
    tl.store(lengths_ptr + at, length.to(tl.int64), mask=at < n_runs)


def _plan_many_runs(
    plan: Plan, x: Code, dtype: torch.dtype, n: int, where: torch.device, places: Code | None, inverse: bool, counts: bool
) -> None:  # fmt: skip
    """As `plan_runs`, of more than one program's elements."""
    blocks = triton.cdiv(n, _BLOCK)
    offsets = plan.empty("offsets", (blocks + 1,), torch.int32, where)
    plan.launch(_count_kernel, (blocks,), x, offsets, n, _BLOCK, num_warps=_WARPS)
    plan_offsets(plan, offsets, blocks)
    found = plan.empty("found", (n,), dtype, where)
    which = plan.empty("which", (n if inverse else 0,), torch.int64, where)
    starts = plan.empty("starts", (n,), torch.int32, where) if counts else None
    plan.launch(
        _number_kernel, (blocks,), x, places, offsets, found, which if inverse else None, starts, n, places is not None, _BLOCK, num_warps=_WARPS
    )
    if where.type == "meta":  # compiling for a target with no device: nothing is counted
        plan.do("size = {n}", n=n)
    else:
        plan.do("size = int(offsets[{blocks}])", blocks=blocks)
    plan.do("found.resize_(size)")
    plan.do("lengths = {empty}({size}, dtype={long}, device={where})", empty=torch.empty, size=Code("size") if counts else 0, long=torch.int64, where=where)
    if counts:
        plan.launch(_lengths_kernel, Code(f"((size + {_BLOCK - 1}) // {_BLOCK},)"), starts, Code("lengths"), Code("size"), n, _BLOCK, num_warps=_WARPS)


def plan_runs(plan: Plan, x: Code, dtype: torch.dtype, n: int, where: torch.device, places: Code | None, inverse: bool, counts: bool) -> None:
    """Name found, which and lengths what `_distinct_kernel` finds in x, dense; one wait for how many, as in ATen.

    `places` is where each element was. What nobody asked for is empty.
    """
    if n > WHOLE:
        _plan_many_runs(plan, x, dtype, n, where, places, inverse, counts)
        return
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
    if n >= MOST:
        raise Declined(f"{n} elements: 30 bits count them")
    source, places = Code("self"), None
    if not x.is_contiguous():
        plan.do("self = self.contiguous()")
    if ordered:
        source, places = plan.empty("ordered", (n,), x.dtype, x.device), plan.empty("order", (n,), torch.int64, x.device)
        if n <= WHOLE:
            plan_sorted_rows(plan, Code("self"), x, (1, n), n, False, source, places)
        else:
            plan_long_rows(plan, Code("self"), x, (1, n), False, source, places)
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
    if dtype in (torch.float32, torch.int64):  # more than one program's
        yield Sample((values((WHOLE + 5,), dtype, 0, 9).floor() if dtype.is_floating_point else values((WHOLE + 5,), dtype),), {"return_counts": True})
    if dtype.is_floating_point:
        yield Sample((torch.tensor([1.0, float("nan"), -0.0, 0.0, float("nan"), 1.0], dtype=dtype),), {"return_counts": True})


@planned("aten::_unique2", dtypes=ALL, samples=_samples, opinfo=("unique",), bench=(_bench(4096), _bench(100_000), _bench(1 << 24)), waits=True)
def unique(self: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Planned:  # noqa: A002
    """The distinct elements in order, for each element which it is, and how often each occurs."""
    # of truth values ATen's CUDA kernel returns the counts always, and no tensor at all for places nobody asked for
    truths = self.dtype == torch.bool and self.is_cuda and self.numel() > 0
    plan = Plan("self", "_sorted", "_return_inverse", "_return_counts")
    _plan_distinct(plan, self, True, return_inverse, return_counts or truths)
    return plan.build("found, None, lengths" if truths and not return_inverse else "found, which, lengths")


@planned("aten::unique_consecutive", dtypes=ALL, samples=_samples, opinfo=("unique_consecutive",), bench=(_bench(4096), _bench(1 << 24)), waits=True)
def unique_consecutive(self: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None) -> Planned:
    """The elements without repetitions of the one before, for each which it is, and how long each run is."""
    if dim is not None:
        raise Declined("runs of slices along a dimension are left to ATen")
    plan = Plan("self", "_return_inverse", "_return_counts", "_dim")
    _plan_distinct(plan, self, False, return_inverse, return_counts)
    return plan.build("found, which, lengths")
