"""A stable sort of long rows: eight bits a sweep over them, from the lowest, in tiles that wait for the tiles before.

First all digits of a row are counted, which tells where each digit's elements will begin. A sweep then sorts each tile by
its digit and writes runs of equal ones to their place, behind those of the tiles before (see `tile.counted_before`).
Tiles are taken in turn, from a counter, so whoever is waited for has begun. Sweeps over a digit that all of a row have
alike do nothing, so that numbers of a small range cost what they have bits. Two copies of the items take 16 bytes an
element, 24 of 64-bit types.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.create.fill import fill_dense
from gems_ops.layout import INT32_EXTENT
from gems_ops.op import Declined
from gems_ops.order import ptx
from gems_ops.order.keys import item_of, key_of, ordered, restored
from gems_ops.order.radix import WARPS, has_tiles, scratch_of
from gems_ops.order.tile import TALLIED, THREADS, cleared_tallies, counted_before, digits_of, exchanged, looked_up, memory_of, places, ranked, tallies, tally
from gems_ops.plan import Code, Plan
from gems_ops.reduce.engine import sm_count
from gems_runtime import LibEntry

MOST = ptx.THERE  # elements of a row are fewer
# Items of a thread, of types to 32 bits and of 64: 128 rows of 128256 float32 700 us, with 8 of them 835 (H100, 2026-11-27).
_ITEMS, _ITEMS_WIDE = 16, 8
_PROGRAMS_PER_SM = 4  # that count
# The state of a sort is int32: the turns of its sweeps, counts [rows, PASSES, 256], words [2, rows, tiles, 256], steps [rows, PASSES].
_TURNS = tl.constexpr(8)
# What a sweep does with a row, its step: nothing, or these.
_SWEPT, _FIRST, _LAST, _ODD = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4), tl.constexpr(8)


@triton.jit
def _words(state_ptr, n_rows, PASSES: tl.constexpr):
    return state_ptr + _TURNS + n_rows.to(tl.int64) * PASSES * THREADS


@triton.jit
def _steps(state_ptr, n_rows, tiles, PASSES: tl.constexpr):
    return _words(state_ptr, n_rows, PASSES) + 2 * n_rows.to(tl.int64) * tiles * THREADS


@LibEntry
@triton.jit(do_not_specialize=["n_rows", "n", "programs"])
def _count_kernel(
    x_ptr, state_ptr, n_rows, n, programs, PASSES: tl.constexpr, DESCENDING: tl.constexpr, NATIVE: tl.constexpr
):  # fmt: skip
    """How often each row of x [rows, n] has each value of each digit. So many programs share a row."""
    TILE: tl.constexpr = THREADS * TALLIED
    row = (tl.program_id(0) % n_rows).to(tl.int64)
    x_ptr += row * n
    t = tl.arange(0, THREADS)
    counts_ptr = state_ptr + _TURNS + row * PASSES * THREADS + t
    if NATIVE:
        memory = cleared_tallies(t, PASSES)
    for first in range(tl.program_id(0) // n_rows * TILE, n, programs * TILE):
        keys, there = (), ()
        for j in tl.static_range(TALLIED):
            at = first + j * THREADS + t
            keys = keys + (ordered(tl.load(x_ptr + at, mask=at < n, other=0), DESCENDING).to(tl.int64),)
            there = there + ((at < n).to(tl.int32),)
        if NATIVE:
            tally(keys, there, memory, PASSES)
        else:
            for j in tl.static_range(TALLIED):
                for step in tl.static_range(PASSES):
                    digit = ((keys[j] >> (8 * step)) & 255).to(tl.int32)
                    tl.atomic_add(counts_ptr + step * THREADS, tl.histogram(digit, THREADS, mask=there[j] > 0), sem="relaxed")
    if NATIVE:
        found = tallies(t, memory, PASSES)
        for step in tl.static_range(PASSES):
            tl.atomic_add(counts_ptr + step * THREADS, found[step], sem="relaxed")


@LibEntry
@triton.jit(do_not_specialize=["n", "tiles"])
def _starts_kernel(state_ptr, n, tiles, PASSES: tl.constexpr):
    """Counts become the places where digits begin; steps say what each sweep does. One row a program."""
    step = tl.arange(0, PASSES)
    row = tl.program_id(0).to(tl.int64)
    at = state_ptr + _TURNS + row * PASSES * THREADS + step[:, None] * THREADS + tl.arange(0, THREADS)[None, :]
    count = tl.load(at)
    tl.store(at, tl.cumsum(count, 1) - count)
    # where all are alike, nothing moves; but results are written by some sweep
    swept = ((tl.max(count, 1) < n) | (step == PASSES - 1)).to(tl.int32)
    before = tl.cumsum(swept, 0) - swept
    what = _SWEPT + _FIRST * (before == 0).to(tl.int32) + _LAST * (before == tl.sum(swept, 0) - 1).to(tl.int32) + _ODD * (before % 2)
    tl.store(_steps(state_ptr, tl.num_programs(0), tiles, PASSES) + row * PASSES + step, swept * what)


@triton.jit
def _item(x_ptr, keys_ptr, at, n, from_x, WIDE: tl.constexpr, DESCENDING: tl.constexpr):
    """An element's item, from x or from where the sweep before left it."""
    if from_x:
        x = tl.load(x_ptr + at, mask=at < n, other=0)
        item = item_of(x, at < n, at, WIDE, DESCENDING)
    else:
        item = tl.load(keys_ptr + at, mask=at < n, other=-1)
    return item


@triton.jit
def _index(indices_ptr, at, n, from_x):
    if from_x:
        index = at.to(tl.int64)
    else:
        index = tl.load(indices_ptr + at, mask=at < n, other=0).to(tl.int64)
    return index


