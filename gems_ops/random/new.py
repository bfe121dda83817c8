"""New tensors of random numbers: rand, randn and their _like forms, which ATen makes of empty and uniform_ or normal_."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.create.targets import LIKE_OPTIONS, OPTIONS, alike, sized
from gems_ops.op import FLOATS, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.random.distributions import plan_draw
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, stream
from gems_runtime.device import torch_device

_STANDARD = {"uniform": (0.0, 1.0, 1.0), "normal": (0.0, 1.0, 0.0)}


def _drawn(plan: Plan, like: Tensor, where: torch.device | None, how: str) -> Planned:
    """The plan of a new tensor like `like` (of the meta device) from the standard distribution."""
    if like.dtype not in FLOATS:
        raise Declined(f"dtype {like.dtype}")
    where = where or torch_device()
    out = plan.empty("out", like.shape, like.dtype, where, like.stride())
    plan.do("generator = None")
    plan_draw(plan, out, like.numel(), where, tuple(Code(x) for x in _STANDARD[how]), how)
    return plan.build(out)


def _sizes(dtype: torch.dtype) -> Iterator[Sample]:
    for size in ((3, 5), (), (1,), (2, 1, 700)):
        yield Sample((size,), {"dtype": dtype})
    yield Sample(((4, 4),))


def _size_bench(*shape: int) -> Workload:
    return Workload("x".join(map(str, shape)), lambda dtype, where: ((shape,), {"dtype": dtype, "device": where}))


_BENCH = (_size_bench(8192, 8192), _size_bench(32, 32))


@planned("aten::rand", dtypes=FLOATS, samples=_sizes, random=True, bench=_BENCH)
def rand(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Planned:
    """Numbers spread evenly over [0, 1)."""
    plan = Plan("_size", *OPTIONS)
    return _drawn(plan, sized(plan, size, dtype, layout, pin_memory), device, "uniform")


@planned("aten::randn", dtypes=FLOATS, samples=_sizes, random=True, bench=_BENCH)
def randn(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Planned:
    """Standard normal numbers."""
    plan = Plan("_size", *OPTIONS)
    return _drawn(plan, sized(plan, size, dtype, layout, pin_memory), device, "normal")


def _likes(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (3, 5), (2, 3, 4, 5)):
        yield Sample((values(shape, dtype),))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))
    yield Sample((values((2, 3, 4, 5), dtype),), {"dtype": torch.float32, "memory_format": torch.channels_last})


# torch.testing has no samples for it: those it calls "rand_like" call randn_like (torch 2.13).
@planned("aten::rand_like", dtypes=FLOATS, samples=_likes, random=True, bench=stream(1), opinfo=("rand",))
def rand_like(
    self: Tensor,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """Numbers spread evenly over [0, 1), in the shape and layout of self."""
    like = alike(self, dtype, layout, pin_memory, memory_format)
    return _drawn(Plan("_self", *LIKE_OPTIONS), like, device or self.device, "uniform")


@planned("aten::randn_like", dtypes=FLOATS, samples=_likes, random=True, bench=stream(1))
def randn_like(
    self: Tensor,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """Standard normal numbers in the shape and layout of self."""
    like = alike(self, dtype, layout, pin_memory, memory_format)
    return _drawn(Plan("_self", *LIKE_OPTIONS), like, device or self.device, "normal")
