"""Tensors made from numbers: arange and full."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, NUMBERS, Declined, Sample, op
from gems_ops.workloads import Workload
from gems_runtime import LibEntry, device

BLOCK = 2048
INTERPRETER_BLOCK = 1 << 16  # the interpreter pays per program, not per element


@triton.jit
def _number(value, FLOATING: tl.constexpr):
    """A number as it was passed: the bits of a float64, for Triton passes Python floats as float32, or an int64."""
    if FLOATING:
        return value.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return value.to(tl.int64)


@LibEntry
@triton.jit(do_not_specialize=["start", "step"])
def _arange_kernel(out_ptr, start, step, n, FLOATING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if FLOATING:
        x = _number(start, True) + i.to(tl.float64) * _number(step, True)
        if out_ptr.dtype.element_ty != tl.float64:
            x = x.to(tl.float32)
    else:
        x = _number(start, False) + i * _number(step, False)
    tl.store(out_ptr + i, x.to(out_ptr.dtype.element_ty), mask=i < n)


@LibEntry
@triton.jit(do_not_specialize=["value"])
def _fill_kernel(out_ptr, value, n, FLOATING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = _number(value, FLOATING)
    if FLOATING and out_ptr.dtype.element_ty != tl.float64:
        x = x.to(tl.float32)
    tl.store(out_ptr + i, tl.full((BLOCK,), 0, out_ptr.dtype.element_ty) + x.to(out_ptr.dtype.element_ty), mask=i < n)


def _bits(x: float) -> int:
    return struct.unpack("<q", struct.pack("<d", x))[0]


def _launch_shape(n: int) -> tuple[tuple[int], int]:
    block = min(triton.next_power_of_2(n), INTERPRETER_BLOCK if device.interpreted() else BLOCK)
    return (triton.cdiv(n, block),), block


def _length(start: float, end: float, step: float) -> int:
    """Elements of a range; integers exactly, floating point in float64 as ATen."""
    if not all(map(math.isfinite, (start, end, step))) or step == 0 or (end - start) * step <= 0:
        raise Declined("a range that is empty, infinite or runs away from its end")
    if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return -((start - end) // step)
    return math.ceil((float(end) - float(start)) / float(step))


def _ranges(dtype: torch.dtype) -> Iterator[Sample]:
    ranges = [(0, 5), (3, 40, 4), (100, 1, -7)]
    if dtype.is_floating_point:
        ranges += [(0.0, 1.0, 0.1), (-1.5, 2.25, 0.3), (1, 0, -0.125)]
    for numbers in ranges:
        yield Sample(numbers, {"out": torch.empty(0, dtype=dtype)})


def _range_bench(n: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (0, n, 1), {"out": torch.empty(n, dtype=dtype, device=where)}

    return Workload(str(n), make, dtypes=(torch.int64, torch.float32))


@op("aten::arange.start_out", dtypes=NUMBERS, samples=_ranges, resizes_out=True, bench=(_range_bench(4096), _range_bench(1 << 26)))
def arange(start: float, end: float, step: float = 1, *, out: Tensor) -> Tensor:
    """start, start + step, ... up to but not including end, each computed as start + i * step in float64 or int64."""
    floating = out.dtype.is_floating_point
    if not all(type(v) is int or (floating and type(v) is float) for v in (start, end, step)):
        raise Declined(f"a range of {type(start).__name__}, {type(end).__name__} into {out.dtype}")
    if not all(-(2**63) <= v < 2**63 for v in (start, end, step)) and not floating:
        raise Declined("the range does not fit in 64 bits")
    n = _length(start, end, step)
    if out.numel() == 0:
        out.resize_(n)
    if out.numel() != n or not out.is_contiguous():
        raise Declined(f"out= has {out.numel()} elements, the range {n}, or is not contiguous")
    first, by = (_bits(start), _bits(step)) if floating else (start, step)
    grid, block = _launch_shape(n)
    _arange_kernel[grid](out, first, by, n, FLOATING=floating, BLOCK=block)
    return out


def _inferred(value: bool | int | float) -> torch.dtype:
    return torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.get_default_dtype()


def _fill_number(value: bool | int | float, dtype: torch.dtype) -> int:
    """The number as the kernel takes it. Declines what ATen's checked conversion may refuse or cut."""
    if dtype == torch.bool:
        return int(bool(value))
    if dtype.is_floating_point:
        if isinstance(value, float) and math.isfinite(value) and abs(value) > torch.finfo(dtype).max:
            raise Declined(f"{value} overflows {dtype}")
        return _bits(float(value))
    limits = torch.iinfo(dtype)
    if isinstance(value, float) or not limits.min <= value <= limits.max:
        raise Declined(f"{value} as {dtype}")
    return int(value)


def _fills(dtype: torch.dtype) -> Iterator[Sample]:
    for value in (3, 0, 2.7, float("nan"), float("inf")) if dtype.is_floating_point else (True,) if dtype == torch.bool else (3, 0, 100):
        yield Sample(((3, 5), value), {"dtype": dtype})
    yield Sample(((), 1), {"dtype": dtype})
    yield Sample(((2, 1, 7), 1.5 if dtype.is_floating_point else 1))


def _fill_bench(*shape: int) -> Workload:
    return Workload("x".join(map(str, shape)), lambda dtype, where: ((shape, 1.5), {"dtype": dtype, "device": where}))


@op("aten::full", dtypes=ALL, samples=_fills, bench=(_fill_bench(8192, 8192), _fill_bench(32, 32)))
def full(
    size: list[int],
    fill_value: bool | int | float,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """A tensor of one value, whose type it has if `dtype` is None."""
    if not isinstance(fill_value, (bool, int, float)) or pin_memory or layout not in (None, torch.strided):
        raise Declined("a complex value, pinned memory or a layout other than strided")
    dtype = dtype or _inferred(fill_value)
    if dtype not in ALL or any(n <= 0 for n in size):
        raise Declined(f"{dtype} {tuple(size)}")
    number = _fill_number(fill_value, dtype)
    result = torch.empty(size, dtype=dtype, device=device or _here())
    grid, block = _launch_shape(result.numel())
    _fill_kernel[grid](result, number, result.numel(), FLOATING=dtype.is_floating_point, BLOCK=block)
    return result


def _here() -> torch.device:
    return device.torch_device()
