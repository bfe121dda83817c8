"""Copying, converting and filling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.arranged import MOVED, arranged
from gems_ops.pointwise.cases import T, few, fitting, traffic
from gems_ops.pointwise.codegen import KNOWN
from gems_ops.pointwise.declare import pointwise
from gems_ops.pointwise.engine import Dtypes, Pointwise
from gems_ops.promote import broadcast_shape
from gems_ops.samples import layouts, values
from gems_runtime.device import torch_device


@triton.jit
def same(src):
    return src


_MOVE = Pointwise(same, ("src",), frozenset({"src"}), raw=frozenset({"src"}))


def move(plan: Plan, src: Tensor, target: Tensor, written: Code) -> None:
    """Add the launch that converts and broadcasts the tensor the plan calls `src` into the one it calls `written`."""
    if target.device.type not in (torch_device().type, "meta") or src.device.type not in (torch_device().type, "meta"):
        raise Declined(f"between {src.device} and {target.device}")
    if {src.dtype, target.dtype} - KNOWN:
        raise Declined(f"from {src.dtype} to {target.dtype}")
    _MOVE.launch(plan, (src,), [target], [written], Dtypes(src.dtype, src.dtype, target.dtype))


def _copies(dtype: torch.dtype) -> Iterator[Sample]:
    for x in layouts((6, 10), dtype):
        yield Sample((torch.empty(6, 10, dtype=dtype), x))
    yield Sample((torch.empty(10, 6, dtype=dtype).t(), values((10,), dtype)))
    yield Sample((torch.empty((), dtype=dtype), values((1,), dtype)))
    for other in (torch.float64, torch.bfloat16, torch.int32, torch.bool):
        yield Sample((torch.empty(24, dtype=dtype), values((24,), other, 0.0, 9.0)))


@planned("aten::copy_", dtypes=ALL, samples=_copies, bench=traffic(T, T) + arranged(MOVED), wide=True, aliasing=True)
def copy_(self: Tensor, src: Tensor, non_blocking: bool = False, *, out: Tensor | None = None, in_place: bool = True) -> Planned:
    """src, broadcast and converted, into self"""
    if self.device != src.device:
        raise Declined(f"from {src.device} to {self.device}")
    if broadcast_shape([self, src]) != tuple(self.shape):
        raise Declined(f"{tuple(src.shape)} does not broadcast to {tuple(self.shape)}")
    plan = Plan("self", "src", "non_blocking")
    move(plan, src, self, Code("self"))
    return plan.build("self")


def _conversions(dtype: torch.dtype) -> Iterator[Sample]:
    for other in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool):
        yield Sample((values((24,), dtype, 0.0, 9.0),), {"dtype": other})
    for x in layouts((6, 10), dtype):
        yield Sample((x,), {"dtype": torch.float32})
    yield Sample((values((2, 3, 4, 5), dtype),), {"dtype": torch.float16, "memory_format": torch.channels_last})


@planned("aten::_to_copy", dtypes=ALL, samples=_conversions, bench=traffic(T, dtype=torch.float16), wide=True)
def to_copy(
    self: Tensor,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Planned:
    """self in another dtype or memory format"""
    if layout not in (None, torch.strided) or pin_memory or device not in (None, self.device):
        raise Declined(f"to layout {layout}, device {device}, pinned {pin_memory}")
    wanted = {} if memory_format is None else {"memory_format": memory_format}
    result = torch.empty_like(self, dtype=dtype or self.dtype, device="meta", **wanted)
    plan = Plan("src", *(f"_{n}" for n in ("dtype", "layout", "device", "pin_memory", "non_blocking", "memory_format")))
    written = plan.empty("out0", result.shape, result.dtype, self.device, result.stride())
    move(plan, self, result, written)
    return plan.build(written)


_FILL = dict(dtypes=ALL, raw=frozenset({"self"}), promoting=frozenset({"self"}))


@pointwise("aten::fill.Scalar", samples=fitting(2, 0.3, float("inf")), bench=traffic(T, 1.5), rounded=True, **_FILL)
def fill(self, value):
    """value everywhere"""
    return value


def _fill_tensors(dtype: torch.dtype) -> Iterator[Sample]:
    for x in (values((24,), dtype), values((10, 6), dtype).t()):
        yield Sample((x, torch.tensor(2.5).to(dtype)))
    yield Sample((values((24,), dtype), torch.tensor(1)))


def _has_dimensions(self: Tensor, value: object) -> str | None:
    return "value is no 0-dim tensor" if not isinstance(value, Tensor) or value.dim() else None


@pointwise("aten::fill.Tensor", samples=_fill_tensors, when=_has_dimensions, argument_dtypes={"value": ALL}, **{**_FILL, "raw": frozenset({"self", "value"})})
def fill_tensor(self, value):
    """The value of a 0-dim tensor everywhere"""
    return value


@pointwise("aten::zero", samples=few(), bench=traffic(T), **_FILL)
def zero(self):
    """0 everywhere"""
    return tl.zeros_like(self)
