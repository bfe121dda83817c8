"""Losses of two tensors element by element, reduced in two stages in a fixed order, and their gradients.

Operands are laid out alike, in any dense order: anything else, promotion and broadcasting too, is the native kernels'.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.layout import has_overlap
from gems_ops.loss.parts import MEAN, NONE, SUM, empty_parts, plan_sum
from gems_ops.op import DOUBLES, Declined, Op, Sample, declare
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.rows.access import widen
from gems_runtime import LibEntry, device

_BLOCK = 2048
_MOST_PARTS = 2048  # partial sums that the second stage adds


@triton.jit
def _loss(x, t, number, HOW: tl.constexpr):
    """The loss of each element; `number` is beta of smooth_l1, delta of huber."""
    gap = tl.abs(x - t)
    if HOW == "mse":
        return gap * gap
    elif HOW == "smooth_l1":
        return tl.where(gap < number, 0.5 * gap * gap / number, gap - 0.5 * number)
    elif HOW == "huber":
        return tl.where(gap <= number, 0.5 * gap * gap, number * (gap - 0.5 * number))
    elif HOW == "bce":
        # logarithms are cut off at -100, so that the loss is finite where x is 0 or 1
        return (t - 1) * tl.maximum(_log1p(-x), -100.0) - t * tl.maximum(tl.log(x), -100.0)
    else:
        tl.static_assert(HOW == "logits", "unknown loss")
        return (1 - t) * x + _log1p(tl.exp(-tl.abs(x))) + tl.maximum(-x, 0.0)


@triton.jit
def _log1p(x):
    """log(1 + x), to the last bits where x is small: the rounding error of 1 + x is divided out."""
    u = 1 + x
    return tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, 1.0, u - 1)))


@triton.jit
def _slope(x, t, number, HOW: tl.constexpr):
    """The derivative of the loss by x."""
    gap = x - t
    if HOW == "mse":
        return 2 * gap
    elif HOW == "smooth_l1":
        return tl.where(gap <= -number, -1.0, tl.where(gap >= number, 1.0, gap / number))
    elif HOW == "huber":
        return tl.where(gap < -number, -number, tl.where(gap > number, number, gap))
    else:
        tl.static_assert(HOW == "bce", "unknown loss")
        return gap / tl.maximum((1 - x) * x, 1e-12)


@LibEntry
@triton.jit(debug=True)  # without it device_assert checks nothing
def _loss_kernel(
    x_ptr, target_ptr, weight_ptr, out_ptr, n, per_program, number, HOW: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr
):
    """The elements' losses, or their sum for each program."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    # int64: there may be 2**31 elements
    start = tl.program_id(0).to(tl.int64) * per_program
    total = tl.zeros((BLOCK,), DTYPE)
    for first in range(0, per_program, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        ok = at < n
        x = widen(tl.load(x_ptr + at, mask=ok, other=0.5))
        t = widen(tl.load(target_ptr + at, mask=ok, other=0.5))
        if HOW == "bce":
            tl.device_assert((x >= 0) & (x <= 1), "binary_cross_entropy: an input is not between 0 and 1")
        loss = _loss(x, t, number, HOW)
        if weight_ptr is not None:
            loss *= widen(tl.load(weight_ptr + at, mask=ok, other=0))
        if EACH:
            tl.store(out_ptr + at, loss.to(out_ptr.dtype.element_ty), mask=ok)
        else:
            total += tl.where(ok, loss, 0.0)
    if not EACH:
        tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


@LibEntry
@triton.jit
def _loss_gradient_kernel(
    grad_ptr, x_ptr, target_ptr, weight_ptr, dx_ptr, n, scale, number, HOW: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = at < n
    x = widen(tl.load(x_ptr + at, mask=ok, other=0.5))
    t = widen(tl.load(target_ptr + at, mask=ok, other=0.5))
    grad = widen(tl.load(grad_ptr + at, mask=ok, other=0)) if EACH else widen(tl.load(grad_ptr))
    dx = grad * scale * _slope(x, t, number, HOW)
    if weight_ptr is not None:
        dx *= widen(tl.load(weight_ptr + at, mask=ok, other=0))
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=ok)


def _check(x: Tensor, others: tuple[Tensor | None, ...], reduction: int) -> None:
    """Decline operands that are not one dense block of memory in the same order."""
    if has_overlap(x.shape, x.stride()) or 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride())) != x.numel():
        raise Declined(f"strides {x.stride()} of {tuple(x.shape)} leave gaps or overlap")
    for t in others:
        if t is not None and (t.dtype != x.dtype or t.shape != x.shape or t.stride() != x.stride()):
            raise Declined(f"{t.dtype} {tuple(t.shape)} {t.stride()}: not laid out like {x.dtype} {tuple(x.shape)} {x.stride()}")
    if reduction not in (NONE, MEAN, SUM):
        raise Declined(f"reduction {reduction}")


