"""Sums and products along long rows in one pass: each part of a row waits for the totals of those before it.

Parts are taken in turn, from a counter, so whoever is waited for has begun and never waits for a later one. Parts make
groups. A part needs the totals of those before it in its group, and what all groups before come to; both are read at
once, by as many threads, and combined in a fixed order: the same bits on every run, whoever is late.
"""

import triton
import triton.language as tl

from gems_ops.reduce import folds
from gems_ops.scan.steps import combine, element, scanned
from gems_runtime import LibEntry

# What is waited for is one word: a float32 and, above it, a bit that says that it is there.
_THERE = tl.constexpr(1 << 32)


@triton.jit
def _publish(ptr, value):
    tl.atomic_xchg(ptr, (value.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF) | _THERE, sem="relaxed")


@LibEntry
@triton.jit
def _look_back_kernel(
    x_ptr, words_ptr, out_ptr, n_rows, n, inner, x_outer, x_inner, x_stride, out_outer, out_inner, out_stride, parts, of_a_row,
    CAST: tl.constexpr, ACC: tl.constexpr, HOW: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Grid: rows * parts. Zeroed words: the counter, then of each row the totals of parts and of all up to each group's end.

    GROUP is the number of threads: each word is read by one, so there is no second copy that saw less.
    """
    index: tl.constexpr = tl.int64 if WIDE else tl.int32
    turn = tl.atomic_add(words_ptr, 1, sem="relaxed")
    row, part = turn % n_rows, (turn // n_rows).to(index)
    i = part * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    ok = i < n
    x = tl.load(x_ptr + row // inner * x_outer + row % inner * x_inner + i * x_stride, mask=ok, other=0).to(CAST)
    x, y = element(x, ok, i, ACC, HOW)
    if HOW == "add":
        # Thousands of totals add up to the error of the last elements, so each is as near as its type allows. Four elements
        # become one first: converting each to float64 took 5 us of 46 (10000000 float32, H100, 2026-11-27).
        own = tl.sum(tl.sum(x.reshape(BLOCK_N // 4, 4), 1).to(tl.float64)).to(ACC)
    x, y = scanned(x, y, HOW)
    if HOW != "add":
        own = tl.sum(tl.where(tl.arange(0, BLOCK_N)[None, :] == BLOCK_N - 1, x, 0))
    words_ptr += 1 + row * of_a_row
    _publish(words_ptr + part, own)
    group, member, lane = part // GROUP, part % GROUP, tl.arange(0, GROUP)
    # no part has GROUP - 1 others before it that are not its group's last: that lane reads of the groups before
    is_groups = lane == GROUP - 1
    ptr = words_ptr + tl.where(is_groups, parts + group - 1, group * GROUP + lane)
    needed = (lane < member) | (is_groups & (group > 0))
    found = tl.load(ptr, mask=needed, other=_THERE, volatile=True)
    while tl.min(found) < _THERE:
        found = tl.load(ptr, mask=needed, other=_THERE, volatile=True)
    found = tl.where(needed, found.to(tl.int32).to(ACC, bitcast=True), folds.identity(ACC, HOW)).to(tl.float64)
    before = (tl.sum(found) if HOW == "add" else tl.reduce(found, 0, folds.times)).to(ACC)
    if member == GROUP - 1:
        last, y = combine(before, y, own, y, HOW)
        _publish(words_ptr + parts + group, last)
    x, y = combine(before, y, x, y, HOW)
    tl.store(out_ptr + row // inner * out_outer + row % inner * out_inner + i * out_stride, x, mask=ok)
