"""From shapes, strides and reduced dimensions to what the kernels iterate over. No transposing copy is ever needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import triton

from gems_ops.op import Declined
from gems_ops.layout import collapse

# Chosen with tools/sweep_tiles on an NVIDIA H200, 2026-11-22: with three tiles on their way at once, 4096 elements are
# within 3 % of the best tile of every workload there. 8192 x 8192, us and share of the copy rate: all float32 64.0 (99 %),
# bfloat16 34.1 (93 %); rows 62.7 (101 %), 32.5 (98 %); columns 66.5 (95 %), 36.8 (86 %).
TILE = 4096  # elements of at most 4 bytes
STAGES = 3  # tiles that are on their way at once
COLUMNS = 128  # of an outer reduction's tile
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program and step, not per element
PROGRAMS_PER_SM = 4
# With three halves as many programs as multiprocessors, reductions are not cut: a second stage costs 2 to 3 us.
ENOUGH = 1.5
# Where programs are few or tiles small, more tiles are on their way: those of a multiprocessor have so many bytes together.
ON_THEIR_WAY = 48 << 10
MORE_STAGES = (5, 8)
# Of states of several values a program takes up to 80 registers a thread (Triton 3.6, sm_90): of 8 warps, 3 programs fit
# a multiprocessor, and a fourth would run after them.
PROGRAMS_OF_STATES = 3
WHOLE_ROW = 8192  # elements of a row that one tile holds where a state has WHOLE_STATES values or more: folding is dear
WHOLE_STATES = 3
LATER_COLUMNS = 32  # of a second stage's tile: 128 bytes, and as many programs as there can be
MOST_DIMENSIONS = 64  # that ATen reduces


@dataclass(frozen=True)
class Axis:
    """A collapsed dimension. `out` is 0 for reduced ones."""

    size: int
    x: int
    out: int = 0


ONE = Axis(1, 0, 0)


@dataclass(frozen=True)
class Geometry:
    """Outputs: `col` x `batch`. Reduced elements: `n` x `outer`. Tiles cover `col` and `n`."""

    col: Axis
    batch: tuple[Axis, ...]
    n: Axis
    outer: tuple[Axis, ...]

    @property
    def columns_first(self) -> bool:
        """True if neighbours in memory belong to different outputs."""
        return 0 < self.col.x < (self.n.x or self.col.x + 1)

    @property
    def n_reduced(self) -> int:
        """Elements that go into one output."""
        return self.n.size * prod(a.size for a in self.outer)

    @property
    def extent(self) -> int:
        """The largest number that indexing meets: an element's offset or its position in the reduction."""
        axes = (self.col, *self.batch, self.n, *self.outer)
        return max(1 + sum((a.size - 1) * a.x for a in axes), prod(a.size for a in axes))

    def numbered(self) -> Geometry:
        """The same elements with the outputs written densely, in the order (batch, col)."""
        out, axes = self.col.size, []
        for a in reversed(self.batch):
            axes.append(Axis(a.size, a.x, out))
            out *= a.size
        return Geometry(Axis(self.col.size, self.col.x, 1), tuple(reversed(axes)), self.n, self.outer)

    def of_partials(self, splits: int) -> Geometry:
        """The second stage: reduces [splits, outputs as `numbered`] to the outputs of this geometry."""
        axes = (*self.batch, self.col)
        dense = [a.out for a in (*self.numbered().batch, self.numbered().col)]
        shape = (splits, *(a.size for a in axes))
        strides = (prod(shape[1:]), *dense)
        return geometry(shape, strides, [a.out for a in axes], frozenset({0}))


@dataclass(frozen=True)
class Tiling:
    """How a geometry is cut into programs."""

    block_m: int
    block_n: int
    programs: int
    splits: int
    steps_per_split: int
    num_warps: int
    stages: int = STAGES  # tiles that are on their way at once


def reduced_dims(dim: int | Sequence[int] | None, rank: int) -> frozenset[int]:
    """The dimensions named by `dim`; all for None and []. Declines what ATen has an error message for."""
    if rank > MOST_DIMENSIONS:
        raise Declined(f"{rank} dimensions: ATen raises")
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    bound = max(rank, 1)
    if any(not -bound <= d < bound for d in dims):
        raise Declined(f"dim {dims} is out of range for {rank} dimensions")
    found = frozenset(d % bound for d in dims)
    if len(found) != len(dims):
        raise Declined(f"dim {dims} names a dimension twice")
    return found if dims else frozenset(range(rank))