def _check_probabilities(x: Tensor) -> None:
    """When interpreted the device cannot be stopped: there decline what ATen raises for."""
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise Declined("an input is not between 0 and 1")


def _forward(
    plan: Plan, how: str, x: Tensor, others: tuple[Tensor | None, ...], reduction: int, number: float = 0.0
) -> Planned:
    """`others`: target, which the plan calls so, and weight."""
    _check(x, others, reduction)
    if how == "bce" and device.interpreted():
        plan.do("{check}(x)", check=_check_probabilities)
    n, each = x.numel(), reduction == NONE
    weight = Code("weight") if others[1:] and others[1] is not None else None
    loss = plan.empty("loss", x.shape if each else (), x.dtype, x.device, x.stride() if each else None)
    blocks = triton.cdiv(n, _BLOCK)
    programs = blocks if each else min(blocks, _MOST_PARTS)
    (out,) = (loss,) if each else empty_parts(plan, ("losses",), programs, opmath(x.dtype), x.device)
    plan.launch(
        _loss_kernel, (programs,), Code("x"), Code("target"), weight, out, n, triton.cdiv(blocks, programs) * _BLOCK, number,
        how, each, _BLOCK, num_warps=8, sanitize_overflow=False,  # debug would add a check to every sum of indices
    )  # fmt: skip
    if not each:
        plan_sum(plan, out, None, loss, None, programs, reduction, n)
    return plan.build("loss")


def _backward(
    plan: Plan, how: str, grad: Tensor, x: Tensor, others: tuple[Tensor | None, ...], reduction: int, number: float = 0.0
) -> Planned:
    one = grad.numel() == 1 or not any(grad.stride())  # as of sum(): one number, expanded
    _check(x, others if one else (*others, grad), reduction)
    if how != "bce" and not x.is_contiguous():
        raise Declined("ATen's gradient is contiguous")
    if grad.dtype != x.dtype or reduction == NONE and grad.shape != x.shape or reduction != NONE and grad.dim():
        raise Declined(f"a gradient of {grad.dtype} {tuple(grad.shape)} for {x.dtype} {tuple(x.shape)}")
    n = x.numel()
    weight = Code("weight") if others[1:] and others[1] is not None else None
    dx = plan.empty("dx", x.shape, x.dtype, x.device, x.stride())
    plan.launch(
        _loss_gradient_kernel, (triton.cdiv(n, _BLOCK),), Code("grad"), Code("x"), Code("target"), weight, dx, n,
        1 / n if reduction == MEAN else 1.0, number, how, not one, _BLOCK, num_warps=8,
    )  # fmt: skip
    return plan.build("dx")


def mse_loss(x: Tensor, target: Tensor, reduction: int) -> Planned:
    """The square of the difference."""
    return _forward(Plan("x", "target", "_reduction"), "mse", x, (target,), reduction)


def mse_loss_backward(grad: Tensor, x: Tensor, target: Tensor, reduction: int) -> Planned:
    """Gradient of mse_loss's input."""
    return _backward(Plan("grad", "x", "target", "_reduction"), "mse", grad, x, (target,), reduction)


def _positive(number: float) -> float:
    if not number > 0:
        raise Declined(f"{number} is not positive: ATen takes another way, or raises")
    return number


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: int, beta: float) -> Planned:
    """The distance, less beta / 2, and below beta a parabola."""
    return _forward(Plan("x", "target", "_reduction", "_beta"), "smooth_l1", x, (target,), reduction, _positive(beta))


def smooth_l1_loss_backward(grad: Tensor, x: Tensor, target: Tensor, reduction: int, beta: float) -> Planned:
    """Gradient of smooth_l1_loss's input."""
    plan = Plan("grad", "x", "target", "_reduction", "_beta")
    return _backward(plan, "smooth_l1", grad, x, (target,), reduction, _positive(beta))


def huber_loss(x: Tensor, target: Tensor, reduction: int, delta: float) -> Planned:
    """Half the square of the distance, and from delta on a line of slope delta."""
    return _forward(Plan("x", "target", "_reduction", "_delta"), "huber", x, (target,), reduction, _positive(delta))


