"""Tensors of one value: full, zeros, ones and their _like forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.create.numbers import block_of, filler, number
from gems_ops.create.targets import LIKE_OPTIONS, OPTIONS, alike, sized
from gems_ops.op import ALL, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, stream
from gems_runtime import LibEntry
from gems_runtime.device import torch_device

Number = bool | int | float


@LibEntry
@triton.jit(do_not_specialize=["value"])
def _fill_kernel(out_ptr, value, n, FLOATING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = number(value, FLOATING)
    if FLOATING and out_ptr.dtype.element_ty != tl.float64:
        x = x.to(tl.float32)
    tl.store(out_ptr + i, tl.full((BLOCK,), 0, out_ptr.dtype.element_ty) + x.to(out_ptr.dtype.element_ty), mask=i < n)


def fill_dense(plan: Plan, out: Code, n: int, dtype: torch.dtype, value: Code | int) -> None:
    """Add a launch that sets the n elements of a dense tensor; `value` is a number as `filler` gives it."""
    block = block_of(n)
    plan.launch(_fill_kernel, (triton.cdiv(n, block),), out, value, n, dtype.is_floating_point, block)


def _filled(plan: Plan, like: Tensor, where: torch.device | None, value: Number | None = None) -> Planned:
    """The plan of a new tensor like `like` (of the meta device), of one value; None: the number `fill_value`."""
    if like.dtype not in ALL:
        raise Declined(f"dtype {like.dtype}")
    if value is None:
        plan.do("number = {convert}(fill_value)", convert=filler(like.dtype))
    out = plan.empty("out", like.shape, like.dtype, where or torch_device(), like.stride())
    fill_dense(plan, out, like.numel(), like.dtype, Code("number") if value is None else filler(like.dtype)(value))
    return plan.build(out)


def _sizes(dtype: torch.dtype) -> Iterator[Sample]:
    for size in ((3, 5), (), (1,), (2, 1, 700)):
        yield Sample((size,), {"dtype": dtype})
    yield Sample(((4, 4),))


def _size_bench(*extra: Number) -> tuple[Workload, ...]:
    def workload(*shape: int) -> Workload:
        def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
            return (shape, *extra), {"dtype": dtype, "device": where}

        return Workload("x".join(map(str, shape)), make)

    return workload(8192, 8192), workload(32, 32)


@planned("aten::zeros", dtypes=ALL, samples=_sizes, bench=_size_bench())
def zeros(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Planned:
    """A tensor of zeros."""
    plan = Plan("_size", *OPTIONS)
    return _filled(plan, sized(plan, size, dtype, layout, pin_memory), device, 0)


@planned("aten::ones", dtypes=ALL, samples=_sizes, bench=_size_bench())
def ones(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Planned:
    """A tensor of ones."""
    plan = Plan("_size", *OPTIONS)
    return _filled(plan, sized(plan, size, dtype, layout, pin_memory), device, 1)


def _fills(dtype: torch.dtype) -> Iterator[Sample]:
    for value in _fill_values(dtype):
        yield Sample(((3, 5), value), {"dtype": dtype})
    yield Sample(((), 1), {"dtype": dtype})
    yield Sample(((2, 1, 7), 1.5 if dtype.is_floating_point else 1))


def _fill_values(dtype: torch.dtype) -> tuple[Number, ...]:
    if dtype == torch.bool:
        return (True, False)
    return (3, 0, 2.7, float("nan"), float("inf"), -0.0) if dtype.is_floating_point else (3, 0, 100)


@planned("aten::full", dtypes=ALL, samples=_fills, bench=_size_bench(1.5))
def full(
    size: list[int],
    fill_value: Number,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Planned:
    """A tensor of one value, whose type it has if `dtype` is None."""
    if not isinstance(fill_value, (bool, int, float)):
        raise Declined("a complex value")
    plan = Plan("_size", "fill_value", *OPTIONS)
    if dtype is None and not isinstance(fill_value, float):
        dtype = torch.bool if isinstance(fill_value, bool) else torch.int64
    return _filled(plan, sized(plan, size, dtype, layout, pin_memory), device)


def _likes(*extra: Number) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in ((), (1,), (3, 5), (2, 3, 4, 5)):
            yield Sample((values(shape, dtype), *extra))
        for x in layouts((6, 10), dtype):
            yield Sample((x, *extra))
        x = values((2, 3, 4, 5), dtype)
        yield Sample((x.to(memory_format=torch.channels_last), *extra))
        yield Sample((x.to(memory_format=torch.channels_last), *extra), {"memory_format": torch.contiguous_format})
        yield Sample((x, *extra), {"dtype": torch.float32, "memory_format": torch.channels_last})

    return make


def _like_bench(*extra: Number) -> tuple[Workload, ...]:
    return stream(1, (8192, 8192), *extra)


@planned("aten::zeros_like", dtypes=ALL, samples=_likes(), bench=_like_bench())
def zeros_like(
    self: Tensor,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """Zeros in the shape and layout of self."""
    like = alike(self, dtype, layout, pin_memory, memory_format)
    return _filled(Plan("_self", *LIKE_OPTIONS), like, device or self.device, 0)


@planned("aten::ones_like", dtypes=ALL, samples=_likes(), bench=_like_bench())
def ones_like(
    self: Tensor,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """Ones in the shape and layout of self."""
    like = alike(self, dtype, layout, pin_memory, memory_format)
    return _filled(Plan("_self", *LIKE_OPTIONS), like, device or self.device, 1)


@planned("aten::full_like", dtypes=ALL, samples=_likes(1), bench=_like_bench(1.5))
def full_like(
    self: Tensor,
    fill_value: Number,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """One value in the shape and layout of self."""
    if not isinstance(fill_value, (bool, int, float)):
        raise Declined("a complex value")
    like = alike(self, dtype, layout, pin_memory, memory_format)
    return _filled(Plan("_self", "fill_value", *LIKE_OPTIONS), like, device or self.device)
