"""A tile of a stable radix sort: eight bits of each item at a time, in shared memory.

A program has 256 threads, each of them items of 64 bits in a tuple of tensors [256]. The tile's order: a warp's items
follow each other, 32 at a time. NATIVE: in PTX (see ptx.py); else, on the interpreter, through global memory,
`scratch_ptr`, of int64 [tile]. ITEMS is a power of two, and LOG its exponent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import triton
import triton.language as tl

from gems_ops.order import ptx

THREADS = tl.constexpr(ptx.THREADS)
_THERE, _LAST = tl.constexpr(ptx.THERE), tl.constexpr(ptx.LAST - (1 << 32))  # as int32
MOST_ITEMS = 16
_ITEMS = [1 << log for log in range(MOST_ITEMS.bit_length())]
TALLIED = tl.constexpr(4)  # items of a thread that are counted at once
_DIGITS = range(9)  # by how many there are


def _texts(make: Callable[[int], tuple[str, str]], sizes: Iterable[int]) -> Iterator[tl.constexpr]:
    """The texts by size, and the constraints of their operands. Triton takes a constant apart once, not twice."""
    return (tl.constexpr(each) for each in zip(*map(make, sizes), strict=True))


def _types(dtype: tl.dtype, counts: Iterable[int]) -> tl.constexpr:
    """The types of so many results, by size. Named in a kernel, Triton 3.8 makes constants of them, which it cannot read."""
    return tl.constexpr(tuple((dtype,) * n for n in counts))


_RANKED, _RANKED_KINDS = _texts(ptx.ranked, _ITEMS)
_RANKED_TYPES = _types(tl.int32, (n + 2 for n in _ITEMS))
_EXCHANGED, _EXCHANGED_KINDS = _texts(ptx.exchanged, _ITEMS)
_EXCHANGED_TYPES = _types(tl.int64, _ITEMS)
_LOOKED_UP, _LOOKED_UP_KINDS = _texts(ptx.looked_up, _ITEMS)
_LOOKED_UP_TYPES = _types(tl.int32, _ITEMS)
_TALLIED, _TALLIED_KINDS = _texts(lambda digits: ptx.tallied(digits, TALLIED.value), _DIGITS)
_TALLIES, _TALLIES_KINDS = _texts(ptx.tallies, _DIGITS)
_TALLIES_TYPES = _types(tl.int32, _DIGITS)
_CLEARED = tl.constexpr(tuple(map(ptx.cleared, _DIGITS)))
_MEMORY, _TALLY_MEMORY = (tl.constexpr(tuple(map(f, sizes))) for f, sizes in ((ptx.memory_of, _ITEMS), (ptx.memory_of_tallies, _DIGITS)))
_COUNTED_BEFORE = tl.constexpr(ptx.counted_before())


@triton.jit
def memory_of(t, LOG: tl.constexpr, NATIVE: tl.constexpr):
    """The address [256] of the tile's shared memory."""
    if NATIVE:
        return tl.inline_asm_elementwise(_MEMORY[LOG], "=r,r", [t], dtype=tl.int32, is_pure=True, pack=1)
    else:
        return t


@triton.jit
def places(t, ITEMS: tl.constexpr):
    """Where the first item of each thread stands in the tile; the next stand 32 further each."""
    return t // 32 * (32 * ITEMS) + t % 32


@triton.jit
def digits_of(items, shift, ITEMS: tl.constexpr):
    """Eight bits of each item, from bit `shift` on, as int32."""
    digits = ()
    for j in tl.static_range(ITEMS):
        digits = digits + (((items[j] >> shift) & 255).to(tl.int32),)
    return digits


@triton.jit
def _by_counting(digits, t, scratch_ptr, ITEMS: tl.constexpr):
    own = places(t, ITEMS)
    for j in tl.static_range(ITEMS):
        tl.store(scratch_ptr + own + 32 * j, digits[j].to(tl.int64))
    i = tl.arange(0, THREADS * ITEMS)
    equal = (tl.load(scratch_ptr + i)[:, None] == tl.arange(0, THREADS)[None, :]).to(tl.int32)
    count = tl.sum(equal, 0)
    start = tl.cumsum(count, 0) - count
    place = tl.sum(equal * (start[None, :] + tl.cumsum(equal, 0) - 1), 1)
    tl.store(scratch_ptr + i, place.to(tl.int64))
    found = ()
    for j in tl.static_range(ITEMS):
        found = found + (tl.load(scratch_ptr + own + 32 * j).to(tl.int32),)
    return found, count, start


