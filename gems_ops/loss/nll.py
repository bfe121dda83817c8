"""nll_loss on (n, classes) or (classes,): a gather, and a two-stage sum in a fixed order; one dense write backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.op import DOUBLES, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call
from gems_runtime import LibEntry, device

_NONE, _MEAN, _SUM = range(3)  # at::Reduction
_BLOCK = 512  # rows of a tile
_MOST_PARTS = 1024  # partial sums that the second stage adds
_TARGETS = frozenset({torch.int64, torch.uint8})


@triton.jit
def _weigh(target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_stride, weight_stride, DTYPE: tl.constexpr):
    """Targets [R] and their weights, 0 for ignored rows. Stops the device at a target that is no class, as ATen does."""
    target = tl.load(target_ptr + rows * target_stride, mask=ok, other=0).to(tl.int64)
    counts = ok & (target != ignore_index)
    known = (target >= 0) & (target < n_classes)
    tl.device_assert(known | ~counts, "nll_loss: target is out of bounds")
    counts = counts & known
    if weight_ptr is None:
        weight = counts.to(DTYPE)
    else:
        weight = tl.load(weight_ptr + target * weight_stride, mask=counts, other=0.0).to(DTYPE)
    return target, counts, weight


@LibEntry
@triton.jit(debug=True)  # without it device_assert checks nothing
def _nll_kernel(
    x_ptr,
    target_ptr,
    weight_ptr,
    loss_ptr,
    total_ptr,
    n_rows,
    n_classes,
    ignore_index,
    rows_per_program,
    x_row,
    x_class,
    target_stride,
    weight_stride,
    loss_stride,
    REDUCTION: tl.constexpr,
    LAST: tl.constexpr,  # this program has all rows: it writes the loss, else partial sums
    BLOCK: tl.constexpr,
):
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.program_id(0) * rows_per_program
    stop = min(start + rows_per_program, n_rows)
    losses = tl.zeros((BLOCK,), dtype=DTYPE)
    weights = tl.zeros((BLOCK,), dtype=DTYPE)
    for first in range(start, stop, BLOCK):
        # int64: row * stride passes 2**31
        rows = first + tl.arange(0, BLOCK).to(tl.int64)
        ok = rows < stop
        target, counts, weight = _weigh(
            target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_stride, weight_stride, DTYPE
        )
        x = tl.load(x_ptr + rows * x_row + target * x_class, mask=counts, other=0.0).to(DTYPE)
        # An ignored row counts as 0 whatever its values are; the others multiply, so that nan stays nan.
        loss = tl.where(counts, -x * weight, 0.0)
        if REDUCTION == 0:
            tl.store(loss_ptr + rows * loss_stride, loss.to(loss_ptr.dtype.element_ty), mask=ok)
        losses += loss
        weights += weight
    if REDUCTION == 0:
        if tl.program_id(0) == 0:
            tl.store(total_ptr, 0.0)
    else:
        loss_sum = tl.sum(losses, axis=0)
        weight_sum = tl.sum(weights, axis=0)
        if LAST:
            if REDUCTION == 1:
                loss_sum = loss_sum / weight_sum
        tl.store(loss_ptr + tl.program_id(0), loss_sum.to(loss_ptr.dtype.element_ty))
        tl.store(total_ptr + tl.program_id(0), weight_sum.to(total_ptr.dtype.element_ty))


@LibEntry
@triton.jit
def _add_parts_kernel(
    loss_parts_ptr, weight_parts_ptr, loss_ptr, total_ptr, n_parts, REDUCTION: tl.constexpr, BLOCK: tl.constexpr
):
    """Loss and total weight from partial sums. The mean of nothing is 0 / 0: nan."""
    parts = tl.arange(0, BLOCK)
    loss = tl.sum(tl.load(loss_parts_ptr + parts, mask=parts < n_parts, other=0.0), axis=0)
    weight = tl.sum(tl.load(weight_parts_ptr + parts, mask=parts < n_parts, other=0.0), axis=0)
    if REDUCTION == 1:
        loss = loss / weight
    tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))
    tl.store(total_ptr, weight.to(total_ptr.dtype.element_ty))


@LibEntry
@triton.jit(debug=True)
def _nll_gradient_kernel(
    grad_ptr,
    target_ptr,
    weight_ptr,
    total_ptr,
    dx_ptr,
    n_rows,
    n_classes,
    ignore_index,
    grad_stride,
    target_stride,
    weight_stride,
    dx_row,
    dx_class,
    REDUCTION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Every element of dx: the gradient at each row's target, 0 elsewhere."""
    DTYPE: tl.constexpr = tl.float64 if dx_ptr.dtype.element_ty == tl.float64 else tl.float32
    # int64: row * stride passes 2**31
    bands = tl.cdiv(n_classes, BLOCK_C)
    rows = (tl.program_id(0) // bands).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    classes = (tl.program_id(0) % bands).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = rows < n_rows
    target, counts, weight = _weigh(
        target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_stride, weight_stride, DTYPE
    )
    grad = tl.load(grad_ptr + rows * grad_stride, mask=ok, other=0.0).to(DTYPE)
    at_target = -grad * weight  # [BLOCK_R]
    if REDUCTION == 1:
        at_target = at_target / tl.load(total_ptr).to(DTYPE)
    hit = counts[:, None] & (target[:, None] == classes[None, :])
    dx = tl.where(hit, at_target[:, None], 0.0)
    at = rows[:, None] * dx_row + classes[None, :] * dx_class
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=ok[:, None] & (classes < n_classes)[None, :])


