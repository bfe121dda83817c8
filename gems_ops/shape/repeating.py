"""repeat, flip and roll: every element of the result is one of the input's, found by index."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import Dim, Rule, plan_walk
from gems_ops.workloads import Workload, stream


def _repeats(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, times in (((), (3,)), ((5,), (2,)), ((3, 4), (2, 3)), ((3, 4), (2, 1, 3)), ((1, 4), (3, 1)), ((2, 3, 4), (1, 2, 1))):
        yield Sample((values(shape, dtype), times))
    for x in layouts((6, 10), dtype):
        yield Sample((x, (2, 3)))
    yield Sample((values((300,), dtype), (700,)))


@planned("aten::repeat", dtypes=ALL, samples=_repeats, bench=stream(1, (4096, 8192), (2, 1)) + stream(1, (8192, 1024), (1, 8)), opinfo=("repeat", "tile"))
def repeat(self: Tensor, repeats: list[int], out: Tensor | None = None) -> Planned:
    """The tensor, `repeats` times along each dimension."""
    if len(repeats) < self.dim() or any(r <= 0 for r in repeats):
        raise Declined(f"repeats {tuple(repeats)} of {self.dim()} dimensions: empty, or ATen raises")
    lead = len(repeats) - self.dim()
    sizes, strides = (1,) * lead + tuple(self.shape), (0,) * lead + self.stride()
    shape = tuple(n * r for n, r in zip(sizes, repeats, strict=True))
    plan = Plan("self", "_repeats", out=out)
    result, out_strides = _target(plan, shape, self, out)
    dims = []
    for n, r, stride, out_stride in zip(sizes, repeats, strides, out_strides, strict=True):
        dims += [Dim(r, 0, n * out_stride), Dim(n, stride, out_stride)]
    plan_walk(plan, Code("self"), result, dims)
    return plan.build(result)


def _target(plan: Plan, shape: tuple[int, ...], like: Tensor, out: Tensor | None) -> tuple[Code, tuple[int, ...]]:
    """(the result, its strides): a new contiguous tensor, or out= as it is."""
    strides = contiguous_strides(shape) if out is None else result_buffer(out, shape, like.dtype, like.device).stride()
    return plan.result(shape, like.dtype, like.device), strides


def _flips(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, dims in (((5,), (0,)), ((3, 4), (1,)), ((3, 4), (0, -1)), ((2, 3, 4), (1,)), ((2, 3, 4), ()), ((1, 4), (0,))):
        yield Sample((values(shape, dtype), dims))
    for x in layouts((6, 10), dtype):
        yield Sample((x, (0,)))
        yield Sample((x, (0, 1)))
    yield Sample((values((2, 3, 4, 5), dtype).to(memory_format=torch.channels_last), (1, 2)))


@planned("aten::flip", dtypes=ALL, samples=_flips, bench=stream(1, (8192, 8192), (0,)) + stream(1, (8192, 8192), (1,)))
def flip(self: Tensor, dims: list[int], out: Tensor | None = None) -> Planned:
    """The tensor with the order of some dimensions reversed."""
    rank = self.dim()
    chosen = {d % rank for d in dims if -rank <= d < rank}
    if len(chosen) != len(dims):
        raise Declined(f"dims {tuple(dims)} of {rank} dimensions: ATen raises")
    plan = Plan("self", "_dims", out=out)
    if out is None:
        like = torch.empty_like(self, device="meta")
        result, strides = plan.empty("out", like.shape, like.dtype, self.device, like.stride()), like.stride()
    else:
        result, strides = _target(plan, tuple(self.shape), self, out)
    walked, at = [], 0
    for d, (n, stride, out_stride) in enumerate(zip(self.shape, self.stride(), strides, strict=True)):
        at += (n - 1) * stride if d in chosen else 0
        walked.append(Dim(n, -stride if d in chosen else stride, out_stride))
    plan_walk(plan, Code("self"), result, walked, x_at=at)
    return plan.build(result)


def _rolls(dtype: torch.dtype) -> Iterator[Sample]:
    for shape, shifts, dims in (((5,), 2, 0), ((3, 4), -1, 1), ((3, 4), (1, 2), (0, 1)), ((2, 3, 4), 5, ()), ((3, 4), (1, 2), (0, 0))):
        yield Sample((values(shape, dtype), (shifts,) if isinstance(shifts, int) else shifts, (dims,) if isinstance(dims, int) else dims))
    for x in layouts((6, 10), dtype):
        yield Sample((x, (7,), (1,)))
        yield Sample((x, (7,)))


@planned("aten::roll", dtypes=ALL, samples=_rolls, bench=stream(1, (8192, 8192), (100, 100), (0, 1)) + stream(1, (8192, 8192), (3,), (1,)))
def roll(self: Tensor, shifts: list[int], dims: tuple[int, ...] = (), out: Tensor | None = None) -> Planned:
    """The tensor with its elements moved along some dimensions, those that leave coming in at the other end."""
    rank = self.dim()
    flat = not dims and len(shifts) == 1
    if not flat and (not shifts or len(dims) != len(shifts) or any(not -rank <= d < rank for d in dims)):
        raise Declined(f"shifts {tuple(shifts)} of dims {tuple(dims)}: ATen raises")
    if flat and not self.is_contiguous():
        raise Declined("a tensor with gaps is rolled flat")
    plan = Plan("self", "_shifts", "_dims", out=out)
    result, strides = _target(plan, tuple(self.shape), self, out)
    if flat:
        if out is not None and not out.is_contiguous():
            raise Declined("out= is not contiguous")
        walked = [_rolled(self.numel(), 1, 1, shifts[0])]
    else:
        moves = [0] * rank
        for shift, d in zip(shifts, dims, strict=True):
            moves[d % rank] += shift
        walked = [_rolled(*layout) for layout in zip(self.shape, self.stride(), strides, moves, strict=True)]
    plan_walk(plan, Code("self"), result, walked)
    return plan.build(result)


def _rolled(n: int, stride: int, out_stride: int, shift: int) -> Dim:
    shift %= n
    return Dim(n, stride, out_stride, Rule.ROLL, n, shift) if shift else Dim(n, stride, out_stride)
