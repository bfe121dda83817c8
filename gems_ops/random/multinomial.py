"""multinomial: samples of the categories of each row, with the given weights.

Without replacement the categories race: each gets an exponential number divided by its weight, and the first ones win
(ATen's own method, and numbers). With replacement a uniform number is looked up in the row's cumulative weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import FLOATS, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.random.distributions import _transform, has_fast_instructions
from gems_ops.random.philox import ATEN_BLOCK, plan_reserve, random_bits, threads_for, unit
from gems_ops.samples import values
from gems_ops.workloads import Workload
from gems_runtime import LibEntry, device

COLUMNS = 2048
SAMPLES = 128
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element
MOST_CATEGORIES = 2**24


@LibEntry
@triton.jit(do_not_specialize=["n_rows", "n_cols"], debug=True)
def _totals_kernel(weight_ptr, total_ptr, n_rows, n_cols, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sum of each row. Weights that are no probabilities stop the program, as ATen's assert does: nobody waits."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_cols, COLUMNS):
        col = first + tl.arange(0, COLUMNS)
        mask = (row < n_rows)[:, None] & (col < n_cols)[None, :]
        w = tl.load(weight_ptr + (row * n_cols)[:, None] + col[None, :], mask=mask, other=0).to(tl.float32)
        total += tl.where((w >= 0) & (w < float("inf")), w, float("nan"))
    total = tl.sum(total, 1)
    tl.device_assert((total > 0) | (row >= n_rows), "multinomial: weights that are negative, infinite, nan, or all zero")
    tl.store(total_ptr + row, total, mask=row < n_rows)


@triton.jit
def _finish(weight_ptr, i, mask, seed, block, threads, FAST: tl.constexpr):
    """Each element's weight over its exponential number, rounded as ATen rounds both to the weights' type."""
    draw, rest = i // (4 * threads), i % (4 * threads)
    bits0, bits1, bits2, bits3 = random_bits(seed.to(tl.int64), block.to(tl.int64) + draw, (rest % threads).to(tl.int64))
    which = rest // threads
    bits = tl.where(which < 2, tl.where(which == 0, bits0, bits1), tl.where(which == 2, bits2, bits3))
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    time = _transform(unit(bits), -1.0, 0.0, 0.0, dtype, "exponential", FAST).to(tl.float32)
    return tl.div_rn(tl.load(weight_ptr + i, mask=mask, other=0).to(tl.float32), time).to(dtype)


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "n", "threads"])
def _race_kernel(weight_ptr, out_ptr, seed, block, n, threads, FAST: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, _finish(weight_ptr, i, i < n, seed, block, threads, FAST), mask=i < n)


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "n_rows", "n_cols", "threads"])
def _winner_kernel(
    weight_ptr, best_ptr, where_ptr, seed, block, n_rows, n_cols, threads,
    FAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The best of each block of columns of a row, and its column."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    col = part * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    i = (row * n_cols)[:, None] + col[None, :]
    x = _finish(weight_ptr, i, inside, seed, block, threads, FAST).to(tl.float32)
    best, where = tl.max(tl.where(inside, x, -1.0), 1, return_indices=True)
    at = row * tl.num_programs(1) + part
    tl.store(best_ptr + at, best, mask=row < n_rows)
    tl.store(where_ptr + at, part * COLUMNS + where, mask=row < n_rows)


@LibEntry
@triton.jit(do_not_specialize=["n_rows", "parts"])
def _champion_kernel(best_ptr, where_ptr, out_ptr, n_rows, parts, ROWS: tl.constexpr, PARTS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, PARTS)
    at = (row * parts)[:, None] + part[None, :]
    best = tl.load(best_ptr + at, mask=(row < n_rows)[:, None] & (part < parts)[None, :], other=-1.0)
    _, first = tl.max(best, 1, return_indices=True)
    winner = tl.load(where_ptr + row * parts + first, mask=row < n_rows, other=0)
    tl.store(out_ptr + row, winner.to(tl.int64), mask=row < n_rows)


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "n_samples", "n_cols", "n_steps"])
def _look_up_kernel(cumulative_ptr, out_ptr, seed, block, n_samples, n_cols, n_steps, SAMPLES: tl.constexpr):
    """The first category whose cumulative weight reaches a number in (0, 1]. One row per step of axis 1, as ATen."""
    row = tl.program_id(1)
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    thread = row.to(tl.int64) * tl.num_programs(0) * SAMPLES + sample
    bits, _, _, _ = random_bits(seed.to(tl.int64), block.to(tl.int64), thread)
    cumulative_ptr += row.to(tl.int64) * n_cols
    last = tl.load(cumulative_ptr + n_cols - 1)
    u = tl.minimum(unit(bits), last)
    low = tl.zeros((SAMPLES,), tl.int32)
    high = tl.full((SAMPLES,), 0, tl.int32) + n_cols
    for _ in range(n_steps):
        middle = low + (high - low) // 2
        below = tl.load(cumulative_ptr + middle, mask=low < high, other=2.0) < u
        low = tl.where((low < high) & below, middle + 1, low)
        high = tl.where((low < high) & ~below, middle, high)
    tl.store(out_ptr + row.to(tl.int64) * n_samples + sample, low.to(tl.int64), mask=sample < n_samples)


def _check(weights: Tensor) -> None:
    """Nothing waits for an interpreted kernel, so there ATen's own error can be had."""
    if not bool(((weights >= 0) & (weights < float("inf"))).all() & (weights.sum(-1) > 0).all()):
        raise Declined("weights that are negative, infinite, nan, or all zero: ATen raises")