@triton.jit
def ranked(digits, t, memory, scratch_ptr, LOG: tl.constexpr, NATIVE: tl.constexpr):
    """(the digits' places in the sorted tile, how many there are of digit t [256], where those begin [256])."""
    ITEMS: tl.constexpr = 1 << LOG
    if NATIVE:
        found = tl.inline_asm_elementwise(_RANKED[LOG], _RANKED_KINDS[LOG], digits + (t, memory), dtype=_RANKED_TYPES[LOG], is_pure=False, pack=1)
        return found[:ITEMS], found[ITEMS], found[ITEMS + 1]
    else:
        return _by_counting(digits, t, scratch_ptr, ITEMS)


@triton.jit
def exchanged(values, at, t, memory, scratch_ptr, LOG: tl.constexpr, NATIVE: tl.constexpr):
    """The values, int64, when each has gone to its place `at` in the tile."""
    ITEMS: tl.constexpr = 1 << LOG
    if NATIVE:
        return tl.inline_asm_elementwise(
            _EXCHANGED[LOG], _EXCHANGED_KINDS[LOG], values + at + (t, memory), dtype=_EXCHANGED_TYPES[LOG], is_pure=False, pack=1
        )
    else:
        for j in tl.static_range(ITEMS):
            tl.store(scratch_ptr + at[j], values[j])
        found = ()
        for j in tl.static_range(ITEMS):
            found = found + (tl.load(scratch_ptr + places(t, ITEMS) + 32 * j),)
        return found


@triton.jit
def looked_up(table, digits, t, memory, LOG: tl.constexpr, NATIVE: tl.constexpr):
    """table[digit], int32, for each digit; table is [256]."""
    ITEMS: tl.constexpr = 1 << LOG
    if NATIVE:
        return tl.inline_asm_elementwise(
            _LOOKED_UP[LOG], _LOOKED_UP_KINDS[LOG], digits + (table, t, memory), dtype=_LOOKED_UP_TYPES[LOG], is_pure=False, pack=1
        )
    else:
        found = ()
        for j in tl.static_range(ITEMS):
            found = found + (tl.gather(table, digits[j], 0),)
        return found


@triton.jit
def counted_before(words_ptr, own, tile, t, NATIVE: tl.constexpr):
    """How often digit t stands in the tiles before, when they have said so; `own`, the tile's, is said to those after it.

    Words [tiles, 256] are int32 and zero at first. Whoever takes a tile must know that all before it were taken.
    """
    tl.atomic_xchg(words_ptr + tile * THREADS + t, own | _THERE, sem="relaxed")
    if NATIVE:
        before = tl.inline_asm_elementwise(
            _COUNTED_BEFORE, "=&r,l,r", [words_ptr + (tile - 1) * THREADS + t, tile], dtype=tl.int32, is_pure=False, pack=1
        )
    else:  # programs follow each other, so the tile before has summed up
        before = tl.load(words_ptr + (tile - 1) * THREADS + t, mask=(t >= 0) & (tile > 0), other=0) & (_THERE - 1)
    tl.atomic_xchg(words_ptr + tile * THREADS + t, (before + own) | _LAST, sem="relaxed")
    return before


@triton.jit
def cleared_tallies(t, DIGITS: tl.constexpr):
    """The address of counters for each value of so many digits."""
    memory = tl.inline_asm_elementwise(_TALLY_MEMORY[DIGITS], "=r,r", [t], dtype=tl.int32, is_pure=True, pack=1)
    tl.inline_asm_elementwise(_CLEARED[DIGITS], "=r,r,r", [t, memory], dtype=tl.int32, is_pure=False, pack=1)
    return memory


@triton.jit
def tally(keys, there, memory, DIGITS: tl.constexpr):
    """Count the digits of TALLIED keys, int64, each where `there` is not 0."""
    tl.inline_asm_elementwise(_TALLIED[DIGITS], _TALLIED_KINDS[DIGITS], keys + there + (memory,), dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def tallies(t, memory, DIGITS: tl.constexpr):
    """For each digit, how many were t."""
    return tl.inline_asm_elementwise(_TALLIES[DIGITS], _TALLIES_KINDS[DIGITS], [t, memory], dtype=_TALLIES_TYPES[DIGITS], is_pure=False, pack=1)
