"""unique and unique_consecutive of few elements, in one program: sort, mark where a new value begins, number the marks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, op
from gems_ops.order.radix import WHOLE, sort_rows
from gems_ops.rows.access import widen
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload
from gems_runtime import LibEntry


@LibEntry
@triton.jit
def _distinct_kernel(
    x_ptr, index_ptr, values_ptr, inverse_ptr, counts_ptr, total_ptr, n,
    FROM: tl.constexpr, INVERSE: tl.constexpr, COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The runs of equal elements of x [n]: their values, each element's run (at index_ptr's place if FROM), their lengths."""
    at = tl.arange(0, BLOCK)
    ok = at < n
    x = tl.load(x_ptr + at, mask=ok, other=0)
    before = tl.load(x_ptr + at - 1, mask=ok & (at > 0), other=0)
    # nan differs from nan, so each is a run of its own, as ATen has it.
    differs = widen(x) != widen(before) if x.dtype.is_floating() else x != before
    begins = ok & ((at == 0) | differs)
    run = tl.cumsum(begins.to(tl.int32), 0) - 1
    total = tl.sum(begins.to(tl.int64), 0)
    tl.store(total_ptr, total)
    tl.store(values_ptr + run, x, mask=begins)
    if INVERSE:
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


def _distinct(x: Tensor, ordered: bool, inverse: bool, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(values, inverse in x's shape, counts) of the elements of x; one wait for how many there are, as in ATen."""
    n = x.numel()
    if n > WHOLE:
        raise Declined(f"{n} elements, of more than {WHOLE} ATen finds the distinct ones faster")
    flat = x.contiguous().view(1, n)
    places = x.new_empty(n, dtype=torch.int64)
    if ordered:
        source = torch.empty_like(flat)
        sort_rows(flat, source, places)
    else:
        source = flat
    found, which, lengths = runs(source, places if ordered else None, inverse, counts)
    return found, which.view(x.shape) if inverse else which, lengths


def runs(x: Tensor, places: Tensor | None, inverse: bool, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(values, inverse, counts) of the runs of equal elements of at most WHOLE; `places` is where each element was."""
    n = x.numel()
    sizes = ((n, x.dtype), (n, torch.int64), (n, torch.int64), (1, torch.int64))
    found, which, lengths, total = (x.new_empty(size, dtype=dtype) for size, dtype in sizes)
    _distinct_kernel[(1,)](
        x, x if places is None else places, found, which, lengths, total, n, places is not None, inverse, counts,
        max(triton.next_power_of_2(n), 16), num_warps=4,
    )  # fmt: skip
    size = n if total.is_meta else int(total.item())  # compiling for a target with no device: nothing is counted
    nothing = x.new_empty(0, dtype=torch.int64)
    return found[:size].clone(), which if inverse else nothing, lengths[:size].clone() if counts else nothing


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


@op("aten::_unique2", dtypes=ALL, samples=_samples, opinfo=("unique",), bench=(_bench(4096),))
def unique(self: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # noqa: A002
    """The distinct elements in order, for each element which it is, and how often each occurs."""
    # of truth values ATen's CUDA kernel returns the counts always, and no tensor at all for places nobody asked for
    truths = self.dtype == torch.bool and self.is_cuda and self.numel() > 0
    found, inverse, counts = _distinct(self, True, return_inverse, return_counts or truths)
    return found, None if truths and not return_inverse else inverse, counts


@op("aten::unique_consecutive", dtypes=ALL, samples=_samples, opinfo=("unique_consecutive",), bench=(_bench(4096),))
def unique_consecutive(
    self: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The elements without repetitions of the one before, for each which it is, and how long each run is."""
    if dim is not None:
        raise Declined("runs of slices along a dimension are left to ATen")
    return _distinct(self, False, return_inverse, return_counts)