def _weights(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((5,), (1,), (4, 7), (3, 300)):
        w = values(shape, dtype, 0.1, 3.0)
        yield Sample((w, 1))
        yield Sample((w, shape[-1]))
        if shape[-1] > 1:
            yield Sample((torch.where(torch.arange(shape[-1]) % 3 == 1, 0, w), shape[-1] // 2))


def _bench(rows: int, categories: int, samples: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (torch.rand(rows, categories, device=where).to(dtype), samples), {}

    return Workload(f"{samples} of {rows}x{categories}", make)


@planned(
    "aten::multinomial", dtypes=FLOATS, samples=_weights, random=True, bench=(_bench(64, 128256, 1), _bench(64, 32000, 8)),
)  # fmt: skip
def multinomial(
    self: Tensor, num_samples: int, replacement: bool = False, generator: torch.Generator | None = None, out: Tensor | None = None
) -> Planned:
    """Indices of categories of the last dimension, drawn with the probabilities that self is proportional to."""
    n_cols = self.shape[-1] if self.dim() else 0
    if self.dim() not in (1, 2) or n_cols > MOST_CATEGORIES or num_samples < 1 or not replacement and num_samples > n_cols:
        raise Declined(f"{num_samples} of {tuple(self.shape)}: ATen raises")
    if replacement and num_samples > 1 and self.dtype.itemsize < 4:
        raise Declined("weights of 16 bits, with replacement: ATen adds them up in 16 bits, in an order of its own")
    if not self.is_contiguous():
        raise Declined("a tensor with gaps or in another order")
    shape = (*self.shape[:-1], num_samples)
    if out is not None and not result_buffer(out, shape, torch.int64, self.device).is_contiguous():
        raise Declined("out= is not contiguous")
    n_rows = self.numel() // n_cols
    plan = Plan("self", "_num_samples", "_replacement", "generator", out=out)
    if device.interpreted():
        plan.do("{check}(self)", check=_check)
    totals = plan.empty("totals", (n_rows,), torch.float32, self.device)
    columns = min(COLUMNS, triton.next_power_of_2(n_cols))
    rows = _rows(n_rows, columns)
    plan.launch(_totals_kernel, (triton.cdiv(n_rows, rows),), Code("self"), totals, n_rows, n_cols, rows, columns)
    if replacement and num_samples > 1:
        return _plan_look_up(plan, self, n_rows, n_cols, num_samples, shape)
    return _plan_race(plan, self, n_rows, n_cols, num_samples, shape, columns)


def _rows(n_rows: int, columns: int) -> int:
    """Rows of a tile of so many columns."""
    return min(triton.next_power_of_2(n_rows), max(1, (INTERPRETER_TILE if device.interpreted() else COLUMNS) // columns))


def _plan_race(
    plan: Plan, self: Tensor, n_rows: int, n_cols: int, num_samples: int, shape: tuple[int, ...], columns: int
) -> Planned:
    n = self.numel()
    seed, first = plan_reserve(plan, n, self.device)
    drawn, fast = (seed, first), has_fast_instructions()
    if num_samples > 1:
        plan.do("times = {empty_like}(self)", empty_like=torch.empty_like)
        block = triton.next_power_of_2(n) if device.interpreted() else 1024
        plan.launch(_race_kernel, (triton.cdiv(n, block),), Code("self"), Code("times"), *drawn, n, threads_for(n), fast, block)
        plan.do("winners = {topk}(times, {k})[1]", topk=torch.topk, k=num_samples)
        return plan.build("out0.copy_(winners)" if plan.outs else "winners")
    parts = triton.cdiv(n_cols, columns)
    result = plan.result(shape, torch.int64, self.device)
    best = plan.empty("best", (n_rows, parts), torch.float32, self.device)
    where = plan.empty("where", (n_rows, parts), torch.int32, self.device)
    rows = _rows(n_rows, columns)
    grid = (triton.cdiv(n_rows, rows), parts)
    plan.launch(_winner_kernel, grid, Code("self"), best, where, *drawn, n_rows, n_cols, threads_for(n), fast, rows, columns)
    padded = triton.next_power_of_2(parts)
    rows = _rows(n_rows, padded)
    plan.launch(_champion_kernel, (triton.cdiv(n_rows, rows),), best, where, result, n_rows, parts, rows, padded)
    return plan.build(result)


def _plan_look_up(plan: Plan, self: Tensor, n_rows: int, n_cols: int, num_samples: int, shape: tuple[int, ...]) -> Planned:
    if n_rows > 65535:
        raise Declined(f"{n_rows} rows")
    result = plan.result(shape, torch.int64, self.device)
    plan.do("cumulative = (self.float() / totals.view({shape})).cumsum(-1)", shape=(*self.shape[:-1], 1))
    # ATen has a thread for each sample of a row and moves on by one draw for all
    seed, first = plan_reserve(plan, ATEN_BLOCK, self.device)
    plan.launch(
        _look_up_kernel, (triton.cdiv(num_samples, SAMPLES), n_rows), Code("cumulative"), result, seed, first, num_samples,
        n_cols, n_cols.bit_length(), SAMPLES,
    )  # fmt: skip
    return plan.build(result)
