"""Kernels for tests of launches. Their bodies are empty: only what reaches the driver matters, and they compile fast."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from gems_runtime import LibEntry, native_status
from tools.fake_cuda import FakeCuda, Launch


@triton.jit
def plain(x_ptr, y_ptr, n, m, BLOCK: tl.constexpr):
    pass


@triton.jit
def optional(x_ptr, bias, scale=2.5, MODE: tl.constexpr = "a", WIDE: tl.constexpr = None):
    pass


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["m"])
def annotated(x_ptr, n, m, wide: tl.int64, half: tl.float16, double: tl.float64):
    pass


def fast_tier() -> str:
    """The tier that serves plain calls: N where the native module serves, else P, which calls Triton's C launcher."""
    return "N" if native_status().serves else "P"


def first_config(kernel_call, quantiles):  # noqa: ANN001, ANN201 - Triton's benchmark protocol
    """A benchmark that runs nothing and prefers the config that was tried first."""
    first_config.calls += 1
    return [float(first_config.calls)] * 3


first_config.calls = 0


def configs() -> list[triton.Config]:
    return [triton.Config({"BLOCK": 64}, num_warps=2), triton.Config({"BLOCK": 128}, num_warps=8)]


@triton.autotune(configs=configs(), key=["n"], do_bench=first_config)
@triton.heuristics({"EVEN": lambda args: args["m"] % args["BLOCK"] == 0})
@triton.jit
def tuned(x_ptr, y_ptr, n, m, stride, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    pass


def launched(fake: FakeCuda, kernel: object, grid: object, args: tuple, kwargs: dict) -> tuple[object, Launch]:
    """Call a kernel; what it returned and what reached the driver."""
    before = fake.launch_count
    result = kernel[grid](*args, **kwargs)
    assert fake.launch_count == before + 1
    return result, fake.last()


def assert_launches_as_stock(fake: FakeCuda, entry: LibEntry, grid: object, args: tuple, kwargs: dict, tier: str = "") -> None:
    """Stock Triton and the entry, called alike, put the same launch to the driver, and the named tier served it."""
    jit = entry._chain.jit
    # Stock Triton takes a constexpr 1, 1.0 and True for the same kernel; here it must be right.
    jit.device_caches[0][1].clear()
    expected_kernel = entry.fn[grid](*args, **kwargs)
    jit.device_caches[0][1].clear()
    _, expected = launched(fake, entry.fn, grid, args, kwargs)
    launched(fake, entry, grid, args, kwargs)
    before = entry.stats()
    kernel, found = launched(fake, entry, grid, args, kwargs)
    # Stock Triton compiles num_warps=1, num_stages=2 and the reverse order twice, to the same thing with the same hash.
    assert kernel.hash == expected_kernel.hash
    assert found.function == kernel.function
    assert replace(found, function=0) == replace(expected, function=0)
    served_by = tier or fast_tier()
    assert entry.stats()[served_by] == before[served_by] + 1
    if served_by == "N":
        # The path below it must put the same to the driver.
        kernel, found = entry._text.functions.launch(grid, *args, **kwargs), fake.last()
        assert (kernel.hash, replace(found, function=0)) == (expected_kernel.hash, replace(expected, function=0))
        assert entry.stats()["P"] == before["P"] + 1
