"""Tensors made from an index: arange, linspace, logspace, eye. All are out= operators whose result arrives empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from gems_ops.create.numbers import bits_of_all, number
from gems_ops.op import ALL, DOUBLES, NUMBERS, Declined, Sample, op
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.workloads import Workload
from gems_runtime import LibEntry, device

TILE, INTERPRETER_TILE = 2048, 1 << 16  # elements of a program; the interpreter pays per program
BLOCK = 512  # few enough for the 4096 positions of a prompt to be made by several programs
_BLOCK_OF_POWERS = 128  # one pow in float64 a thread: four took 2.8 us for 4096, ATen's in float32 1.3 (H200, 2026-11-26)

_LEAST, _MOST = -(2**63), 2**63 - 1


@LibEntry
@triton.jit(do_not_specialize=["start", "step"])
def _arange_kernel(out_ptr, start, step, n, FLOATING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if FLOATING:
        x = number(start, True) + i.to(tl.float64) * number(step, True)
        if out_ptr.dtype.element_ty != tl.float64:
            x = x.to(tl.float32)
    else:
        x = number(start, False) + i * number(step, False)
    tl.store(out_ptr + i, x.to(out_ptr.dtype.element_ty), mask=i < n)


@LibEntry
@triton.jit(do_not_specialize=["start", "end", "step", "base", "n"])
def _linspace_kernel(out_ptr, start, end, step, base, n, POWERS: tl.constexpr, BLOCK: tl.constexpr):
    """From both ends to the middle, so that the last element is exactly `end`; with POWERS, `base` to the power of each."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    up = number(start, True) + i.to(tl.float64) * number(step, True)
    down = number(end, True) - (n - 1 - i).to(tl.float64) * number(step, True)
    x = tl.where(i < n // 2, up, down)
    if POWERS:
        x = libdevice.pow(number(base, True), x)
    if out_ptr.dtype.element_ty != tl.float64:
        x = x.to(tl.float32)
    tl.store(out_ptr + i, x.to(out_ptr.dtype.element_ty), mask=i < n)


@LibEntry
@triton.jit
def _eye_kernel(out_ptr, n_rows, n_cols, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    blocks = tl.cdiv(n_cols, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    one = tl.where(row[:, None] == col[None, :], 1.0, 0.0).to(out_ptr.dtype.element_ty)
    mask = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    tl.store(out_ptr + (row.to(tl.int64) * n_cols)[:, None] + col[None, :], one, mask=mask)


def _blocks(block: int) -> Callable[[int], tuple[tuple[int], int]]:
    """A function of a length that gives (grid, elements of a program). Whether kernels are interpreted is asked once."""
    if device.interpreted():
        return lambda n: ((1,), triton.next_power_of_2(n))
    return lambda n: ((-(-n // block),), block)


def _sized(out: Tensor, *shape: int) -> Tensor:
    """`out` in this shape, if it arrived empty or has it."""
    if out.numel() == 0:
        return out.resize_(shape)
    if tuple(out.shape) != shape or not out.is_contiguous():
        raise Declined(f"out= has the shape {tuple(out.shape)}, the result {shape}, or is not contiguous")
    return out


def _length(start: float, end: float, step: float) -> int:
    """Elements of a range of numbers, counted in float64 as ATen."""
    if not all(map(math.isfinite, (start, end, step))) or step == 0:
        raise Declined("a range that is infinite or has no step")
    return math.ceil((float(end) - float(start)) / float(step))


def _whole_length(start: int, end: int, step: int) -> int:
    """Elements of a range of integers that the kernel can hold."""
    if not (_LEAST <= start <= _MOST and _LEAST <= end <= _MOST and _LEAST <= step <= _MOST and step):
        raise Declined("a range that has no step or does not fit in 64 bits")
    return -((start - end) // step)


def _ranges(dtype: torch.dtype) -> Iterator[Sample]:
    ranges = [(0, 5), (3, 40, 4), (100, 1, -7)]
    if dtype.is_floating_point:
        ranges += [(0.0, 1.0, 0.1), (-1.5, 2.25, 0.3), (1, 0, -0.125), (0, 1e300)]
    for numbers in ranges:
        yield Sample(numbers, {"out": torch.empty(0, dtype=dtype)})


def _range_bench(n: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (0, n, 1), {"out": torch.empty(n, dtype=dtype, device=where)}

    return Workload(str(n), make, dtypes=(torch.int64, torch.float32))


def _plan_arange(start: float, end: float, step: float, out: Tensor) -> Planned:
    """Numbers are those of each call: a key holds integers only, and types."""
    floating, blocks, has = out.dtype.is_floating_point, _blocks(BLOCK), out.numel()
    whole = type(start) is type(end) is type(step) is int
    if not whole and not (floating and all(isinstance(v, (int, float)) for v in (start, end, step))):
        raise Declined(f"a range of {type(start).__name__}, {type(end).__name__} into {out.dtype}")
    if has:
        _sized(out, has)
    length, bits = _whole_length if whole else _length, bits_of_all(2)

    def run(start: float, end: float, step: float, out: Tensor) -> Tensor:
        n = length(start, end, step)
        if n != has or n == 0:
            if has or not 0 < n < 2**62:
                raise Declined("out= has another length, or the range is empty, runs away from its end or has no end in memory")
            out.resize_((n,))
        grid, block = blocks(n)
        if floating:
            start, step = bits(start, step)
        _arange_kernel[grid](out, start, step, n, floating, block)
        return out

    return run


@op(
    "aten::arange.start_out", dtypes=NUMBERS, samples=_ranges, resizes_out=True, plan=_plan_arange,
    bench=(_range_bench(4096), _range_bench(1 << 26)),
)  # fmt: skip
def arange(start: float, end: float, step: float = 1, *, out: Tensor) -> Tensor:
    """start, start + step, ... up to but not including end, each computed as start + i * step in float64 or int64."""
    return call(_plan_arange, start, end, step, out=out)


def _spaces(dtype: torch.dtype) -> Iterator[Sample]:
    for start, end, steps in ((0, 1, 5), (-2.5, 7.25, 50), (3, -3, 2), (1.5, 4.0, 1), (0.1, 0.1, 7)):
        yield Sample((start, end, steps), {"out": torch.empty(0, dtype=dtype)})


def _space_bench(n: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (-1.0, 1.0, n), {"out": torch.empty(n, dtype=dtype, device=where)}

    return Workload(str(n), make, dtypes=(torch.float32,))


def _plan_linspace(start: float, end: float, steps: int, out: Tensor) -> Planned:
    return _plan_spaced(Plan("start", "end", "_steps", "out"), start, end, steps, None, out, _blocks(BLOCK))


def _plan_logspace(start: float, end: float, steps: int, base: float, out: Tensor) -> Planned:
    return _plan_spaced(Plan("start", "end", "_steps", "base", "out"), start, end, steps, base, out, _blocks(_BLOCK_OF_POWERS))


def _plan_spaced(
    plan: Plan, start: float, end: float, steps: int, base: float | None, out: Tensor, blocks: Callable[[int], tuple[tuple[int], int]]
) -> Planned:
    """Integers and types decide: 0.7 us above the launch, 3.3 where a function looked at all in each call (EPYC, Python 3.11, 2026-11-27)."""
    if not all(isinstance(v, (int, float)) for v in (start, end, base or 0.0)):
        raise Declined(f"from {start} to {end}")
    if steps < 1:
        raise Declined(f"{steps} steps")
    if out.numel():
        _sized(out, steps)
    else:
        plan.do("out.resize_({shape})", shape=(steps,))
    plan.do("gap = float(end) - float(start)")
    plan.do("if gap - gap: raise {declined}('a space that is infinite')", declined=Declined)
    last, step = ("end", f"gap / {steps - 1}") if steps > 1 else ("start", "0.0")
    plan.do(f"first, last, step, base = {{bits}}(start, {last}, {step}, {'0.0' if base is None else 'base'})", bits=bits_of_all(4))
    grid, block = blocks(steps)
    numbers = map(Code, ("first", "last", "step", "base"))
    plan.launch(_linspace_kernel, grid, Code("out"), *numbers, steps, base is not None, block)
    return plan.build("out")


@op(
    "aten::linspace.out", dtypes=DOUBLES, samples=_spaces, resizes_out=True, plan=_plan_linspace,
    bench=(_space_bench(4096), _space_bench(1 << 26)),
)  # fmt: skip
def linspace(start: float, end: float, steps: int, *, out: Tensor) -> Tensor:
    """`steps` numbers from start to end at equal distances, computed in float64."""
    return call(_plan_linspace, start, end, steps, out=out)


def _powers(dtype: torch.dtype) -> Iterator[Sample]:
    for numbers in ((0, 1, 5), (-2.5, 3.25, 50), (3, -3, 2), (1.5, 4.0, 1), (0.1, 0.1, 7)):
        yield Sample(numbers, {"out": torch.empty(0, dtype=dtype)})
    for numbers in ((0, 8, 9, 2.0), (1, 2, 4, 0.5), (0, 3, 6, -2), (0, 3, 4, 0.0)):
        yield Sample(numbers, {"out": torch.empty(0, dtype=dtype)})


@op(
    "aten::logspace.out", dtypes=DOUBLES, samples=_powers, resizes_out=True, plan=_plan_logspace, bench=(_space_bench(4096),),
)  # fmt: skip
def logspace(start: float, end: float, steps: int, base: float = 10.0, *, out: Tensor) -> Tensor:
    """base to the power of `steps` numbers from start to end at equal distances, computed in float64."""
    return call(_plan_logspace, start, end, steps, base, out=out)


def _eyes(*columns: int) -> object:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for n in (1, 2, 7, 33):
            for m in columns or (None,):
                yield Sample((n,) if m is None else (n, m), {"out": torch.empty(0, dtype=dtype)})

    return make


def _eye_bench(*shape: int) -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return shape, {"out": torch.empty((shape * 2)[:2], dtype=dtype, device=where)}

    return (Workload("x".join(map(str, (shape * 2)[:2])), make),)


@op("aten::eye.out", dtypes=ALL, samples=_eyes(), resizes_out=True, bench=_eye_bench(8192))
def eye(n: int, *, out: Tensor) -> Tensor:
    """The n x n identity matrix."""
    return eye_m(n, n, out=out)


@op("aten::eye.m_out", dtypes=ALL, samples=_eyes(1, 5, 40), resizes_out=True)
def eye_m(n: int, m: int, *, out: Tensor) -> Tensor:
    """Ones on the main diagonal of an n x m matrix of zeros."""
    if n <= 0 or m <= 0:
        raise Declined(f"an empty matrix {n} x {m}")
    _sized(out, n, m)
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    columns = min(triton.next_power_of_2(m), tile)
    rows = min(triton.next_power_of_2(n), tile // columns)
    _eye_kernel[(-(-n // rows) * -(-m // columns),)](out, n, m, rows, columns)
    return out