def _check(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> tuple[int, int]:
    """(rows, classes) of a call that ATen takes; declines any other."""
    if x.dim() == 1 and target.numel() == 1 and target.dim() <= 1:
        n_rows, n_classes = 1, x.shape[0]
    elif x.dim() == 2 and target.dim() == 1 and target.shape[0] == x.shape[0]:
        n_rows, n_classes = x.shape
    else:
        raise Declined("input and target do not fit each other")
    if weight is not None and (weight.dim() != 1 or weight.shape[0] != n_classes or weight.dtype != x.dtype):
        raise Declined("weight must be one number of the input's dtype for each class")
    if reduction not in (_NONE, _MEAN, _SUM):
        raise Declined(f"reduction {reduction}")
    return n_rows, n_classes


def _check_targets(target: Tensor, n_classes: int, ignore_index: int) -> None:
    """When interpreted the device cannot be stopped: there decline a target out of bounds, for which ATen raises."""
    counted = target[target != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < n_classes:
        raise Declined("a target is out of bounds")


def _plan_checked(n_classes: int, ignore_index: int, *names: str, out: object) -> Plan:
    """The beginning of a plan whose text calls the targets `target`."""
    plan = Plan(*names, out=out)
    if device.interpreted():
        plan.do("{check}(target, {n}, {ignored})", check=_check_targets, n=n_classes, ignored=ignore_index)
    return plan


def _strides(x: Tensor) -> tuple[int, int]:
    """(row, class) strides; a vector is one row."""
    return x.stride() if x.dim() == 2 else (0, x.stride(0))


def _step(t: Tensor | None) -> int:
    """The stride of a vector, 0 for a single number or no tensor."""
    return t.stride(0) if t is not None and t.dim() == 1 else 0


def _weight(weight: Tensor | None) -> Code | None:
    """What a plan's text passes for the weight."""
    return None if weight is None else Code("weight")


def _forward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, target, weight in _problems(dtype):
        for reduction in (_NONE, _MEAN, _SUM):
            yield Sample((x, target, weight, reduction, -100))
            yield Sample((x, target, weight, reduction, 2))
    for reduction in (_NONE, _MEAN, _SUM):  # forward alone takes a vector of one target with one row
        yield Sample((samples.values((10,), dtype), torch.tensor([3]), None, reduction, -100))
    x, nothing = samples.values((4, 5), dtype), torch.full((4,), 1)
    for reduction in (_NONE, _MEAN, _SUM):
        yield Sample((x, nothing, None, reduction, 1))
    long = samples.values((4100, 3), dtype)  # several programs and a second stage
    yield Sample((long, torch.arange(4100) % 3, samples.values((3,), dtype, 0, 1), _MEAN, 1))
    yield Sample((long, torch.arange(4100) % 3, None, _NONE, 1))


def _problems(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Inputs, targets and class weights in the shapes and layouts that ATen takes."""
    weight = samples.values((10,), dtype, 0, 1)
    target = torch.tensor([0, 9, 2, 5, 1, 2])
    for x in samples.layouts((6, 10), dtype):
        yield x, target, weight
    yield samples.values((6, 10), dtype), target.repeat_interleave(2)[::2], None
    yield samples.values((6, 10), dtype), target.to(torch.uint8), samples.values((20,), dtype, 0, 1)[::2]
    yield samples.values((10,), dtype), torch.tensor(3), weight


def _bench(*shape: int) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        x = workloads.random_like(shape, dtype, device)
        return (x, torch.randint(0, shape[1], shape[:1], device=device), None, _MEAN, -100), {}

    return workloads.Workload("x".join(map(str, shape)), make)


def _plan_forward(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, out: tuple[Tensor, Tensor] | None = None
) -> Planned:
    n_rows, n_classes = _check(x, target, weight, reduction)
    each = reduction == _NONE and x.dim() == 2
    shape = (n_rows,) if each else ()
    for given, wanted in zip(out or (), (shape, ()), strict=False):
        result_buffer(given, wanted, x.dtype, x.device)
    plan = _plan_checked(n_classes, ignore_index, "x", "target", "weight", "_reduction", "_ignore_index", out=out)
    loss, total = plan.result(shape, x.dtype, x.device), plan.result((), x.dtype, x.device, 1)
    if reduction == _NONE and not each:  # one row: ATen sums it, and reports its weight
        reduction = _SUM
    programs = 1 if n_rows <= 4 * _BLOCK and not each else min(-(-n_rows // _BLOCK), _MOST_PARTS)
    parts = (loss, total)
    staged = programs > 1 and not each
    if staged:
        precise = torch.float64 if x.dtype == torch.float64 else torch.float32
        parts = tuple(plan.empty(name, (programs,), precise, x.device) for name in ("losses", "weights"))
    plan.launch(
        _nll_kernel, (programs,),
        Code("x"), Code("target"), _weight(weight), *parts, n_rows, n_classes, ignore_index,
        -(-n_rows // (programs * _BLOCK)) * _BLOCK, *_strides(x), _step(target), _step(weight),
        (out[0].stride(0) if out else 1) if each else 0, reduction, programs == 1, _BLOCK,
        sanitize_overflow=False,  # debug would add a check to every sum of indices
    )  # fmt: skip
    if staged:
        plan.launch(_add_parts_kernel, (1,), *parts, loss, total, programs, reduction, _MOST_PARTS)
    return plan.build(f"{loss}, {total}")


@op(
    "aten::nll_loss_forward",
    dtypes=DOUBLES,
    argument_dtypes={"target": _TARGETS},
    samples=_forward_samples,
    plan=_plan_forward,
    bench=(_bench(4096, 32000), _bench(65536, 1000)),
    wide=True,
)
def nll_loss(
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Minus the (weighted) value at each row's target, reduced; and the sum of the weights that counted."""
    return call(_plan_forward, self, target, weight, reduction, ignore_index, out=out)


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x, target, weight in _problems(dtype):
        for reduction in (_NONE, _MEAN, _SUM):
            for ignore_index in (-100, 2):
                loss, total = torch.ops.aten.nll_loss_forward(x, target, weight, reduction, ignore_index)
                for grad in list(samples.layouts(tuple(loss.shape), dtype))[:2]:
                    yield Sample((grad, x, target, weight, reduction, ignore_index, total))
    x, target = samples.values((5, 1300), dtype), torch.tensor([0, 1299, 1024, -100, 7])  # several bands of classes
    yield Sample((torch.ones((), dtype=dtype), x, target, None, _MEAN, -100, torch.tensor(4, dtype=dtype)))
    yield Sample((torch.ones((), dtype=dtype).expand(5), x, target, None, _NONE, -100, torch.tensor(0, dtype=dtype)))


def _backward_bench(*shape: int) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        x = workloads.random_like(shape, dtype, device)
        target = torch.randint(0, shape[1], shape[:1], device=device)
        one, total = torch.ones((), dtype=dtype, device=device), torch.full((), shape[0], dtype=dtype, device=device)
        return (one, x, target, None, _MEAN, -100, total), {}

    return workloads.Workload("x".join(map(str, shape)), make)


def _plan_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, total: Tensor,
    out: Tensor | None = None,
) -> Planned:  # fmt: skip
    n_rows, n_classes = _check(x, target, weight, reduction)
    each = reduction == _NONE and x.dim() == 2
    fits = tuple(grad.shape) == (n_rows,) if each else grad.dim() <= 1 and grad.numel() == 1
    if x.dim() == 1 and target.dim() == 1:
        raise Declined("backward takes one row with a target of no dimensions only")
    if not fits or total.numel() != 1 or not grad.dtype == total.dtype == x.dtype:
        raise Declined("gradient, total weight and input do not fit each other")
    if out is not None:
        result_buffer(out, x.shape, x.dtype, x.device)
    names = ("grad", "_x", "target", "weight", "_reduction", "_ignore_index", "total")
    plan = _plan_checked(n_classes, ignore_index, *names, out=out)
    dx = plan.result(x.shape, x.dtype, x.device)
    dx_strides = _strides(out) if out is not None else (n_classes if x.dim() == 2 else 0, 1)
    block_c = min(1024, triton.next_power_of_2(n_classes))
    block_r = max(1, 4096 // block_c)
    plan.launch(
        _nll_gradient_kernel, (-(-n_rows // block_r) * -(-n_classes // block_c),),
        Code("grad"), Code("target"), _weight(weight), Code("total"), dx, n_rows, n_classes, ignore_index,
        grad.stride(0) if each else 0, _step(target), _step(weight), *dx_strides, reduction, block_r, block_c,
        sanitize_overflow=False,
    )  # fmt: skip
    return plan.build(dx)


@op(
    "aten::nll_loss_backward",
    dtypes=DOUBLES,
    argument_dtypes={"target": _TARGETS},
    samples=_backward_samples,
    plan=_plan_backward,
    bench=(_backward_bench(4096, 32000), _backward_bench(65536, 1000)),
    wide=True,
)
def nll_loss_backward(
    grad_output: Tensor,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of nll_loss's input."""
    return call(_plan_backward, grad_output, self, target, weight, reduction, ignore_index, total_weight, out=out)
