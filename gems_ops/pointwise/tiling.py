"""Block sizes and warps of pointwise kernels, by what a program moves."""

from __future__ import annotations

from dataclasses import dataclass

from gems_runtime import device

INTERPRETER_ELEMENTS = 1 << 16  # the interpreter pays per program, not per element


@dataclass(frozen=True)
class Tiling:
    """Elements of a program, the columns that a tile of them has at most, and its warps."""

    block: int
    cols: int
    warps: int


def tiling(itemsize: int, transposed: bool = False, line: bool = False) -> Tiling:
    """For tensors of which the widest elements have this size; `transposed` if one of them is dense along the rows, `line` if
    one running index is taken apart.

    Flat: 8 elements a thread, 1024 a program. On an H200 (torch 2.11, Triton 3.6) neg reaches 97.8 % of the copy rate in
    float32 and 96.5 % in bfloat16; of blocks of 512 to 4096 elements by 2 to 8 warps, 256 threads with one 16-byte access each
    do better there (98.7 % and 97.2 %), but are up to 12 % slower for functions of many instructions and for results narrower
    than operands. Transposed: 64 x 64 by 4 warps reaches 100.3 % in float32, and 96.5 % in bfloat16, where 128 x 64 by 8
    reaches 98.0 %. By one index: two elements a thread, for a thread's own are not neighbours in memory (with eight, every
    second column in bfloat16 ran at 0.61 x ATen; with two it has not been measured).
    """
    if device.interpreted():
        return Tiling(INTERPRETER_ELEMENTS, INTERPRETER_ELEMENTS, 4)
    if line:
        return Tiling(512, 512, 8)
    if transposed:
        return Tiling(64 * 64, 64, 4) if itemsize >= 4 else Tiling(128 * 64, 64, 8)
    return Tiling(1024, 256 if itemsize >= 4 else 1024, 4)
