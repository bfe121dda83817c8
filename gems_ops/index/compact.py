"""nonzero, masked_select and masked_scatter: the places of what is true, counted in blocks, added up, written in order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, BOOL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import broadcast_shape
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

BLOCK = 8192
CHUNK = 1024  # places that a program turns into coordinates at a time
# From so many elements on nonzero keeps what it finds as bits, and reads no more than these if fewer than one in SPARSE is true.
_KEPT_AS_BITS, SPARSE = 1 << 16, 16
SUMMED = 4096  # counts that are added up at a time
MOST_DIMENSIONS = 5


@triton.jit
def comparable(x):
    """x in a type that the interpreter compares by value, too: it takes bfloat16 for integers."""
    if x.dtype == tl.bfloat16:
        return x.to(tl.float32)
    else:
        return x


# n is specialized: where 16 divides it, so does every mask, and a thread loads 16 bytes at a time instead of an element.
@LibEntry
@triton.jit
def _count_kernel(x_ptr, count_ptr, bits_ptr, n, BLOCK: tl.constexpr):
    """How many elements of each block are not zero; which, 32 in a word of bits_ptr if there is one."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ones = (comparable(tl.load(x_ptr + i, mask=i < n, other=0)) != 0).to(tl.int32)
    tl.store(count_ptr + tl.program_id(0), tl.sum(ones, 0))
    if bits_ptr is not None:
        words = tl.sum(tl.reshape(ones, (BLOCK // 32, 32)) << tl.arange(0, 32)[None, :], 1)
        tl.store(bits_ptr + tl.program_id(0) * (BLOCK // 32) + tl.arange(0, BLOCK // 32), words)


@LibEntry
@triton.jit(do_not_specialize=["n_blocks"])
def _offsets_kernel(count_ptr, n_blocks, SUMMED: tl.constexpr):
    """Counts become the counts of all blocks before, in place; behind them stands the total. One program."""
    total = tl.zeros((), tl.int32)
    for first in range(0, n_blocks, SUMMED):
        i = first + tl.arange(0, SUMMED)
        count = tl.load(count_ptr + i, mask=i < n_blocks, other=0)
        tl.store(count_ptr + i, total + tl.cumsum(count, 0) - count, mask=i < n_blocks)
        total += tl.sum(count, 0)
    tl.store(count_ptr + n_blocks, total)


@triton.jit
def _ranks(mask_ptr, offset_ptr, n, BLOCK: tl.constexpr):
    """(indices of this program's elements, which are not zero, how many are not zero before each in the tensor)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = comparable(tl.load(mask_ptr + i, mask=i < n, other=0)) != 0
    ones = found.to(tl.int32)
    return i, found, tl.load(offset_ptr + tl.program_id(0)) + tl.cumsum(ones, 0) - ones


@LibEntry
@triton.jit
def _select_kernel(x_ptr, mask_ptr, offset_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i, found, rank = _ranks(mask_ptr, offset_ptr, n, BLOCK)
    tl.store(out_ptr + rank, tl.load(x_ptr + i, mask=found), mask=found)


@triton.jit
def _store_coordinates(out_ptr, at, place, ok, n_found, size_1, size_2, size_3, size_4, RANK: tl.constexpr):
    """A column of out for each dimension; `place` is the number of an element."""
    column = n_found.to(tl.int64)
    rest = place
    if RANK > 4:
        tl.store(out_ptr + 4 * column + at, (rest % size_4).to(tl.int64), mask=ok)
        rest = rest // size_4
    if RANK > 3:
        tl.store(out_ptr + 3 * column + at, (rest % size_3).to(tl.int64), mask=ok)
        rest = rest // size_3
    if RANK > 2:
        tl.store(out_ptr + 2 * column + at, (rest % size_2).to(tl.int64), mask=ok)
        rest = rest // size_2
    if RANK > 1:
        tl.store(out_ptr + column + at, (rest % size_1).to(tl.int64), mask=ok)
        rest = rest // size_1
    tl.store(out_ptr + at, rest.to(tl.int64), mask=ok)


@LibEntry
@triton.jit(do_not_specialize=["n_found", "size_1", "size_2", "size_3", "size_4"])
def _places_kernel(
    x_ptr, offset_ptr, out_ptr, n, n_found, size_1, size_2, size_3, size_4,
    RANK: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The coordinates of what is not zero.

    The first column takes the places themselves, which are read again where they lie together: only what was found is
    divided by sizes.
    """
    i, found, rank = _ranks(x_ptr, offset_ptr, n, BLOCK)
    tl.store(out_ptr + rank, i.to(tl.int64), mask=found)
    if RANK > 1:
        last = tl.load(offset_ptr + tl.program_id(0) + 1)
        tl.debug_barrier()  # the places are written
        for first in range(tl.load(offset_ptr + tl.program_id(0)), last, CHUNK):
            at = first + tl.arange(0, CHUNK)
            place = tl.load(out_ptr + at, mask=at < last, other=0).to(tl.int32)
            tl.debug_barrier()  # and read, by whichever threads, before the first coordinate replaces them
            _store_coordinates(out_ptr, at, place, at < last, n_found, size_1, size_2, size_3, size_4, RANK)


@triton.jit
def _ones_in(word):
    """How many bits of each uint32 are set."""
    pairs = word - ((word >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    return ((((fours + (fours >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@LibEntry
@triton.jit(do_not_specialize=["n_found", "size_1", "size_2", "size_3", "size_4"])
def _few_places_kernel(
    bits_ptr, offset_ptr, out_ptr, n_found, size_1, size_2, size_3, size_4, RANK: tl.constexpr, WORDS: tl.constexpr
):
    """As `_places_kernel`, from the words of a block: in each turn every thread takes the lowest bit of its words."""
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    word = tl.load(bits_ptr + at).to(tl.uint32, bitcast=True)
    ones = _ones_in(word)
    rank = tl.load(offset_ptr + tl.program_id(0)) + tl.cumsum(ones, 0) - ones
    for _ in range(tl.max(ones, 0)):
        rest = word & (word - 1)
        # The exponent of a power of two is the number of its bit.
        bit = ((word ^ rest).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
        _store_coordinates(out_ptr, rank, at * 32 + bit, word != 0, n_found, size_1, size_2, size_3, size_4, RANK)
        rank += 1
        word = rest


def plan_ranks(plan: Plan, mask: Code, n: int, where: torch.device, as_bits: bool = False) -> tuple[int, int, Code]:
    """(blocks, their length, offsets): the steps that count what is not zero; the total comes after the last offset.

    With as_bits, the plan has the tensor `bits` too, of a word for every 32 elements.
    """
    block = max(64, triton.next_power_of_2(n) if device.interpreted() else min(BLOCK, triton.next_power_of_2(n)))
    blocks = triton.cdiv(n, block)
    offsets = plan.empty("offsets", (blocks + 1,), torch.int32, where)
    bits = plan.empty("bits", (blocks * block // 32,), torch.int32, where) if as_bits else None
    plan.launch(_count_kernel, (blocks,), mask, offsets, bits, n, block, num_warps=_warps(block))
    plan_offsets(plan, offsets, blocks)
    return blocks, block, offsets


def plan_offsets(plan: Plan, counts: Code, blocks: int) -> None:
    """Add the launch that replaces counts, int32 [blocks + 1], by the sums of those before."""
    summed = min(SUMMED, triton.next_power_of_2(blocks))
    plan.launch(_offsets_kernel, (1,), counts, blocks, summed, num_warps=_warps(summed))


def _warps(elements: int) -> int:
    return max(1, min(8, elements // 512))


def _wait(plan: Plan, blocks: int, where: torch.device) -> None:
    """`found` becomes the total; the host waits for it, as ATen's does."""
    if where.type == "meta":  # compiling for a target with no device
        plan.do("found = 1")
    else:
        plan.do("found = offsets[{blocks}].item()", blocks=blocks)


def _tensors(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (1, 129), (70, 90)):
        yield Sample((values(shape, dtype, -1.0, 1.0) if dtype.is_floating_point else values(shape, dtype, -2, 2),))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))
    if dtype.is_floating_point:
        yield Sample((torch.tensor([0.0, -0.0, float("nan"), 1e-7, float("-inf")], dtype=dtype),))
    yield Sample((torch.zeros(5, 6, dtype=dtype),))
    yield Sample((values((2, 2, 3, 2, 3), dtype),))


def _nonzero_bench(share: float) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return ((torch.rand(8192, 8192, device=where) < share).to(dtype),), {}

    return Workload(f"8192x8192, {share:.0%} true", make, dtypes=(torch.float32, torch.bool))


@planned("aten::nonzero", dtypes=ALL, samples=_tensors, waits=True, bench=(_nonzero_bench(0.5), _nonzero_bench(0.01)), opinfo=("nonzero", "argwhere"))
def nonzero(self: Tensor) -> Planned:
    """The coordinates of the elements that are not zero (nan is not), in order; a row each, laid out by columns."""
    if not 1 <= self.dim() <= MOST_DIMENSIONS:
        raise Declined(f"{self.dim()} dimensions")
    plan = Plan("self")
    if not self.is_contiguous():
        plan.do("self = self.contiguous()")
    n, rank = self.numel(), self.dim()
    as_bits = n >= _KEPT_AS_BITS
    blocks, block, offsets = plan_ranks(plan, Code("self"), n, self.device, as_bits)
    _wait(plan, blocks, self.device)
    plan.do(
        "out = {allocate}((found, {rank}), (1, max(found, 1)), dtype={long}, device={where})",
        allocate=torch.empty_strided, rank=rank, long=torch.int64, where=self.device,
    )  # fmt: skip
    numbers = [Code("found"), *self.shape[1:], *[1] * (MOST_DIMENSIONS - rank), rank]
    if as_bits:
        plan.launch(
            _few_places_kernel, (blocks,), Code("bits"), offsets, Code("out"), *numbers, block // 32, num_warps=1,
            when=Code(f"found * {SPARSE} < {n}"),
        )  # fmt: skip
    plan.launch(
        _places_kernel, (blocks,), Code("self"), offsets, Code("out"), n, *numbers, block, min(CHUNK, block),
        num_warps=_warps(block), when=Code(f"found * {SPARSE} >= {n}") if as_bits else None,
    )  # fmt: skip
    return plan.build("out")


def plan_places(plan: Plan, mask: Code, n: int, where: torch.device) -> Code:
    """The steps that wait for how many of n dense elements are not zero, `found`, and write their numbers, int64 [found]."""
    blocks, block, offsets = plan_ranks(plan, mask, n, where)
    _wait(plan, blocks, where)
    plan.do("places = {empty}(found, dtype={long}, device={where})", empty=torch.empty, long=torch.int64, where=where)
    plan.launch(
        _places_kernel, (blocks,), mask, offsets, Code("places"), n, Code("found"), 1, 1, 1, 1, 1, block, 1, num_warps=_warps(block)
    )  # fmt: skip
    return Code("places")


def _masked(dtype: torch.dtype) -> Iterator[Sample]:
    for a, b in (((), ()), ((7,), (7,)), ((3, 5), (5,)), ((3, 1), (1, 5)), ((70, 90), (70, 90)), ((4,), ())):
        yield Sample((values(a, dtype), values(b, torch.bool, seed=1)))
    for x in layouts((4, 6), dtype):
        yield Sample((x, values((6, 4), torch.bool, seed=1).t()))
    yield Sample((values((5,), dtype), torch.zeros(5, dtype=torch.bool)))


def _mask_bench(*sources: str) -> tuple[Workload, ...]:
    shape = (8192, 8192)

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        tensors = [random_like(shape, dtype, where) for _ in ("self", *sources)]
        return (tensors[0], random_like(shape, torch.bool, where), *tensors[1:]), {}

    return (Workload("8192x8192", make),)


def _expanded(plan: Plan, shape: tuple[int, ...], **tensors: Tensor) -> None:
    for name, t in tensors.items():
        if tuple(t.shape) != shape or not t.is_contiguous():
            plan.do(name + " = " + name + ".expand({shape}).contiguous()", shape=shape)


@planned(
    "aten::masked_select", dtypes=ALL, samples=_masked, argument_dtypes={"mask": BOOL}, waits=True, bench=_mask_bench(),
)  # fmt: skip
def masked_select(self: Tensor, mask: Tensor) -> Planned:
    """The elements of self where mask is true, in order."""
    shape = broadcast_shape([self, mask])
    plan = Plan("self", "mask")
    _expanded(plan, shape, self=self, mask=mask)
    return plan_selection(plan, torch.Size(shape).numel(), self.dtype, self.device)


@LibEntry
@triton.jit(do_not_specialize=["n_source"], debug=True)
def _insert_kernel(x_ptr, mask_ptr, offset_ptr, source_ptr, out_ptr, n, n_source, COPY: tl.constexpr, BLOCK: tl.constexpr):
    """The next element of the source where the mask is true, and x where not, unless that is in out already."""
    i, found, rank = _ranks(mask_ptr, offset_ptr, n, BLOCK)
    tl.device_assert((found == 0) | (rank < n_source), "masked_scatter: the source has fewer elements than places are true")
    x = tl.load(source_ptr + rank, mask=found, other=0)
    if COPY:
        x = tl.where(found, x, tl.load(x_ptr + i, mask=(i < n) & (found == 0), other=0))
        tl.store(out_ptr + i, x, mask=i < n)
    else:
        tl.store(out_ptr + i, x, mask=found)


def _insertions(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _masked(dtype):
        n = torch.broadcast_shapes(*(t.shape for t in sample.args))
        yield Sample((*sample.args, values((n.numel() + 2,), dtype, seed=2)))
    yield Sample((values((4, 6), dtype), values((6,), torch.bool, seed=1), values((6, 5), dtype, seed=2).t()))


def _refuse_few(n_source: int, found: Tensor) -> None:
    """Nothing waits for an interpreted kernel, so there ATen's own error can be had."""
    if n_source < int(found):
        raise Declined("the source has fewer elements than places are true: ATen raises")


@planned(
    "aten::masked_scatter", dtypes=ALL, samples=_insertions, argument_dtypes={"mask": BOOL}, in_place=True,
    bench=_mask_bench("source"),
)  # fmt: skip
def masked_scatter(self: Tensor, mask: Tensor, source: Tensor, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self with the elements of source, in order, where mask is true."""
    shape = broadcast_shape([self, mask])
    if source.dtype != self.dtype:
        raise Declined(f"source is {source.dtype}, self {self.dtype}: ATen raises")
    if out is not None and not result_buffer(out, shape, self.dtype, self.device).is_contiguous():
        raise Declined("what is written is not contiguous")
    plan = Plan("self", "mask", "source", out=None if in_place else out)
    _expanded(plan, shape, self=self, mask=mask)
    if not source.is_contiguous():
        plan.do("source = source.contiguous()")
    n = torch.Size(shape).numel()
    blocks, block, offsets = plan_ranks(plan, Code("mask"), n, self.device)
    if device.interpreted():
        plan.do("{check}({n}, offsets[{blocks}])", check=_refuse_few, n=source.numel(), blocks=blocks)
    result = Code("self") if in_place else plan.result(shape, self.dtype, self.device)
    plan.launch(
        _insert_kernel, (blocks,), Code("self"), Code("mask"), offsets, Code("source"), result,
        n, source.numel(), not in_place, block, num_warps=_warps(block),
    )  # fmt: skip
    return plan.build(result)


def plan_selection(plan: Plan, n: int, dtype: torch.dtype, where: torch.device) -> Planned:
    """The plan that selects from `self` by `mask`, both contiguous and of n elements."""
    blocks, block, offsets = plan_ranks(plan, Code("mask"), n, where)
    _wait(plan, blocks, where)
    plan.do("out = {allocate}((found,), (1,), dtype={dtype}, device={where})", allocate=torch.empty_strided, dtype=dtype, where=where)
    plan.launch(
        _select_kernel, (blocks,), Code("self"), Code("mask"), offsets, Code("out"), n, block, num_warps=_warps(block),
    )  # fmt: skip
    return plan.build("out")
