"""Binary search in sorted sequences: searchsorted, bucketize, isin; repeat_interleave; and take, which reads a tensor flat."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.index.along import LONG, indices
from gems_ops.index.compact import comparable
from gems_ops.index.engine import GATHER, Index, plan_indexed
from gems_ops.layout import contiguous_strides
from gems_ops.op import DOUBLES, INTS, NUMBERS, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

BLOCK = 1024
# Of a program of repeat_interleave: runs, elements at a time, warps. 45 us for 1048576 runs of 0 to 15, two warps 93 (H100, 2026-11-27).
OWNERS = (32, 256, 1)
INTERPRETER_OWNERS = (1024, 1024, 4)  # the interpreter pays per program, not per element


@triton.jit
def _places(sorted_ptr, value, first, n, n_steps, RIGHT: tl.constexpr, BLOCK: tl.constexpr):
    """How many of sorted[first : first + n] are below each value (RIGHT: not above it); nan is above all."""
    low = tl.zeros((BLOCK,), tl.int32)
    high = tl.full((BLOCK,), 0, tl.int32) + n
    for _ in range(n_steps):
        open_ = low < high
        middle = low + (high - low) // 2
        x = comparable(tl.load(sorted_ptr + first + middle, mask=open_, other=0))
        # as ATen writes it: what compares false with nan goes to the right
        before = (x > value) == 0 if RIGHT else (x >= value) == 0
        low = tl.where(open_ & before, middle + 1, low)
        high = tl.where(open_ & (before == 0), middle, high)
    return low


@LibEntry
@triton.jit(do_not_specialize=["total", "n", "n_steps", "per_row"])
def _search_kernel(
    sorted_ptr, value_ptr, out_ptr, total, n, n_steps, per_row, BY_ROW: tl.constexpr, RIGHT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Rows of values look in rows of sequences, or all in one."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = comparable(tl.load(value_ptr + i, mask=i < total, other=0))
    first = i // per_row * n if BY_ROW else i * 0
    first = tl.where(i < total, first, 0)
    found = _places(sorted_ptr, value, first, n, n_steps, RIGHT, BLOCK)
    tl.store(out_ptr + i, found.to(out_ptr.dtype.element_ty), mask=i < total)


@LibEntry
@triton.jit(do_not_specialize=["total", "n", "n_steps"])
def _member_kernel(sorted_ptr, value_ptr, out_ptr, total, n, n_steps, INVERT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = comparable(tl.load(value_ptr + i, mask=i < total, other=0))
    place = _places(sorted_ptr, value, i * 0, n, n_steps, False, BLOCK)
    is_in = (place < n) & (comparable(tl.load(sorted_ptr + place, mask=place < n, other=0)) == value)
    tl.store(out_ptr + i, is_in == 0 if INVERT else is_in, mask=i < total)


def _block(n: int) -> int:
    return triton.next_power_of_2(n) if device.interpreted() else BLOCK


def _plan_search(plan: Plan, sequence: Tensor, self: Tensor, names: tuple[str, str], out_int32: bool, right: bool, out: Tensor | None) -> Planned:
    if self.dtype != sequence.dtype or not self.is_contiguous() or not sequence.is_contiguous():
        raise Declined("sequences and values of different dtypes, or not contiguous")
    rows = sequence.dim() != 1
    if rows and (sequence.dim() != self.dim() or sequence.shape[:-1] != self.shape[:-1]):
        raise Declined(f"sequences {tuple(sequence.shape)} for values {tuple(self.shape)}: ATen raises")
    dtype, n, total = torch.int32 if out_int32 else torch.int64, sequence.shape[-1], self.numel()
    if out is not None and not result_buffer(out, self.shape, dtype, self.device).is_contiguous():
        raise Declined("out= is not contiguous")
    result = plan.result(self.shape, dtype, self.device)
    block = _block(total)
    plan.launch(
        _search_kernel, (triton.cdiv(total, block),), Code(names[0]), Code(names[1]), result, total, n, n.bit_length(),
        self.shape[-1] if rows else 1, rows, right, block,
    )  # fmt: skip
    return plan.build(result)


def _check_sides(right: bool, side: str | None, sorter: Tensor | None) -> None:
    if sorter is not None or side not in (None, "left", "right") or side == "left" and right:
        raise Declined("a sorter, or sides that contradict each other")


def _sequences(first: str) -> object:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape, rows in (((7,), ()), ((3, 5), ()), ((3, 5), (3,)), ((), ()), ((40, 30), (40,))):
            sequence = values((*rows, 13), dtype, seed=3).sort(-1).values
            x = values(shape, dtype, -4, 4)
            x = torch.cat([x.flatten()[:-2], sequence.flatten()[: min(2, x.numel())]]).view(shape) if x.numel() > 2 else x
            for right in (False, True):
                if first == "self" and not rows:
                    yield Sample((x, sequence), {"right": right, "out_int32": right})
                elif first == "sorted":
                    yield Sample((sequence, x), {"right": right, "out_int32": right})
        if dtype.is_floating_point:
            x, sequence = torch.tensor([1.0, float("nan"), -1.0], dtype=dtype), torch.tensor([0.0, 1.0, float("nan")], dtype=dtype)
            yield Sample((x, sequence) if first == "self" else (sequence, x))

    return make


def _bench(first: str) -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, sequence = random_like((4096, 4096), dtype, where), random_like((1024,), dtype, where).sort().values
        return ((x, sequence) if first == "self" else (sequence, x)), {}

    return (Workload("4096x4096 in 1024", make, dtypes=(torch.float32,)),)


@planned("aten::bucketize.Tensor", dtypes=NUMBERS, samples=_sequences("self"), bench=_bench("self"))
def bucketize(self: Tensor, boundaries: Tensor, out_int32: bool = False, right: bool = False, out: Tensor | None = None) -> Planned:
    """The bucket between sorted boundaries that each element falls into."""
    if boundaries.dim() != 1:
        raise Declined(f"boundaries of {boundaries.dim()} dimensions: ATen raises")
    plan = Plan("self", "boundaries", "_out_int32", "_right", out=out)
    return _plan_search(plan, boundaries, self, ("boundaries", "self"), out_int32, right, out)


@planned("aten::searchsorted.Tensor", dtypes=NUMBERS, samples=_sequences("sorted"), argument_dtypes={"sorter": LONG}, bench=_bench("sorted"))
def searchsorted(
    sorted_sequence: Tensor, self: Tensor, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None, out: Tensor | None = None,
) -> Planned:  # fmt: skip
    """Where each element would go in a sorted sequence, or in the one of its row."""
    _check_sides(right, side, sorter)
    plan = Plan("sequence", "self", "_out_int32", "_right", "_side", "_sorter", out=out)
    return _plan_search(plan, sorted_sequence, self, ("sequence", "self"), out_int32, right or side == "right", out)


def _as_tensors(sequence: Tensor, number: float) -> tuple[Tensor, Tensor]:
    """A sequence and a number in their common type, for what we do not serve to go through the forms for tensors.

    ATen's CUDA kernels for a number make it a wrapped number on the GPU and copy that to the sequence's dtype by the
    dispatcher. torch.library cannot hand such a tensor to a Python kernel, and `_to_copy` has one: torch's assertion fails.
    """
    common = torch.result_type(sequence, number)
    return sequence.to(common), torch.full((), number, dtype=common, device=sequence.device)


def _native_search(sequence: Tensor, number: float, **options: object) -> Tensor:
    return torch.searchsorted(*_as_tensors(sequence, number), **options)


def _native_bucket(number: float, boundaries: Tensor, **options: object) -> Tensor:
    sequence, value = _as_tensors(boundaries, number)
    return torch.bucketize(value, sequence, **options)


def _plan_number(plan: Plan, sequence: Tensor, number: float, sequence_name: str, out_int32: bool, right: bool, out: Tensor | None) -> Planned:
    if sequence.dim() != 1 or torch.result_type(sequence, number) != sequence.dtype:
        raise Declined("a sequence that the number promotes, or of several dimensions")
    plan.do("value = {full}((), value, dtype={d}, device={where})", full=torch.full, d=sequence.dtype, where=sequence.device)
    like = torch.empty((), dtype=sequence.dtype, device=sequence.device)
    return _plan_search(plan, sequence, like, (sequence_name, "value"), out_int32, right, out)


def _with_numbers(first: str) -> object:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        sequence = values((13,), dtype, seed=3).sort().values
        for number in (0, sequence[4].item(), 1.5):
            for right in (False, True):
                yield Sample((number, sequence) if first == "self" else (sequence, number), {"right": right, "out_int32": right})

    return make


@planned("aten::bucketize.Scalar", dtypes=NUMBERS, samples=_with_numbers("self"), native=_native_bucket)
def bucketize_scalar(self: float, boundaries: Tensor, out_int32: bool = False, right: bool = False) -> Planned:
    """The bucket between sorted boundaries that a number falls into. Its out= form is torch's own: this one, and a copy."""
    plan = Plan("value", "boundaries", "_out_int32", "_right")
    return _plan_number(plan, boundaries, self, "boundaries", out_int32, right, None)


