"""The texts of gems_ops/order/ptx.py, run instruction by instruction: no GPU is here, and the interpreter knows no PTX."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_machine import Machine

from gems_ops.order import ptx

T = np.arange(ptx.THREADS)
ITEMS = [1, 2, 8, 16]


def places(items: int) -> list[np.ndarray]:
    """Where each thread's items stand in the tile."""
    return [T // 32 * (32 * items) + T % 32 + 32 * j for j in range(items)]


def machine(items: int) -> Machine:
    made = Machine()
    made.run(ptx.memory_of(items), [T], 1)
    return made


def random(n: int, most: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, n)


@pytest.mark.parametrize("most", [256, 3, 1])
@pytest.mark.parametrize("items", ITEMS)
def test_ranked(items: int, most: int) -> None:
    tile = random(ptx.THREADS * items, most, items) * (255 if most == 3 else 1) % 256
    *found, count, start = machine(items).run(ptx.ranked(items)[0], [*(tile[at] for at in places(items)), T, 0], items + 2)
    expected = np.empty(len(tile), np.int64)
    expected[np.argsort(tile, kind="stable")] = np.arange(len(tile))
    for at, place in zip(places(items), found, strict=True):
        assert (place == expected[at]).all()
    assert (count == np.bincount(tile, minlength=256)).all() and (start == np.cumsum(count) - count).all()


def test_ranked_twice_in_the_same_memory() -> None:
    """What was left there does not count."""
    each = machine(2)
    for seed in range(3):
        tile = random(512, 256, seed)
        *_, count, _ = each.run(ptx.ranked(2)[0], [*(tile[at] for at in places(2)), T, 0], 4)
        assert (count == np.bincount(tile, minlength=256)).all()


def test_threads_out_of_order_are_trapped() -> None:
    with pytest.raises(AssertionError, match="trap"):
        machine(1).run(ptx.ranked(1)[0], [T, T[::-1], 0], 3)


@pytest.mark.parametrize("items", ITEMS)
def test_exchanged(items: int) -> None:
    n = ptx.THREADS * items
    order = np.random.default_rng(1).permutation(n)
    values = np.arange(n) * 0x100000003 - (1 << 40)
    operands = [*(values[at] for at in places(items)), *(order[at] for at in places(items)), T, 0]
    found = machine(items).run(ptx.exchanged(items)[0], operands, items)
    for at, value in zip(places(items), found, strict=True):
        assert (value == values[np.argsort(order)][at]).all()


@pytest.mark.parametrize("items", ITEMS)
def test_looked_up(items: int) -> None:
    table, digits = random(256, 1 << 31), [random(256, 256, j) for j in range(items)]
    found = machine(items).run(ptx.looked_up(items)[0], [*digits, table, T, 0], items)
    assert all((value == table[digit]).all() for value, digit in zip(found, digits, strict=True))


@pytest.mark.parametrize("digits", [1, 2, 4, 8])
def test_tallies(digits: int) -> None:
    items, each = 4, Machine()
    each.run(ptx.memory_of_tallies(digits), [T], 1)
    each.memory[:] = 99
    each.run(ptx.cleared(digits), [T, 0], 1)
    expected = np.zeros((digits, 256), np.int64)
    for seed in range(2):
        keys = [random(256, 1 << 62, 10 * seed + j) * 2 + j % 2 for j in range(items)]
        there = [random(256, 2, 50 + j) for j in range(items)]
        each.run(ptx.tallied(digits, items)[0], [*keys, *there, 0], 1)
        for key, ok in zip(keys, there, strict=True):
            for p in range(digits):
                expected[p] += np.bincount((key[ok > 0] >> (8 * p)) & 255, minlength=256)
    assert (np.array(each.run(ptx.tallies(digits)[0], [T, 0], digits)) == expected).all()


@pytest.mark.parametrize("summed_up", [0, 1, 3, 4, 9])  # how far before is the tile that has summed up all before it
def test_counted_before(summed_up: int) -> None:
    """Words that are not there yet are read again, and nothing behind a sum is added."""
    tile, digit, base = 11, 37, 1 << 40
    counts = random(tile, 1 << 20) + ptx.THERE // tile - (1 << 20)  # their sum is nearly the greatest
    last = tile - 1 - summed_up
    words = np.where(np.arange(tile) < last, 7, counts | ptx.THERE)
    words[last] = int(counts[: last + 1].sum()) | ptx.LAST
    late = {tile - 1: 2, tile - 3: 1}

    def read(address: int) -> int:
        at, rest = divmod(address - base - 4 * digit, 4 * ptx.THREADS)
        assert rest == 0 and 0 <= at < tile
        late[at] = late.get(at, 0) - 1
        return 0 if late[at] >= 0 else int(words[at])

    (found,) = Machine(1, read).run(ptx.counted_before(), [np.array([base + 4 * (ptx.THREADS * (tile - 1) + digit)]), np.array([tile])], 1)
    assert found[0] == counts.sum()


def test_no_tile_is_before_the_first() -> None:
    (found,) = Machine(1, lambda _: pytest.fail("read")).run(ptx.counted_before(), [np.array([0]), np.array([0])], 1)
    assert found[0] == 0
