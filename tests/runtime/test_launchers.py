"""How Triton's launcher is called: seen from the launcher itself, on every Triton; an unknown one is left to `CompiledKernel.run`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from triton.backends.nvidia import driver as nvidia

from gems_runtime import LibEntry, compat, native_status, settings
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)


def test_an_unknown_launcher_takes_tier_r_and_is_said_once(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Unseen(triton.runtime.driver.active.launcher_cls):
        something_new = 0

        def __call__(self, *args: object) -> None:
            super().__call__(*args[: len(args) + self.something_new])

    monkeypatch.setattr(triton.runtime.driver.active, "launcher_cls", Unseen)
    # Kernels keep the launcher that they were loaded with.
    zoo.plain.device_caches.clear()
    try:
        for _ in range(2):
            zoo.assert_launches_as_stock(fake_cuda, LibEntry(zoo.plain), (2, 3), (X, X[1:], 17, 32), {"BLOCK": 64}, tier="R")
    finally:
        zoo.plain.device_caches.clear()
    assert len([r for r in caplog.records if "in a way not known here" in r.getMessage()]) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda self, *args: self.launch(*args, "more"),
        lambda self, *args: self.launch(*args[:-2]),
        lambda self, *args: None,
        lambda self, g0, g1, g2, stream, function, *args, new: None,
        lambda self, *args: self.launch(*args, self.unseen),
    ],
)
def test_a_launcher_that_passes_something_else_is_not_taken_for_a_known_one(call: Callable[..., None]) -> None:
    assert compat._form_of(call) is None


def test_a_triton_newer_than_any_tried_is_not_taken_for_a_known_one(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    call = triton.runtime.driver.active.launcher_cls.__call__
    assert compat._form_of.__wrapped__(call) is not None
    monkeypatch.setattr(triton, "__version__", "3.10.0")
    assert compat._form_of.__wrapped__(call) is None


@triton.jit
def _sum_kernel(x_ptr, a, b: tl.int16, c: tl.int8, d: tl.uint16, e: tl.uint8):
    tl.store(x_ptr, a + b + c + d + e)


def test_a_new_launcher_is_built_once_while_its_kernel_is_compiled(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    builders, stock = [], triton.runtime.build._build

    def build(*args: object) -> str:
        builders.append(threading.current_thread().name)
        return stock(*args)

    monkeypatch.setattr(triton.runtime.build, "_build", build)
    LibEntry(_sum_kernel)[(1,)](X, 2, 3, 4, 5, 6)
    # some Tritons need none for a signature
    assert builders in ([], ["gems launcher"])


@triton.jit
def _triple_kernel(x_ptr, a, b: tl.int16, c: tl.int8, d: tl.uint16, e: tl.uint8, f: tl.uint8):
    tl.store(x_ptr, a + b + c + d + e + f)


@triton.jit
def _pair_kernel(x_ptr, a, b, c, y_ptr, d, e, f):
    tl.store(x_ptr, tl.load(y_ptr) + a + b + c + d + e + f)


def test_a_first_call_does_not_wait_for_the_launcher_where_the_native_tier_launches(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native_status().serves or not hasattr(nvidia, "compile_module_from_src"):
        pytest.skip("launches are not native here, or no signature has a launcher of its own")
    may_build, stock = threading.Event(), triton.runtime.build._build

    def build(*args: object) -> str:
        assert may_build.wait(60)
        return stock(*args)

    monkeypatch.setattr(triton.runtime.build, "_build", build)
    entry, args = LibEntry(_pair_kernel), (X, 2, 3.0, 4, X[4:], 5.0, 6, 7.0)
    kernel = entry[(3, 1, 1)](*args)
    natively, made = fake_cuda.last(), fake_cuda.launch_count
    assert entry.stats() == {"entries": 1, "N": 0, "P": 0, "R": 0, "S": 0, "miss": 1}
    may_build.set()
    assert _pair_kernel[(3, 1, 1)](*args) is kernel  # waits
    assert fake_cuda.last() == natively and fake_cuda.launch_count == made + 1


def test_a_launcher_that_is_not_built_yet_is_waited_for_where_no_other_path_launches(fake_cuda: FakeCuda) -> None:
    with settings.override(native=settings.Native.OFF):
        made = fake_cuda.launch_count
        entry = LibEntry(_triple_kernel)
        entry[(1,)](X, 2, 3, 4, 5, 6, 7)
        assert fake_cuda.launch_count == made + 1
        entry[(1,)](X, 2, 3, 4, 5, 6, 7)
        assert entry.stats()["P"] == 1
