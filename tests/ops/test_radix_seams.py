"""Sorting by digits where its parts meet: tiles and sweeps, digits that all have alike, equal orders of other bits; unique of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from test_order_seams import numbers, place
from torch import Tensor

import flag_gems
from gems_ops.order import sorting, sweeps, unique
from gems_ops.order.tile import THREADS
from gems_ops.plan import Code, Plan, call
from gems_ops.register import counts_of

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]


def bits(x: Tensor) -> Tensor:
    """x with what its elements are made of: nans and zeros differ by their bits, too."""
    return x.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize])


def check_sorted(x: Tensor, descending: bool = False) -> None:
    """Sorted by our kernels, bit for bit as the stable sort of ATen on the CPU."""
    values, indices = call(sorting.sort, x, True, -1, descending)
    expected = x.cpu().sort(stable=True, descending=descending)
    assert torch.equal(indices.cpu(), expected.indices) and torch.equal(bits(values.cpu()), bits(expected.values))


def any_bits(*shape: int, dtype: torch.dtype) -> Tensor:
    """Elements over all of the dtype's range: of floating point nans, infinities and the smallest numbers among them."""
    g = torch.Generator().manual_seed(sum(shape))
    if dtype == torch.bool:
        return place(torch.randint(0, 2, shape, generator=g).bool())
    x = torch.randint(-128, 128, (*shape, dtype.itemsize), dtype=torch.int8, generator=g)
    return place(x.view(dtype).reshape(shape))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Tiles as small as they can be, and rows of more than one are swept, or the test fails. The elements of one."""
    planned = []
    for module in (sorting, sweeps, unique):
        monkeypatch.setattr(module, "plan_long_rows", lambda *args, stock=sweeps.plan_long_rows: (planned.append(1), stock(*args)))
    monkeypatch.setattr(sweeps, "_ITEMS", 1)
    monkeypatch.setattr(sweeps, "_ITEMS_WIDE", 1)
    monkeypatch.setattr(sorting, "WHOLE", THREADS.value)
    monkeypatch.setattr(sorting, "IN_REGISTERS", 0)
    yield THREADS.value
    assert planned, "nothing was swept"


@pytest.mark.parametrize("n, descending", [(513, False), (1024, True), (1030, False)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_one_tile(dtype: torch.dtype, n: int, descending: bool) -> None:
    check_sorted(any_bits(2, n, dtype=dtype), descending)


@pytest.mark.parametrize("n, descending", [(257, False), (512, True), (530, True)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_several_tiles(dtype: torch.dtype, n: int, descending: bool, small_tiles: int) -> None:
    assert n > small_tiles
    check_sorted(any_bits(2, n, dtype=dtype), descending)
    check_sorted(numbers(1, n, dtype=dtype, spread=2), descending)  # nearly all are equal: they stay in their order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_nans_and_zeros_keep_their_bits(dtype: torch.dtype, small_tiles: int) -> None:
    x = torch.tensor([0.0, -0.0, float("nan"), 1.0, -float("nan"), float("-inf"), float("inf")], dtype=dtype).repeat(40)
    bits(x)[2] += 5  # another nan
    assert small_tiles < len(x)
    check_sorted(place(x.view(1, -1)))
    check_sorted(place(x[:200].view(1, -1)), descending=True)


@pytest.mark.parametrize("call, result", [(lambda x: x.sort().indices, "indices"), (torch.argsort, "indices"), (torch.msort, "values")])
def test_sorts_that_do_not_ask_for_it_are_stable(call: Callable[[Tensor], Tensor], result: str, small_tiles: int) -> None:
    x = numbers(1 + 2 * small_tiles, dtype=torch.int16, spread=3)
    served = counts_of("aten::sort.stable").served
    with flag_gems.use_gems(include=["sort"]):
        got = call(x)
    assert counts_of("aten::sort.stable").served == served + 1
    assert torch.equal(got.cpu(), getattr(x.cpu().sort(stable=True), result))


def swept(x: Tensor) -> list[list[int]]:
    """For each row the digits that are swept over, of those from the lowest."""
    rows, n = x.shape
    plan = Plan("self")
    values, indices = plan.empty("values", x.shape, x.dtype, x.device), plan.empty("indices", x.shape, torch.int64, x.device)
    sweeps.plan_long_rows(plan, Code("self"), x, (rows, n), False, values, indices)
    values, indices, state = plan.build("values, indices, state")(x)
    expected = x.sort(stable=True)
    assert torch.equal(values, expected.values) and torch.equal(indices, expected.indices)
    passes = x.dtype.itemsize
    words = state[sweeps._TURNS.value + rows * passes * THREADS.value : -rows * passes].view(2, rows, -1)
    assert words[1].any() and not words[0].any(), "each sweep clears what tiles of the next wait for"
    return [row.nonzero().flatten().tolist() for row in state[-rows * passes :].view(rows, -1)]


def test_digits_that_all_have_alike_are_not_swept(small_tiles: int) -> None:
    """The last one is, if no other: results have to be written."""
    row = torch.arange(300) * 7 % 300
    x = place(torch.stack([row % 256, row * 0, row % 200 + (5 << 20), row << 16, row - 150]))
    assert swept(x) == [[0, 7], [7], [0, 7], [2, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert swept(x[:4].int()) == [[0, 3], [3], [0, 3], [2, 3]]


def test_short_rows_of_64_bits_are_left_to_aten() -> None:
    counts = counts_of("aten::sort.stable")
    with flag_gems.use_gems(include=["sort"]):
        for n in (191, 192):
            before = counts.served, counts.declined
            torch.sort(numbers(2, n, dtype=torch.int64), stable=True)
            assert (counts.served - before[0], counts.declined - before[1]) == ((1, 0) if n == 192 else (0, 1))


@pytest.mark.parametrize("n", [65, 128, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_unique_of_more_than_one_program_holds(n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, small_tiles: int) -> None:
    monkeypatch.setattr(unique, "WHOLE", 64)
    monkeypatch.setattr(unique, "_BLOCK", 64)
    x = numbers(n, dtype=dtype, spread=1 if dtype == torch.bool else 9)
    if dtype.is_floating_point:
        x[3] = float("nan")
        x[10:30:2] = -0.0
    for inverse in (False, True):
        for counts in (False, True):
            for function in (torch.unique, torch.unique_consecutive):
                native = function(x, return_inverse=inverse, return_counts=counts)
                name = "aten::_unique2" if function is torch.unique else "aten::unique_consecutive"
                served = counts_of(name).served
                with flag_gems.use_gems(include=[name]):
                    ours = function(x, return_inverse=inverse, return_counts=counts)
                assert counts_of(name).served == served + 1
                native, ours = ((r,) if isinstance(r, Tensor) else r for r in (native, ours))
                for a, b in zip(ours, native, strict=True):
                    assert a.shape == b.shape and a.dtype == b.dtype
                    assert torch.equal(a.nan_to_num(99) if a.is_floating_point() else a, b.nan_to_num(99) if b.is_floating_point() else b)
