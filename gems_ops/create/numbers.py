"""Python numbers as creation kernels take them, and the shape of their launches."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

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


_FLOAT, _INTEGER = struct.Struct("<d"), struct.Struct("<q")


def bits(x: float) -> int:
    """The bits of a float64, as a kernel's integer argument."""
    return _INTEGER.unpack(_FLOAT.pack(x))[0]


def bits_of_all(n: int) -> Callable[..., tuple[int, ...]]:
    """A function of n numbers that gives `bits` of each: together they cost little more than one."""
    unpack, pack = struct.Struct(f"<{n}q").unpack, struct.Struct(f"<{n}d").pack
    return lambda *numbers: unpack(pack(*numbers))


def block_of(n: int) -> int:
    """Elements of a program that makes n of them."""
    return min(triton.next_power_of_2(n), INTERPRETER_BLOCK if device.interpreted() else BLOCK)


def filler(dtype: torch.dtype) -> Callable[[bool | int | float], int]:
    """A function that gives a number as the kernel takes it. It declines what ATen's checked conversion may refuse or cut."""
    if dtype == torch.bool:
        return lambda value: int(bool(value))
    if not dtype.is_floating_point:
        return partial(_whole, torch.iinfo(dtype))
    most = torch.finfo(dtype).max

    def floating(value: bool | int | float) -> int:
        value = float(value)
        if not -most <= value <= most and value - value == 0:
            raise Declined(f"{value} overflows {dtype}")
        return bits(value)

    return floating


def _whole(limits: torch.iinfo, value: bool | int | float) -> int:
    if isinstance(value, float) or not limits.min <= value <= limits.max:
        raise Declined(f"{value} as {limits.dtype}")
    return int(value)
