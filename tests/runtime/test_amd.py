"""Launches for AMD's GPUs, where they differ from NVIDIA's: what chooses the kernel, and what the driver is asked."""

from __future__ import annotations

from dataclasses import replace

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl

from gems_runtime import LibEntry, native_status, settings
from gems_runtime.errors import GridTooLarge
from tools.fake_cuda import Launch
from tools.fake_hip import FakeHip

X = torch.zeros(256)
# 2 GiB of which no page is ever touched.
LARGE = torch.empty(2**31, dtype=torch.int8)


@triton.jit
def copy(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, at < n), at < n)


@pytest.fixture(params=["N", "P"])
def tier(fake_hip: FakeHip, request: pytest.FixtureRequest) -> str:
    """Every test once on each fast tier."""
    with settings.override(native=settings.Native.ON if request.param == "N" else settings.Native.OFF):
        assert native_status().serves is (request.param == "N")
        yield request.param


def launched(fake: FakeHip, kernel: object, grid: object, *args: object, **kwargs: object) -> tuple[str, Launch]:
    """The hash of the kernel that a call launches, and what reaches the driver."""
    found = kernel[grid](*args, **kwargs)
    return found.hash, replace(fake.last(), function=0)


def test_whether_memory_is_below_2_gib_chooses_the_kernel(fake_hip: FakeHip, tier: str) -> None:
    entry, hashes = LibEntry(copy), set()
    small = torch.zeros(64, dtype=torch.int8)
    # A view is as large as what it lies in.
    tensors = [small, LARGE[:64], LARGE[64:128], torch.zeros(64, dtype=torch.int8)]
    for _ in range(3):
        for x in tensors:
            for out in tensors:
                before = entry.stats()["miss"]
                found = launched(fake_hip, entry, (1,), x, out, 64, BLOCK=64)
                assert found == launched(fake_hip, copy, (1,), x, out, 64, BLOCK=64)
                hashes.add(found[0])
    assert len(hashes) == 4 and entry.stats()["miss"] == before
    assert entry.stats()[tier] >= 16


def test_a_knob_that_chooses_the_kernel_is_noticed(fake_hip: FakeHip, tier: str) -> None:
    entry, small = LibEntry(copy), torch.zeros(64, dtype=torch.int8)
    for _ in range(3):
        bounded = entry[(1,)](small, small, 64, BLOCK=64)
    with triton.knobs.amd.scope():
        triton.knobs.amd.use_buffer_ops = False
        for _ in range(2):
            other = entry[(1,)](small, small, 64, BLOCK=64)
            assert other.hash == copy[(1,)](small, small, 64, BLOCK=64).hash != bounded.hash
    assert entry[(1,)](small, small, 64, BLOCK=64).hash == bounded.hash


def refusal(kernel: object, grid: object) -> str:
    """What HIP's refusal of a launch reads as; "" if it is not refused.

    Stock Triton goes on to its exit hooks and ends with a SystemError, whose cause is the error.
    """
    try:
        kernel[grid](X, X, 17, 33, BLOCK=64)
    except SystemError as error:
        assert kernel is zoo.plain
        return str(error.__cause__)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_refused_launch_raises_what_hip_says(fake_hip: FakeHip, tier: str) -> None:
    entry, errors = LibEntry(zoo.plain), []
    for _ in range(3):
        entry[(1,)](X, X, 17, 33, BLOCK=64)
    for kernel in (zoo.plain, entry):
        fake_hip.fail_next(1)
        errors.append(refusal(kernel, (1,)))
    assert errors[0] == errors[1] and "fake driver error" in errors[0]


@pytest.mark.parametrize("grid", [(-1,), (2, -3), (-1, -1, -1), (65535, 65535), (0, 5), (1, 1, 0)])
def test_a_grid_is_launched_left_out_or_refused_as_by_stock_triton(fake_hip: FakeHip, tier: str, grid: tuple[int, ...]) -> None:
    entry, outcomes = LibEntry(zoo.plain), []
    for _ in range(3):
        entry[(1,)](X, X, 17, 33, BLOCK=64)
    for kernel in (zoo.plain, entry):
        before = fake_hip.launch_count
        outcomes.append((refusal(kernel, grid), fake_hip.launch_count - before, fake_hip.last().grid))
    assert outcomes[0] == outcomes[1]
    assert entry.stats()[tier] >= 2


def test_a_grid_that_32_bits_take_for_empty_is_not_dropped(fake_hip: FakeHip, tier: str) -> None:
    entry, before = LibEntry(zoo.plain), fake_hip.launch_count
    zoo.plain[(65536, 65536)](X, X, 17, 33, BLOCK=64)
    assert fake_hip.launch_count == before
    for _ in range(3):
        entry[(1,)](X, X, 17, 33, BLOCK=64)
    if tier == "N":
        entry[(65536, 65536)](X, X, 17, 33, BLOCK=64)
        assert fake_hip.last().grid == (65536, 65536, 1)
    else:
        with pytest.raises(GridTooLarge):
            entry[(65536, 65536)](X, X, 17, 33, BLOCK=64)


def test_a_cooperative_launch_is_made_from_python(fake_hip: FakeHip, tier: str) -> None:
    entry = LibEntry(zoo.plain)
    for _ in range(4):
        found = launched(fake_hip, entry, (2,), X, X, 17, 33, BLOCK=64, launch_cooperative_grid=True)
    assert found == launched(fake_hip, zoo.plain, (2,), X, X, 17, 33, BLOCK=64, launch_cooperative_grid=True)
    assert found[1].attributes and entry.stats()["N"] == 0 and entry.stats()["P"] >= 2


def test_a_stream_and_a_wave_of_64_threads(fake_hip: FakeHip, tier: str) -> None:
    entry = LibEntry(zoo.plain)
    triton.runtime.driver.active.set_current_stream(4711)
    for _ in range(3):
        found = launched(fake_hip, entry, (5, 6), X, X[1:], 17, 33, BLOCK=64, num_warps=2)
    assert found == launched(fake_hip, zoo.plain, (5, 6), X, X[1:], 17, 33, BLOCK=64, num_warps=2)
    assert found[1].stream == 4711 and found[1].block == (128, 1, 1) and entry.stats()[tier] == 2
