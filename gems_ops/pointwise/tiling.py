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


def tiling(itemsize: int, tensors: int, transposed: bool) -> Tiling:
    """For results of this item size, among so many tensors; `transposed` if one of them is dense along the rows."""
    if device.interpreted():
        return Tiling(INTERPRETER_ELEMENTS, INTERPRETER_ELEMENTS, 4)
    if transposed:
        return Tiling(64 * 64, 64, 4)
    return Tiling(1024, 1024, 4)  # 128 threads x 8 elements: 16-byte accesses for 2-byte types, two for 4-byte types