def result_shape(shape: Sequence[int], reduced: frozenset[int], keepdim: bool) -> tuple[int, ...]:
    if keepdim:
        return tuple(1 if d in reduced else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in reduced)


def geometry(shape: Sequence[int], strides: Sequence[int], out_strides: Sequence[int], reduced: frozenset[int]) -> Geometry:
    """`out_strides` has one entry for each kept dimension, in order."""
    kept = [d for d in range(len(shape)) if d not in reduced]
    gone = [d for d in range(len(shape)) if d in reduced]
    sizes, (outs, xs) = collapse([shape[d] for d in kept], [tuple(out_strides), tuple(strides[d] for d in kept)])
    cols = [Axis(*a) for a in zip(sizes, xs, outs, strict=True)]
    sizes, (xs,) = collapse([shape[d] for d in gone], [tuple(strides[d] for d in gone)])
    ns = [Axis(*a) for a in zip(sizes, xs, strict=True)]
    columns_first = _smallest_stride(cols) < _smallest_stride(ns)
    col = _take(cols, nearest=columns_first)
    n = _take(ns, nearest=not columns_first)
    if len(cols) > 4 or len(ns) > 3:
        raise Declined(f"{len(cols) + 1} kept and {len(ns) + 1} reduced dimensions do not merge further")
    return Geometry(col, tuple(cols), n, tuple(ns))


def _smallest_stride(axes: list[Axis]) -> int:
    return min((a.x for a in axes if a.x), default=2**63)


def _take(axes: list[Axis], nearest: bool) -> Axis:
    """Remove and return the axis that a tile covers: the one with neighbours in memory, else the longest."""
    if not axes:
        return ONE
    chosen = min(axes, key=lambda a: a.x or 2**63) if nearest else max(axes, key=lambda a: a.size)
    axes.remove(chosen)
    return chosen


def tiling(g: Geometry, sm_count: int, interpreted: bool, itemsize: int, states: int = 1) -> Tiling:
    """Tiles that fill the machine, which one multiprocessor stands for in a second stage: that is never split.

    `states` is how many values a reduction's state has.
    """
    tile = INTERPRETER_TILE if interpreted else TILE * 4 // max(4, itemsize)
    if states >= WHOLE_STATES and not g.columns_first and tile < g.n.size <= WHOLE_ROW:
        tile = triton.next_power_of_2(g.n.size)
    later = sm_count == 1
    want = 1 if interpreted or later else sm_count * (PROGRAMS_PER_SM if states == 1 else PROGRAMS_OF_STATES)
    batches = prod(a.size for a in g.batch)
    n_pow2, col_pow2 = triton.next_power_of_2(g.n.size), triton.next_power_of_2(g.col.size)
    if g.columns_first and not interpreted:
        block_m = min(col_pow2, LATER_COLUMNS if later else COLUMNS)
        block_n = min(n_pow2, tile // block_m)
        block_m = block_m if later else min(col_pow2, tile // block_n)
    else:
        block_n = min(n_pow2, tile)
        block_m = min(col_pow2, tile // block_n)
    while block_m > (COLUMNS if g.columns_first else 1) and batches * triton.cdiv(g.col.size, block_m) < want:
        block_m //= 2
    t = cut(g, block_m, block_n, want)
    bytes_of_stage = t.block_m * t.block_n * itemsize * t.programs * t.splits / sm_count
    stages = next((s for s in (STAGES, *MORE_STAGES) if (s - 1) * bytes_of_stage >= ON_THEIR_WAY), MORE_STAGES[-1])
    return replace(t, stages=min(stages, max(STAGES, t.steps_per_split)))


def cut(g: Geometry, block_m: int, block_n: int, want: int) -> Tiling:
    """Tiles of this size, and about `want` programs: each reduction is shared by several where outputs are few."""
    programs = prod(a.size for a in g.batch) * triton.cdiv(g.col.size, block_m)
    steps = triton.cdiv(g.n.size, block_n) * prod(a.size for a in g.outer)
    # at least two tiles each, so that the second stage stays small beside the first
    splits = max(1, min(want // programs, steps // 2)) if programs * PROGRAMS_PER_SM < want * ENOUGH else 1
    per_split = triton.cdiv(steps, splits)
    num_warps = max(1, min(8, block_m * block_n // 1024))
    return Tiling(block_m, block_n, programs, triton.cdiv(steps, per_split), per_split, num_warps)
