"""glu, which multiplies one half of a tensor with the sigmoid of the other, and log_sigmoid, whose result has a companion on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from gems_ops.op import DOUBLES, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.activations import logistic
from gems_ops.pointwise.cases import T, few, traffic
from gems_ops.pointwise.engine import Pointwise, check_targets
from gems_ops.samples import layouts, values
from gems_ops.promote import elementwise_strides
from gems_runtime.device import torch_device


@triton.jit
def gated(first, second):
    return first * logistic(second)


@triton.jit
def gated_backward(grad_output, first, second):
    """(gradient of the first half, of the second)"""
    s = logistic(second)
    return grad_output * s, grad_output * first * s * (1.0 - s)


_GLU = Pointwise(gated, ("first", "second"), frozenset({"first", "second"}))
_GLU_BACKWARD = Pointwise(
    gated_backward, ("grad_output", "first", "second"), frozenset({"grad_output", "first", "second"}), outputs=2
)


def _split(self: Tensor, dim: int) -> tuple[Tensor, Tensor, int]:
    """The halves along dim, and dim counted from the front."""
    if not -self.dim() <= dim < self.dim() or self.shape[dim] % 2:
        raise Declined(f"{tuple(self.shape)} has no halves along {dim}")
    first, second = self.chunk(2, dim)
    return first, second, dim % self.dim()


def _halve(plan: Plan, tensor: str, dim: int, n: int, first: str, second: str) -> None:
    """Name tensors of the plan that begin where the halves of one do: a launch reads no more of them.

    Both by narrow took 4.5 us, this takes 1.5 (EPYC, Python 3.11, torch 2.13, 2026-11-27).
    """
    plan.do(f"{first}, {second} = {tensor}, {tensor}.select({dim}, {n})")


def _halved(dtype: torch.dtype) -> Iterator[Sample]:
    for x in layouts((6, 10), dtype):
        yield Sample((x,))
    yield Sample((values((4, 3, 5), dtype), 0))
    yield Sample((values((2,), dtype), 0))


@planned("aten::glu", dtypes=DOUBLES, samples=_halved, bench=traffic(T), wide=True, opinfo=("nn.functional.glu",))
def glu(self: Tensor, dim: int = -1, *, out: Tensor | None = None) -> Planned:
    """The first half of self along dim, times the sigmoid of the second"""
    first, second, dim = _split(self, dim)
    plan = Plan("self", "dim", out=out)
    _halve(plan, "self", dim, first.shape[dim], "first", "second")
    if out is None:
        copied = self.dtype if torch_device().type == "cpu" else None
        strides = elementwise_strides([first, second], tuple(first.shape), copied)
        target = torch.empty_strided(first.shape, strides, dtype=self.dtype, device="meta")
        written = plan.empty("out0", first.shape, self.dtype, self.device, strides)
    else:
        check_targets([out], tuple(first.shape), self.dtype)
        target, written = out, Code("out0")
    _GLU.launch(plan, (first, second), [target], [written], _GLU.dtypes((first, second)))
    return plan.build(written)


def _halved_gradients(dtype: torch.dtype) -> Iterator[Sample]:
    for x in layouts((6, 10), dtype):
        yield Sample((values((6, 5), dtype, seed=1), x, -1))
    yield Sample((values((2, 3, 5), dtype, seed=1), values((4, 3, 5), dtype), 0))


@planned("aten::glu_backward", dtypes=DOUBLES, samples=_halved_gradients, wide=True)
def glu_backward(grad_output: Tensor, self: Tensor, dim: int) -> Planned:
    """Gradient of glu"""
    first, second, dim = _split(self, dim)
    if grad_output.shape != first.shape or grad_output.dtype != self.dtype:
        raise Declined(f"grad_output is {grad_output.dtype} {tuple(grad_output.shape)}")
    plan = Plan("grad_output", "self", "dim")
    n = first.shape[dim]
    written = plan.empty("out0", self.shape, self.dtype, self.device)
    _halve(plan, "self", dim, n, "first", "second")
    _halve(plan, written, dim, n, "to_first", "to_second")
    targets = torch.empty(self.shape, dtype=self.dtype, device="meta").chunk(2, dim)
    args = (grad_output, first, second)
    _GLU_BACKWARD.launch(plan, args, targets, [Code("to_first"), Code("to_second")], _GLU_BACKWARD.dtypes(args))
    return plan.build(written)


@triton.jit
def log_of_sigmoid(self):
    small = libdevice.exp(-tl.abs(self))
    return tl.where(self > 0, 0.0, self) - libdevice.log1p(small)


@triton.jit
def log_of_sigmoid_and_exp(self):
    """(result, what ATen's CPU kernel keeps for the gradient)"""
    small = libdevice.exp(-tl.abs(self))
    return tl.where(self > 0, 0.0, self) - libdevice.log1p(small), small


_ALONE = Pointwise(log_of_sigmoid, ("self",), frozenset({"self"}))
_WITH_BUFFER = Pointwise(log_of_sigmoid_and_exp, ("self",), frozenset({"self"}), contiguous=True, outputs=2)


@planned("aten::log_sigmoid_forward", dtypes=DOUBLES, samples=few(-9.0, 9.0), bench=traffic(T), wide=True, opinfo=("nn.functional.logsigmoid",))
def log_sigmoid(self: Tensor) -> Planned:
    """(log(1 / (1 + exp(-self))), a buffer: empty, but for the CPU)"""
    if torch_device().type == "cpu":
        return _WITH_BUFFER.plan(self)
    plan = Plan("self")
    forward = _ALONE.plan(self)
    plan.do("result = {forward}(self)", forward=forward)
    buffer = plan.empty("buffer", (0,), self.dtype, self.device)
    return plan.build(f"(result, {buffer})")


@triton.jit
def log_of_sigmoid_backward(grad_output, self):
    z = libdevice.exp(-tl.abs(self))
    return grad_output * tl.where(self < 0, 1.0 - z / (1.0 + z), z / (1.0 + z))


_SLOPE = Pointwise(
    log_of_sigmoid_backward, ("grad_output", "self"), frozenset({"grad_output", "self"}), order=("grad_output",)
)


def _kept(dtype: torch.dtype) -> Iterator[Sample]:
    for x in (values((24,), dtype, -9.0, 9.0), values((10, 6), dtype).t()):
        yield Sample((values(tuple(x.shape), dtype, seed=1), x, torch.exp(-x.abs())))


@planned(
    "aten::log_sigmoid_backward", dtypes=DOUBLES, samples=_kept, wide=True, may_be_empty=frozenset({"buffer"}),
    opinfo=("nn.functional.logsigmoid",),
)  # fmt: skip
def log_sigmoid_backward(grad_output: Tensor, self: Tensor, buffer: Tensor) -> Planned:
    """Gradient of log_sigmoid, which needs no buffer"""
    if grad_output.shape != self.shape or grad_output.dtype != self.dtype:
        raise Declined(f"grad_output is {grad_output.dtype} {tuple(grad_output.shape)}")
    plan = Plan("grad_output", "self", "buffer")
    return plan.build(f"{plan.bind(_SLOPE.plan(grad_output, self))}(grad_output, self)")