@LibEntry
@triton.jit(do_not_specialize=["n_rows", "n", "tiles", "step"])
def _sweep_kernel(
    x_ptr, keys_ptr, places_ptr, values_ptr, indices_ptr, state_ptr, scratch_ptr,
    n_rows, n, tiles, step, PASSES: tl.constexpr, DESCENDING: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Items go from keys [2, rows, n], and of 64-bit types places [2, rows, n], to the other half; first from x, last to results.

    The words of this step are zero; those of the next are made so.
    """
    ITEMS: tl.constexpr = 1 << LOG
    TILE: tl.constexpr = THREADS * ITEMS
    NATIVE: tl.constexpr = scratch_ptr is None
    WIDE: tl.constexpr = PASSES == 8
    turn = tl.atomic_add(state_ptr + step, 1, sem="relaxed")
    row, tile = (turn % n_rows).to(tl.int64), turn // n_rows
    t = tl.arange(0, THREADS)
    words_ptr = _words(state_ptr, n_rows, PASSES) + row * tiles * THREADS
    half = n_rows.to(tl.int64) * tiles * THREADS
    tl.store(words_ptr + (step + 1) % 2 * half + tile * THREADS + t, t * 0)
    what = tl.load(_steps(state_ptr, n_rows, tiles, PASSES) + row * PASSES + step)
    if what == 0:
        return
    from_x, to_results, odd = (what & _FIRST) != 0, (what & _LAST) != 0, (what & _ODD) // _ODD
    half_of_items = n_rows.to(tl.int64) * n
    first = row * n
    read, written = first + (1 - odd) * half_of_items, first + odd * half_of_items
    x_ptr += first
    memory = memory_of(t, LOG, NATIVE)
    if not NATIVE:
        scratch_ptr += tl.program_id(0).to(tl.int64) * TILE
    own = places(t, ITEMS)
    shift = 8 * step + (0 if WIDE else 32)
    items, indices = (), ()
    for j in tl.static_range(ITEMS):
        at = tile * TILE + own + 32 * j
        items = items + (_item(x_ptr, keys_ptr + read, at, n, from_x, WIDE, DESCENDING),)
        if WIDE:
            indices = indices + (_index(places_ptr + read, at, n, from_x),)
    starts = tl.load(state_ptr + _TURNS + (row * PASSES + step) * THREADS + t)
    moved, count, begin = ranked(digits_of(items, shift, ITEMS), t, memory, scratch_ptr, LOG, NATIVE)
    items = exchanged(items, moved, t, memory, scratch_ptr, LOG, NATIVE)
    if WIDE:
        indices = exchanged(indices, moved, t, memory, scratch_ptr, LOG, NATIVE)
    before = counted_before(words_ptr + step % 2 * half, count, tile, t, NATIVE)
    digits = digits_of(items, shift, ITEMS)
    bases = looked_up(starts + before - begin, digits, t, memory, LOG, NATIVE)
    for j in tl.static_range(ITEMS):
        ok = own + 32 * j < n - tile * TILE
        to = bases[j] + own + 32 * j
        if to_results:
            key = key_of(items[j], WIDE)
            index = indices[j] if WIDE else items[j] & 0xFFFFFFFF
            tl.store(values_ptr + first + to, restored(key, x_ptr, index, ok, DESCENDING), mask=ok)
            tl.store(indices_ptr + first + to, index, mask=ok)
        else:
            tl.store(keys_ptr + written + to, items[j], mask=ok)
            if WIDE:
                tl.store(places_ptr + written + to, indices[j].to(tl.int32), mask=ok)


def plan_long_rows(
    plan: Plan, x: Code, like: Tensor, shape: tuple[int, int], descending: bool, values: Code, indices: Code
) -> None:  # fmt: skip
    """Add the launches that sort x of this shape, dense, of the dtype and device of `like`, into values and int64 indices."""
    n_rows, n = shape
    if not has_tiles():
        raise Declined(f"rows of {n} are sorted on NVIDIA's GPUs only")
    passes, where = like.dtype.itemsize, like.device
    items = _ITEMS_WIDE if passes == 8 else _ITEMS
    tile = items * THREADS.value
    tiles = triton.cdiv(n, tile)
    n_zeroed = _TURNS.value + n_rows * (passes + tiles) * THREADS.value
    n_state = n_zeroed + n_rows * (tiles * THREADS.value + passes)
    if n >= MOST or n_state >= INT32_EXTENT:
        raise Declined(f"{n_rows} rows of {n}: they and what their tiles say are counted in 30 and 31 bits")
    state = plan.empty("state", (n_state,), torch.int32, where)
    fill_dense(plan, state, n_zeroed, torch.int32, 0)
    programs = max(1, min(_PROGRAMS_PER_SM * max(sm_count(), 1) // n_rows, triton.cdiv(n, THREADS.value * TALLIED.value)))
    scratch = scratch_of(plan, n_rows * tiles, tile, where)
    plan.launch(_count_kernel, (n_rows * programs,), x, state, n_rows, n, programs, passes, descending, scratch is None, num_warps=WARPS)
    plan.launch(_starts_kernel, (n_rows,), state, n, tiles, passes, num_warps=4)
    keys = plan.empty("keys", (2, n_rows, n), torch.int64, where)
    numbers = plan.empty("numbers", (2, n_rows, n), torch.int32, where) if passes == 8 else None
    for step in range(passes):
        plan.launch(
            _sweep_kernel, (n_rows * tiles,), x, keys, numbers, values, indices, state, scratch, n_rows, n, tiles, step,
            passes, descending, items.bit_length() - 1, num_warps=WARPS,
        )  # fmt: skip
