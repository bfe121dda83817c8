"""Kernels whose parameters are alike share Triton's look at the arguments; generated ones have keys of all they are made of."""

from __future__ import annotations

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl

from gems_ops.pointwise.codegen import Operand, Variant, kernel
from gems_ops.pointwise.walk import Mode, Pattern
from gems_runtime import LibEntry
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)
FACTOR = tl.constexpr(2)


@triton.jit
def _add_kernel(x_ptr, n, BLOCK: tl.constexpr):
    tl.store(x_ptr, n + BLOCK)


@triton.jit
def _subtract_kernel(x_ptr, n, BLOCK: tl.constexpr):
    tl.store(x_ptr, n - BLOCK)


@triton.jit(do_not_specialize=["n"])
def _plain_kernel(x_ptr, n, BLOCK: tl.constexpr):
    tl.store(x_ptr, n * BLOCK)


@triton.jit
def _wide_kernel(x_ptr, n: tl.int64, BLOCK: tl.constexpr):
    tl.store(x_ptr, n * BLOCK)


def test_kernels_whose_parameters_are_alike_share_a_binder_and_launch_as_stock_triton_does(fake_cuda: FakeCuda) -> None:
    binders = []
    for one in (_add_kernel, _subtract_kernel, _plain_kernel, _wide_kernel):
        zoo.assert_launches_as_stock(fake_cuda, LibEntry(one), (2,), (X, 16), {"BLOCK": 64})
        binders.append(one.device_caches[0][-1])
    assert binders[0] is binders[1] and len(set(binders)) == 3


@triton.jit
def _twice(x):
    return x * FACTOR


@triton.jit
def _halved(x):
    return x / FACTOR


def _generated(scalar: triton.JITFunction, *casts: torch.dtype) -> triton.JITFunction:
    return kernel(scalar, Variant((Operand.TILE,), (casts,), 1, Pattern(Mode.FLAT, 1, ("1", "1")))).fn


def test_generated_kernels_have_the_globals_that_triton_would_find_and_keys_of_their_own() -> None:
    kernels = [_generated(_twice, torch.float32), _generated(_halved, torch.float32), _generated(_twice, torch.float64)]
    keys = [one.cache_key for one in kernels]
    assert len(set(keys)) == 3
    for one in kernels:
        ours, one.hash = one.used_global_vals, None
        assert one.cache_key not in keys  # Triton's own
        assert one.used_global_vals == ours and [name for name, _ in ours] == ["FACTOR"]


def test_the_key_of_a_generated_kernel_follows_what_its_function_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _generated(_twice, torch.float32).cache_key
    monkeypatch.setitem(_twice.fn.__globals__, "FACTOR", tl.constexpr(3))
    monkeypatch.setattr(_twice, "hash", None)
    kernel.cache_clear()
    assert _generated(_twice, torch.float32).cache_key != before
    kernel.cache_clear()
