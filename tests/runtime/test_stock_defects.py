"""What stock Triton gets wrong, one test each: that it does, so that the test goes when the defect does, and that ours is right."""

from __future__ import annotations

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from launch_tiers import Tier, names

from gems_runtime.compat import release
from gems_runtime.errors import GridTooLarge
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)
LARGE = (65535, 65535)


@triton.jit
def half(x_ptr, value: tl.float16):
    pass


def forget() -> None:
    """Stock Triton has met no call yet."""
    for kernel in (zoo.plain, half):
        kernel.device_caches.clear()


@pytest.fixture(params=["N", "P", "R"])
def tier(request: pytest.FixtureRequest, fake_cuda: FakeCuda) -> str:
    assert request.param in names()
    forget()
    return request.param


@pytest.mark.parametrize("values", [(1, 1.0, True), (0, 0.0, -0.0, False), ((1, 2), (1.0, 2), (True, 2))], ids=str)
def test_equal_constants_of_different_types_are_different_kernels(tier: str, values: tuple) -> None:
    wrong = [zoo.plain[(1,)](X, X, 17, 32, BLOCK=value).src.constants[(4,)] for value in values]
    assert list(map(repr, wrong)) == [repr(values[0])] * len(values)
    forget()
    ours = Tier(tier, zoo.plain)
    with ours.alone():
        for _ in range(3):
            right = [ours.entry[(1,)](X, X, 17, 32, BLOCK=value).src.constants[(4,)] for value in values]
            assert list(map(repr, right)) == list(map(repr, values))
    # The first round misses, and so may the second, where the launch function has been widened.
    assert ours.entry.stats()[tier] >= len(values)


def test_a_grid_of_more_programs_than_an_int32_counts_is_not_dropped(tier: str, fake_cuda: FakeCuda) -> None:
    before = fake_cuda.launch_count
    zoo.plain[LARGE](X, X, 17, 32, BLOCK=64)
    assert fake_cuda.launch_count == before
    ours = Tier(tier, zoo.plain)
    with ours.alone():
        for grid in (LARGE, lambda meta: LARGE, list(LARGE)):
            for _ in range(2):  # the first is a miss
                if tier == "N":
                    ours.entry[grid](X, X, 17, 32, BLOCK=64)
                    assert fake_cuda.last().grid == (65535, 65535, 1)
                else:
                    with pytest.raises(GridTooLarge, match="in parts"):
                        ours.entry[grid](X, X, 17, 32, BLOCK=64)
        before = fake_cuda.launch_count
        ours.entry[(1 << 16, (1 << 15) - 1)](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.launch_count == before + 1


def test_a_large_grid_that_stock_triton_would_have_dropped_on_purpose_is_refused(fake_cuda: FakeCuda) -> None:
    """With a launch hook, every call is stock Triton's."""
    forget()
    ours, before = Tier("N", zoo.plain), fake_cuda.launch_count
    hook = triton.knobs.runtime.launch_enter_hook
    hook.add(print)
    try:
        with ours.alone(), pytest.raises(GridTooLarge):
            ours.entry[LARGE](X, X, 17, 32, BLOCK=64)
    finally:
        hook.remove(print)
    assert fake_cuda.launch_count == before


def test_a_grid_with_two_numbers_below_zero_launches_nothing(tier: str, fake_cuda: FakeCuda) -> None:
    """Their product is above zero, and stock Triton asks the driver for four billion programs each way."""
    forget()
    zoo.plain[(-1, -1)](X, X, 17, 32, BLOCK=64)
    assert fake_cuda.last().grid == (2**32 - 1, 2**32 - 1, 1)
    ours = Tier(tier, zoo.plain)
    with ours.alone():
        before = fake_cuda.launch_count
        for grid in ((-1, -1), (-1, -1, 1), [2, -3, -5], (-1, 2), (-7,)) * 2:
            ours.entry[grid](X, X, 17, 32, BLOCK=64)
            ours.entry[lambda meta: grid](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.launch_count == before


def test_a_half_out_of_range_launches_nothing(tier: str, fake_cuda: FakeCuda) -> None:
    """Stock Triton 3.6 launches with whatever was in memory, then raises; later ones raise first."""
    before = fake_cuda.launch_count
    with pytest.raises(OverflowError) as expected:
        half[(1,)](X, 1e300)
    by_stock = fake_cuda.launch_count - before
    assert by_stock == (release(triton.__version__) == (3, 6))
    ours = Tier(tier, half)
    with ours.alone():
        for _ in range(2):
            ours.entry[(1,)](X, 2.0)
        with pytest.raises(OverflowError) as found:
            ours.entry[(1,)](X, 1e300)
    assert str(found.value) == str(expected.value)
    # The other tiers end in stock Triton's launcher.
    assert fake_cuda.launch_count == before + by_stock + 2 + (by_stock if tier != "N" else 0)
