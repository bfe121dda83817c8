"""Padding: with a constant, by reflection, by repeating the edge. Negative amounts crop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.layout import suggested_format
from gems_ops.op import ALL, DOUBLES, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import Dim, Rule, bits_of, plan_walk
from gems_ops.workloads import stream


def _amounts(rank: int, pad: list[int]) -> list[tuple[int, int]]:
    """(before, after) for each dimension, from ATen's list, which starts with the last one."""
    if len(pad) % 2 or len(pad) > 2 * rank:
        raise Declined(f"{len(pad)} amounts for {rank} dimensions: ATen raises")
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


def _plan_padding(
    plan: Plan, self: Tensor, pad: list[int], rule: Rule, memory_format: torch.memory_format, out: Tensor | None, value: Code | None = None
) -> Planned:
    amounts = _amounts(self.dim(), pad)
    shape = [n + a + b for n, (a, b) in zip(self.shape, amounts, strict=True)]
    if any(n <= 0 for n in shape):
        raise Declined(f"a result of shape {tuple(shape)}: empty, or ATen raises")
    like = torch.empty(shape, dtype=self.dtype, device="meta", memory_format=memory_format)
    if out is None:
        result = plan.empty("out", shape, self.dtype, self.device, like.stride())
    else:
        like, result = result_buffer(out, shape, self.dtype, self.device), Code("out0")
    dims = [
        Dim(size, stride, out_stride, rule, n, before) if before or after else Dim(size, stride, out_stride)
        for size, stride, out_stride, n, (before, after) in zip(shape, self.stride(), like.stride(), self.shape, amounts, strict=True)
    ]
    plan_walk(plan, Code("self"), result, dims, value=value)
    return plan.build(result)


def _constants(dtype: torch.dtype) -> Iterator[Sample]:
    value = True if dtype == torch.bool else 2
    for shape, pad in (((5,), (1, 2)), ((3, 4), (1, 2)), ((3, 4), (0, 0, 2, 1)), ((3, 4), (-1, 2, 1, -2)), ((2, 3, 4), (1, 1, 0, 0, 2, 0))):
        yield Sample((values(shape, dtype), pad, value))
    for x in layouts((6, 10), dtype):
        yield Sample((x, (3, 5, 1, 2)))
        yield Sample((x, (0, -1)))
    yield Sample((values((2, 3, 4, 5), dtype).to(memory_format=torch.channels_last), (1, 2, 3, 0), value))
    if dtype.is_floating_point:
        yield Sample((values((3, 4), dtype), (1, 1), float("-inf")))
        yield Sample((values((3, 4), dtype), (1, 1), 0.1))


@planned(
    "aten::constant_pad_nd", dtypes=ALL, samples=_constants, opinfo=("constant_pad_nd",),
    bench=stream(1, (8192, 8192), (8, 8, 8, 8)) + stream(1, (8192, 8192), (1, 0), 1.5),
)  # fmt: skip
def constant_pad_nd(self: Tensor, pad: list[int], value: bool | int | float = 0, out: Tensor | None = None) -> Planned:
    """The tensor with a value around it."""
    if not isinstance(value, (bool, int, float)):
        raise Declined("a complex value")
    plan = Plan("self", "_pad", "value", out=out)
    bits_of(value, self.dtype)
    plan.do("bits = 0 if value == 0 and value.__class__ is not float else {bits_of}(value, {dtype})", bits_of=bits_of, dtype=self.dtype)
    if all(a <= 0 for a in pad):
        raise Declined("nothing to pad: ATen copies, in self's layout")
    return _plan_padding(plan, self, pad, Rule.INSIDE, suggested_format(self), out, Code("bits"))


def refuse_limits(rule: Rule, self: Tensor, dims: int, padding: list[int]) -> None:
    """Decline what ATen refuses."""
    if self.dim() not in (dims + 1, dims + 2) or len(padding) != 2 * dims:
        raise Declined(f"{self.dim()} dimensions for {dims} padded ones: ATen raises")
    sizes = list(self.shape[::-1][:dims])
    for i, n in enumerate(sizes):
        before, after = padding[2 * i : 2 * i + 2]
        if rule is Rule.REFLECT and not (before < n and after < n):
            raise Declined(f"padding {before}, {after} of a dimension of {n}: ATen raises")
        if n + before < 1 or n + after < 1 or min(before, after) < 0:
            raise Declined("a cropping padding")


def edges(dims: int, reflecting: bool) -> object:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        most = 2 if reflecting else 4
        pads = ((1, 2) * dims, (0, most) * dims, (most, 0) + (1, 1) * (dims - 1))
        for lead in ((2,), (2, 3)):
            for pad in pads:
                yield Sample((values((*lead, 5, 3, 4)[: len(lead)] + (3, 4, 5)[-dims:], dtype), pad))
        wide = values((2, 3) + (3, 4, 10)[-dims:], dtype)
        yield Sample((wide[..., ::2], pads[0]))
        yield Sample((wide.transpose(0, 1), pads[0]))

    return make


def _pad_function(rule: Rule, name: str, dims: int) -> None:
    """Declare one of the six: they differ in a rule and in how many dimensions they pad."""

    def plan_pad(self: Tensor, padding: list[int], out: Tensor | None = None) -> Planned:
        refuse_limits(rule, self, dims, padding)
        if self.dim() in (4, 5) and suggested_format(self) != torch.contiguous_format:
            raise Declined("a channels-last tensor: its result's layout differs from device to device")
        return _plan_padding(Plan("self", "_padding", out=out), self, padding, rule, torch.contiguous_format, out)

    how = "reflected" if rule is Rule.REFLECT else "repeated"
    plan_pad.__name__ = name
    plan_pad.__doc__ = f"The last {dims} dimensions with their edges {how} around them."
    shape = (64, 1024, 1024) if dims < 3 else (4, 64, 512, 512)
    planned(
        f"aten::{name}", dtypes=DOUBLES, samples=edges(dims, rule is Rule.REFLECT), bench=stream(1, shape, (3, 3) * dims),
        opinfo=(f"nn.functional.pad.{'reflect' if rule is Rule.REFLECT else 'replicate'}",),
    )(plan_pad)  # fmt: skip


for _dims in (1, 2, 3):
    _pad_function(Rule.REFLECT, f"reflection_pad{_dims}d", _dims)
    _pad_function(Rule.CLAMP, f"replication_pad{_dims}d", _dims)
