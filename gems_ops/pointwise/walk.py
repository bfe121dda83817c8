"""How a kernel walks the memory of its operands: flat, along one index, or in tiles of rows and columns."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import triton

from gems_ops.layout import INT32_EXTENT, collapse, extent
from gems_ops.pointwise.tiling import INTERPRETER_ELEMENTS, Tiling, tiling
from gems_runtime import device


class Mode(enum.Enum):
    FLAT = "flat"  # every tensor is dense in the same order
    LINE = "line"  # one running index, taken apart for each element
    TILE = "tile"  # blocks of the last two dimensions: broadcast rows and columns, transposed operands


@dataclass(frozen=True)
class Pattern:
    """What the text of a kernel says about layout."""

    mode: Mode
    rank: int
    strides: tuple[str, ...]  # per tensor, results last, a letter per dimension: 0, 1 or s for any other stride
    wide: bool = False  # 64-bit indices
    ragged: bool = False  # FLAT: no multiple of 16 elements
    sixteens: bool = False  # TILE: sizes and strides are multiples of 16, and passed divided by it

    @property
    def label(self) -> str:
        """For the kernel's name."""
        flags = (("wide", self.wide), ("ragged", self.ragged), ("sixteens", self.sixteens))
        return "_".join([f"{self.mode.value}{self.rank}", *(name for name, on in flags if on)])


@dataclass(frozen=True)
class Walk:
    """A pattern with its numbers: what is passed to the kernel, and how it is launched."""

    pattern: Pattern
    numbers: tuple[int, ...]  # in the order of codegen's layout parameters
    blocks: tuple[int, ...]
    grid: int
    warps: int


# A lane past the end must not wrap around, so the last block of indices is left to 64 bits.
_NARROW = INT32_EXTENT - 2 * INTERPRETER_ELEMENTS


def walk(
    shape: Sequence[int], strides: Sequence[Sequence[int]], itemsize: int, mode: Mode | None = None, most: Tiling | None = None
) -> Walk:
    """The walk over tensors of one shape with these strides, results last. `mode` overrides the choice, `most` bounds blocks."""
    sizes, merged = collapse(shape, strides)
    wide = prod(sizes) > _NARROW or any(extent(sizes, s) > _NARROW for s in merged)
    if mode is None:
        mode = _mode(sizes, merged)
    sizes, merged = (sizes, merged) if sizes else ([1], [[1] for _ in strides])
    if mode is Mode.TILE and len(sizes) > 1:
        sizes, merged = _with_rows_before_columns(sizes, merged)
        return _tile(sizes, merged, wide, _bounded(tiling(itemsize, any(s[-2] == 1 for s in merged)), most))
    flat = len(sizes) == 1 and all(s == [1] for s in merged)
    t = _bounded(tiling(itemsize, line=not flat), most)
    return _flat(prod(sizes), len(strides), wide, t) if flat else _line(sizes, merged, wide, t)


def _bounded(t: Tiling, most: Tiling | None) -> Tiling:
    return t if most is None else Tiling(min(t.block, most.block), min(t.cols, most.cols), min(t.warps, most.warps))


def _mode(sizes: list[int], strides: list[list[int]]) -> Mode:
    if not sizes or (len(sizes) == 1 and all(s == [1] for s in strides)):
        return Mode.FLAT
    if len(sizes) < 2:
        return Mode.LINE
    ordered, _ = _with_rows_before_columns(sizes, strides)
    rows, cols = ordered[-2:]
    filled = rows * cols / (triton.next_power_of_2(rows) * triton.next_power_of_2(cols))
    # blocks of a few elements would be programs of a few threads
    enough = 16 if device.interpreted() else 512
    return Mode.TILE if filled >= 0.5 and rows * cols >= enough or rows * cols >= 1 << 16 else Mode.LINE


def _with_rows_before_columns(sizes: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The dimensions with those two last that tiles are cut from: where an operand is dense, and where the result is."""
    last = len(sizes) - 1
    dense = [d for d in range(last) if any(s[d] == 1 for s in strides)]
    row = max(dense, key=lambda d: sizes[d], default=last - 1)
    order = [*(d for d in range(last) if d != row), row, last]
    return [sizes[d] for d in order], [[s[d] for d in order] for s in strides]


def _kinds(strides: list[list[int]]) -> tuple[str, ...]:
    return tuple("".join("0" if s == 0 else "1" if s == 1 else "s" for s in own) for own in strides)


def _passed(strides: list[list[int]]) -> list[int]:
    return [s for own in strides for s in own if s not in (0, 1)]


def _flat(total: int, tensors: int, wide: bool, t: Tiling) -> Walk:
    block = min(t.block, triton.next_power_of_2(total)) if device.interpreted() else t.block
    ragged = total % 16 != 0 and total >= 1 << 16
    pattern = Pattern(Mode.FLAT, 1, ("1",) * tensors, wide, ragged)
    return Walk(pattern, (total,), (block,), triton.cdiv(total, block), t.warps)


def _line(sizes: list[int], strides: list[list[int]], wide: bool, t: Tiling) -> Walk:
    total = prod(sizes)
    block = min(t.block, triton.next_power_of_2(total)) if device.interpreted() else t.block
    pattern = Pattern(Mode.LINE, len(sizes), _kinds(strides), wide)
    return Walk(pattern, (total, *sizes[1:], *_passed(strides)), (block,), triton.cdiv(total, block), t.warps)


def _tile(sizes: list[int], strides: list[list[int]], wide: bool, t: Tiling) -> Walk:
    *outer, rows, cols = sizes
    block_cols = min(triton.next_power_of_2(cols), t.cols)
    block_rows = min(triton.next_power_of_2(rows), max(1, t.block // block_cols))
    if block_rows * block_cols < t.block:
        block_cols = min(triton.next_power_of_2(cols), t.block // block_rows)
    passed = _passed(strides)
    sixteens = all(n % 16 == 0 for n in (cols, *passed))
    scale = 16 if sixteens else 1
    row_blocks, col_blocks = triton.cdiv(rows, block_rows), triton.cdiv(cols, block_cols)
    numbers = [*sizes[1:-1], cols // scale, row_blocks if outer else rows, *(s // scale for s in passed)]
    pattern = Pattern(Mode.TILE, len(sizes), _kinds(strides), wide, sixteens=sixteens)
    return Walk(pattern, tuple(numbers), (block_rows, block_cols), prod(outer) * row_blocks * col_blocks, t.warps)