@planned("aten::searchsorted.Scalar", dtypes=NUMBERS, samples=_with_numbers("sorted"), argument_dtypes={"sorter": LONG}, native=_native_search)
def searchsorted_scalar(
    sorted_sequence: Tensor, self: float, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Tensor | None = None, out: Tensor | None = None,
) -> Planned:  # fmt: skip
    """Where a number would go in a sorted sequence."""
    _check_sides(right, side, sorter)
    plan = Plan("sequence", "value", "_out_int32", "_right", "_side", "_sorter", out=out)
    return _plan_number(plan, sorted_sequence, self, "sequence", out_int32, right or side == "right", out)


def _members(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, n in (((7,), 3), ((3, 5), 1), ((), 4), ((40, 30), 200)):
        for invert in (False, True):
            x, some = values(shape, dtype, -9, 9), values((n,), dtype, -9, 9, seed=1)
            some = torch.cat([some, x.flatten()[:2]])
            yield Sample((x, some), {"invert": invert})


@planned("aten::isin.Tensor_Tensor", dtypes=DOUBLES | INTS, samples=_members, opinfo=("isin",))
def isin(elements: Tensor, test_elements: Tensor, assume_unique: bool = False, invert: bool = False, out: Tensor | None = None) -> Planned:
    """Whether each element is one of test_elements."""
    if elements.dtype != test_elements.dtype or not elements.is_contiguous():
        raise Declined("dtypes differ, or elements are not contiguous")
    if out is not None and not result_buffer(out, elements.shape, torch.bool, elements.device).is_contiguous():
        raise Declined("out= is not contiguous")
    n, total = test_elements.numel(), elements.numel()
    plan = Plan("elements", "tests", "_assume_unique", "_invert", out=out)
    plan.do("tests = {sort}(tests.reshape({n}))[0]", sort=torch.sort, n=n)
    result = plan.result(elements.shape, torch.bool, elements.device)
    block = _block(total)
    plan.launch(
        _member_kernel, (triton.cdiv(total, block),), Code("tests"), Code("elements"), result, total, n, n.bit_length(), invert, block
    )  # fmt: skip
    return plan.build(result)


def _takes(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, chosen in (((5,), (7,)), ((4, 6), (3, 5)), ((2, 3, 4), ())):
        n = torch.Size(shape).numel()
        yield Sample((values(shape, dtype), indices(*chosen, n=n)))
        yield Sample((values(shape, dtype), indices(*chosen, n=n) - n))


@planned("aten::take", dtypes=NUMBERS, samples=_takes, argument_dtypes={"index": LONG})
def take(self: Tensor, index: Tensor, out: Tensor | None = None) -> Planned:
    """The elements at index of self as if it were flat."""
    if not self.is_contiguous():
        raise Declined("self is not contiguous")
    plan = Plan("self", "index", out=out)
    strides = contiguous_strides(index.shape) if out is None else result_buffer(out, index.shape, self.dtype, self.device).stride()
    result = plan.result(index.shape, self.dtype, self.device)
    places = Index(Code("index"), index.stride(), self.numel(), 1)
    plan_indexed(plan, GATHER, Code("self"), result, [places], index.shape, (0,) * index.dim(), strides, wraps=True)
    return plan.build(result)


@LibEntry
@triton.jit(do_not_specialize=["total", "n"], debug=True)
def _owners_kernel(end_ptr, out_ptr, total, n, RUNS: tl.constexpr, BLOCK: tl.constexpr):
    """Which run each of `total` elements is in; runs end at end[n], and a program writes RUNS of them."""
    first_run = tl.program_id(0) * RUNS
    run = first_run + tl.arange(0, RUNS)
    end = tl.load(end_ptr + run, mask=run < n, other=0x7FFFFFFFFFFFFFFF)
    start = tl.load(end_ptr + run - 1, mask=(run > 0) & (run < n), other=0)
    tl.device_assert(tl.load(end_ptr + n - 1) == total, "repeat_interleave: output_size is not the sum of repeats")
    tl.device_assert((run >= n) | (start <= end), "repeat_interleave: repeats can not be negative")
    # within the result also where another program is about to find that repeats are negative
    begin = tl.maximum(tl.load(end_ptr + first_run - 1, mask=first_run > 0, other=0), 0)
    stop = tl.minimum(tl.load(end_ptr + tl.minimum(first_run + RUNS, n) - 1), total)
    lane = tl.arange(0, BLOCK)
    for at in range(begin, stop, BLOCK):
        # what ends before or after this tile does so by how much it likes: 32 bits would not hold that of a run of 2**31
        left = tl.maximum(tl.minimum(end - at, BLOCK), 0).to(tl.int32)
        # runs along the first axis: each thread counts for its own elements
        before = tl.sum((left[:, None] <= lane[None, :]).to(tl.int32), 0)
        tl.store(out_ptr + at + lane, (first_run + before).to(out_ptr.dtype.element_ty), mask=at + lane < stop)


def _repeats(dtype: torch.dtype) -> Iterator[Sample]:
    for repeats in ((3,), (2, 0, 5, 1), (0, 0, 4), (0, 0)):
        yield Sample((torch.tensor(repeats, dtype=dtype),))
        yield Sample((torch.tensor(repeats, dtype=dtype),), {"output_size": sum(repeats)})
    yield Sample((values((700,), dtype, 0, 5)[::2],))


def _refuse_repeats(ends: Tensor, output_size: int | None) -> int:
    """How long the result is; behind the ends stands the smallest of repeats."""
    length, least = ends[-2:].tolist()  # one wait
    if least < 0 or output_size not in (None, length):
        raise Declined("negative repeats, or output_size is not their sum: ATen raises")
    return length


def _repeats_bench() -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (torch.randint(0, 16, (1 << 20,), device=where),), {}

    return (Workload("1048576 of 0 to 15", make, dtypes=(torch.int64,)),)


@planned(
    "aten::repeat_interleave.Tensor", dtypes=frozenset({torch.int32, torch.int64}), samples=_repeats, waits=True,
    bench=_repeats_bench(), opinfo=("repeat_interleave",),
)  # fmt: skip
def repeat_interleave(repeats: Tensor, output_size: int | None = None) -> Planned:
    """Each index as often as repeats says."""
    if repeats.dim() != 1:
        raise Declined(f"repeats of {repeats.dim()} dimensions: ATen raises")
    n, where = repeats.numel(), repeats.device
    plan = Plan("repeats", "_output_size")
    checks = where.type != "meta" and (output_size is None or device.interpreted())
    if checks:  # the smallest behind the ends: both arrive in one copy
        ends = plan.empty("ends", (n + 1,), torch.int64, where)
        plan.do("{cumsum}(repeats, 0, out={ends}[:-1])", cumsum=torch.cumsum, ends=ends)
        if repeats.dtype == torch.int64:
            plan.do("{amin}(repeats, 0, out={ends}[-1])", amin=torch.amin, ends=ends)
        else:
            plan.do("{ends}[-1].copy_({amin}(repeats, 0))", amin=torch.amin, ends=ends)
        plan.do("total = {total}({ends}, _output_size)", total=_refuse_repeats, ends=ends)
    else:
        plan.do("ends = {cumsum}(repeats, 0)", cumsum=torch.cumsum)
        plan.do("total = {total}", total=n if where.type == "meta" else Code("_output_size"))  # meta: compiling for a target
    plan.do("out = {empty}(total, dtype={dtype}, device={where})", empty=torch.empty, dtype=repeats.dtype, where=where)
    plan.do("if total == 0: return out")
    runs, block, warps = INTERPRETER_OWNERS if device.interpreted() else OWNERS
    plan.launch(_owners_kernel, (triton.cdiv(n, runs),), Code("ends"), Code("out"), Code("total"), n, runs, block, num_warps=warps)
    return plan.build("out")