def huber_loss_backward(grad: Tensor, x: Tensor, target: Tensor, reduction: int, delta: float) -> Planned:
    """Gradient of huber_loss's input."""
    plan = Plan("grad", "x", "target", "_reduction", "_delta")
    return _backward(plan, "huber", grad, x, (target,), reduction, _positive(delta))


def binary_cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Planned:
    """-(target * log(x) + (1 - target) * log(1 - x)), times weight."""
    return _forward(Plan("x", "target", "weight", "_reduction"), "bce", x, (target, weight), reduction)


def binary_cross_entropy_backward(grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Planned:
    """Gradient of binary_cross_entropy's input."""
    plan = Plan("grad", "x", "target", "weight", "_reduction")
    return _backward(plan, "bce", grad, x, (target, weight), reduction)


def binary_cross_entropy_with_logits(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: int
) -> Planned:
    """binary_cross_entropy of sigmoid(x), times weight, without overflow."""
    if pos_weight is not None:
        raise Declined("pos_weight broadcasts")
    return _forward(Plan("x", "target", "weight", "_pos_weight", "_reduction"), "logits", x, (target, weight), reduction)


Problem = tuple[Tensor, Tensor]


def _problems(dtype: torch.dtype, low: float, high: float) -> Iterator[Problem]:
    for shape in ((), (7,), (3, 5), (2, 3, 4), (5000,)):
        yield samples.values(shape, dtype, low, high), samples.values(shape, dtype, low, high, seed=1)
    x, t = samples.values((6, 10), dtype, low, high), samples.values((6, 10), dtype, low, high, seed=1)
    yield x.t(), t.t()
    yield x[:, ::2], t[:, ::2]
    yield x, t[:1].expand(6, 10)


def _weighted(x: Tensor) -> Tensor:
    return samples.values(tuple(x.shape), x.dtype, 0.0, 1.0, seed=2).as_strided(x.shape, x.stride()) if x.is_contiguous() else x


def _samples(tail: tuple, low: float, high: float, before: int) -> samples.Samples:
    """Calls (x, target, [weight, [None]], reduction, *tail); `before` arguments lie between target and reduction."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x, t in _problems(dtype, low, high):
            for reduction in (NONE, MEAN, SUM):
                yield Sample((x, t, *[None] * before, reduction, *tail))
            if before:
                yield Sample((x, t, _weighted(x), *[None] * (before - 1), MEAN, *tail))

    return make


def _backward_samples(make: samples.Samples, reduction_at: int) -> samples.Samples:
    def gradients(dtype: torch.dtype) -> Iterator[Sample]:
        for sample in make(dtype):
            x = sample.args[0]
            shape = tuple(x.shape) if sample.args[reduction_at] == NONE else ()
            yield Sample((samples.values(shape, dtype, seed=3), *sample.args))
            if shape:
                yield Sample((torch.ones((), dtype=dtype).expand(shape), *sample.args))

    return gradients


def _bench(count: int, tail: tuple) -> workloads.Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, t = (torch.rand((8192, 8192), dtype=dtype, device=where) for _ in range(2))
        grad = (torch.ones((), dtype=dtype, device=where),) if count == 3 else ()
        return (*grad, x, t, *tail), {}

    return workloads.Workload("8192x8192 mean", make)


for _name, _plan, _gradient, _tail, _before, _low, _keyed in (
    ("mse_loss", mse_loss, mse_loss_backward, (), 0, -3.0, ""),
    ("smooth_l1_loss", smooth_l1_loss, smooth_l1_loss_backward, (0.7,), 0, -3.0, "beta"),
    ("huber_loss", huber_loss, huber_loss_backward, (1.3,), 0, -3.0, "delta"),
    ("binary_cross_entropy", binary_cross_entropy, binary_cross_entropy_backward, (), 1, 0.0, ""),
    ("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits, None, (), 2, 0.0, ""),
):
    _make = _samples(_tail, _low, 1.0 if _low == 0 else 3.0, _before)
    _arguments = (*[None] * _before, MEAN, *_tail)
    _gradients = _backward_samples(_make, 2 + _before)
    for _suffix, _fn, _given, _count in (("", _plan, _make, 2), ("_backward", _gradient, _gradients, 3)):
        if _fn is not None:
            declare(
                Op(
                    name=f"aten::{_name}{_suffix}", fn=_fn, plan=_fn, dtypes=DOUBLES, samples=_given, writes_out=False,
                    keyed=frozenset({_keyed} - {""}), bench=(_bench(_count, _arguments),), wide=True,
                    opinfo=(f"nn.functional.{_name}",),
                )
            )  # fmt: skip
