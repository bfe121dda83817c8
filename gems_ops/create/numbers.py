"""Python numbers as creation kernels take them, and the shape of their launches."""

from __future__ import annotations

import math
import struct

import torch
import triton
import triton.language as tl

from gems_ops.op import Declined
from gems_runtime import device

BLOCK = 2048
INTERPRETER_BLOCK = 1 << 16  # the interpreter pays per program, not per element


@triton.jit
def number(value, FLOATING: tl.constexpr):
    """A number as it was passed: the bits of a float64, for Triton passes Python floats as float32, or an int64."""
    if FLOATING:
        return value.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return value.to(tl.int64)


def bits(x: float) -> int:
    """The bits of a float64, as a kernel's integer argument."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


def block_of(n: int) -> int:
    """Elements of a program that makes n of them."""
    return min(triton.next_power_of_2(n), INTERPRETER_BLOCK if device.interpreted() else BLOCK)


def fill_number(value: bool | int | float, dtype: torch.dtype) -> int:
    """The number as the kernel takes it. Declines what ATen's checked conversion may refuse or cut."""
    if dtype == torch.bool:
        return int(bool(value))
    if dtype.is_floating_point:
        if isinstance(value, float) and math.isfinite(value) and abs(value) > torch.finfo(dtype).max:
            raise Declined(f"{value} overflows {dtype}")
        return bits(float(value))
    limits = torch.iinfo(dtype)
    if isinstance(value, float) or not limits.min <= value <= limits.max:
        raise Declined(f"{value} as {dtype}")
    return int(value)
