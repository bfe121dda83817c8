"""nll_loss and nll_loss2d: a gather, and a two-stage sum in a fixed order; one dense write backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.loss.parts import MEAN, NONE, SUM, empty_parts, plan_sum
from gems_ops.op import DOUBLES, Declined, Op, Sample, declare, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.rows.access import row_offsets
from gems_ops.rows.tiling import Rows, folded, read_rows, rows_of, strides_along
from gems_runtime import LibEntry, device

_BLOCK = 512  # rows of a tile
_MOST_PARTS = 1024  # partial sums that the second stage adds
_BAND = 4096  # classes of a tile backward, and elements of it
TARGETS = frozenset({torch.int64, torch.uint8})


@triton.jit
def weigh(target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_step, weight_step, DTYPE: tl.constexpr):
    """Targets [R] and their weights, 0 for ignored rows. Stops the device at a target that is no class, as ATen does."""
    target = tl.load(target_ptr + rows * target_step, mask=ok, other=0).to(tl.int64)
    counts = ok & (target != ignore_index)
    known = (target >= 0) & (target < n_classes)
    tl.device_assert(known | ~counts, "a loss was given a target that is no class")
    counts = counts & known
    if weight_ptr is None:
        weight = counts.to(DTYPE)
    else:
        weight = tl.load(weight_ptr + target * weight_step, mask=counts, other=0.0).to(DTYPE)
    return target, counts, weight


@LibEntry
@triton.jit(debug=True)  # without it device_assert checks nothing
def _nll_kernel(
    x_ptr, target_ptr, weight_ptr, loss_ptr, total_ptr,
    n_rows, n_classes, inner, x_outer, x_inner, x_class, target_step, weight_step, loss_step,
    ignore_index, rows_per_program,
    REDUCTION: tl.constexpr,
    LAST: tl.constexpr,  # this program has all rows: it writes the loss, else partial sums
    BLOCK: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.program_id(0) * rows_per_program
    stop = min(start + rows_per_program, n_rows)
    losses = tl.zeros((BLOCK,), dtype=DTYPE)
    weights = tl.zeros((BLOCK,), dtype=DTYPE)
    for first in range(start, stop, BLOCK):
        # int64: row * stride passes 2**31
        rows = first + tl.arange(0, BLOCK).to(tl.int64)
        ok = rows < stop
        target, counts, weight = weigh(
            target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_step, weight_step, DTYPE
        )
        x = tl.load(x_ptr + row_offsets(rows, inner, x_outer, x_inner) + target * x_class, mask=counts, other=0.0).to(DTYPE)
        # An ignored row counts as 0 whatever its values are; the others multiply, so that nan stays nan.
        loss = tl.where(counts, -x * weight, 0.0)
        if REDUCTION == 0:
            tl.store(loss_ptr + rows * loss_step, loss.to(loss_ptr.dtype.element_ty), mask=ok)
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
@triton.jit(debug=True)
def _nll_gradient_kernel(
    grad_ptr, target_ptr, weight_ptr, total_ptr, dx_ptr,
    n_rows, n_classes, inner, grad_step, target_step, weight_step, dx_outer, dx_inner, dx_class, ignore_index,
    REDUCTION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Every element of dx: the gradient at each row's target, 0 elsewhere."""
    DTYPE: tl.constexpr = tl.float64 if dx_ptr.dtype.element_ty == tl.float64 else tl.float32
    # int64: row * stride passes 2**31
    bands = tl.cdiv(n_classes, BLOCK_C)
    rows = (tl.program_id(0) // bands).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    classes = (tl.program_id(0) % bands).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = rows < n_rows
    target, counts, weight = weigh(target_ptr, weight_ptr, rows, ok, n_classes, ignore_index, target_step, weight_step, DTYPE)
    grad = tl.load(grad_ptr + rows * grad_step, mask=ok, other=0.0).to(DTYPE)
    at_target = -grad * weight  # [BLOCK_R]
    if REDUCTION == 1:
        at_target = at_target / tl.load(total_ptr).to(DTYPE)
    hit = counts[:, None] & (target[:, None] == classes[None, :])
    dx = tl.where(hit, at_target[:, None], 0.0)
    at = row_offsets(rows, inner, dx_outer, dx_inner)[:, None] + classes[None, :] * dx_class
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=ok[:, None] & (classes < n_classes)[None, :])


def check_targets(target: Tensor, n_classes: int, ignore_index: int) -> None:
    """When interpreted the device cannot be stopped: there decline a target that is no class, for which ATen raises."""
    counted = target[target != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < n_classes:
        raise Declined("a target is out of bounds")


def checked(plan: Plan, n_classes: int, ignore_index: int) -> Plan:
    """A plan that begins with a look at its `target`, where the kernel cannot stop at a wrong one."""
    if device.interpreted():
        plan.do("{check}(target, {n}, {ignored})", check=check_targets, n=n_classes, ignored=ignore_index)
    return plan


def vector(plan: Plan, name: str, t: Tensor | None) -> tuple[Code | None, int]:
    """The plan's tensor `name` read as one vector, and its step; a copy where its dimensions do not fold."""
    if t is None:
        return None, 0
    step = folded(t.shape, t.stride())
    if step is None:
        plan.do(f"{name} = {name}.contiguous()")
        step = 1
    return Code(name), step


def _rows_1d(x: Tensor, target: Tensor) -> Rows:
    """(classes) with one target, or (n, classes) with n."""
    if x.dim() == 1 and target.numel() == 1 and target.dim() <= 1 or x.dim() == 2 and target.shape == x.shape[:1]:
        return rows_of(x.shape, -1)
    raise Declined("input and target do not fit each other")


def _rows_2d(x: Tensor, target: Tensor) -> Rows:
    """(n, classes, height, width) with (n, height, width)."""
    if x.dim() == 4 and target.shape == (x.shape[0], *x.shape[2:]):
        return rows_of(x.shape, 1)
    raise Declined("input and target do not fit each other")


def _check(x: Tensor, weight: Tensor | None, n_classes: int, reduction: int) -> None:
    if weight is not None and (weight.dim() != 1 or weight.shape[0] != n_classes or weight.dtype != x.dtype):
        raise Declined("weight must be one number of the input's dtype for each class")
    if reduction not in (NONE, MEAN, SUM):
        raise Declined(f"reduction {reduction}")


def _class_dim(x: Tensor) -> int:
    return 1 if x.dim() > 1 else 0


def _forward(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int,
    out: tuple[Tensor, Tensor] | None, rows: Rows,
) -> Planned:  # fmt: skip
    _check(x, weight, rows.n_cols, reduction)
    each = reduction == NONE and x.dim() > 1
    shape = tuple(target.shape) if each else ()
    for given, wanted in zip(out or (), (shape, ()), strict=False):
        result_buffer(given, wanted, x.dtype, x.device)
    loss_step = folded(shape, out[0].stride()) if out else 1
    if loss_step is None:
        raise Declined("out= is not one vector")
    plan = checked(Plan("x", "target", "weight", "_reduction", "_ignore_index", out=out), rows.n_cols, ignore_index)
    loss, total = plan.result(shape, x.dtype, x.device), plan.result((), x.dtype, x.device, 1)
    if reduction == NONE and not each:  # one row: ATen sums it, and reports its weight
        reduction = SUM
    programs = 1 if rows.n_rows <= 4 * _BLOCK and not each else min(-(-rows.n_rows // _BLOCK), _MOST_PARTS)
    staged = programs > 1 and not each
    parts = empty_parts(plan, ("losses", "weights"), programs, opmath(x.dtype), x.device) if staged else (loss, total)
    x_strides = read_rows(plan, "x", x, _class_dim(x), rows)
    (target_code, target_step), (weight_code, weight_step) = vector(plan, "target", target), vector(plan, "weight", weight)
    plan.launch(
        _nll_kernel, (programs,),
        Code("x"), target_code, weight_code, *parts,
        rows.n_rows, rows.n_cols, rows.inner, *x_strides, target_step, weight_step, loss_step,
        ignore_index, -(-rows.n_rows // (programs * _BLOCK)) * _BLOCK, reduction, programs == 1, _BLOCK,
        sanitize_overflow=False,  # debug would add a check to every sum of indices
    )  # fmt: skip
    if staged:
        plan_sum(plan, *parts, loss, total, programs, reduction)
    return plan.build(f"{loss}, {total}")


def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, out: tuple[Tensor, Tensor] | None = None
) -> Planned:
    """Minus the (weighted) value at each row's target, reduced; and the sum of the weights that counted."""
    return _forward(x, target, weight, reduction, ignore_index, out, _rows_1d(x, target))


def nll_loss2d(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, out: tuple[Tensor, Tensor] | None = None
) -> Planned:
    """nll_loss of images."""
    return _forward(x, target, weight, reduction, ignore_index, out, _rows_2d(x, target))


def _backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, total: Tensor,
    out: Tensor | None, rows: Rows,
) -> Planned:  # fmt: skip
    _check(x, weight, rows.n_cols, reduction)
    each = reduction == NONE and x.dim() > 1
    fits = grad.shape == target.shape if each else grad.dim() <= 1 and grad.numel() == 1
    if not fits or total.numel() != 1 or not grad.dtype == total.dtype == x.dtype:
        raise Declined("gradient, total weight and input do not fit each other")
    if out is not None:
        result_buffer(out, x.shape, x.dtype, x.device)
    names = ("grad", "_x", "target", "weight", "_reduction", "_ignore_index", "total")
    plan = checked(Plan(*names, out=out), rows.n_cols, ignore_index)
    dx = plan.result(x.shape, x.dtype, x.device)
    like = torch.empty(x.shape, device="meta") if out is None else out
    dx_strides = strides_along(like.shape, like.stride(), _class_dim(x), rows)
    if dx_strides is None:
        raise Declined("out= is not rows of classes")
    (grad_code, grad_step), (target_code, target_step) = vector(plan, "grad", grad), vector(plan, "target", target)
    weight_code, weight_step = vector(plan, "weight", weight)
    block_r, block_c = _gradient_tile(rows)
    plan.launch(
        _nll_gradient_kernel, (-(-rows.n_rows // block_r) * -(-rows.n_cols // block_c),),
        grad_code, target_code, weight_code, Code("total"), dx,
        rows.n_rows, rows.n_cols, rows.inner, grad_step if each else 0, target_step, weight_step, *dx_strides, ignore_index,
        reduction, block_r, block_c, sanitize_overflow=False,
    )  # fmt: skip
    return plan.build(dx)


def _gradient_tile(rows: Rows) -> tuple[int, int]:
    """Rows and classes of a tile: long along what is dense in memory."""
    if rows.inner > 1:
        block_r = min(1024, triton.next_power_of_2(rows.inner))
        return block_r, min(_BAND // block_r, triton.next_power_of_2(rows.n_cols))
    block_c = min(_BAND, triton.next_power_of_2(rows.n_cols))
    return max(1, _BAND // block_c), block_c


def nll_loss_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, total: Tensor,
    out: Tensor | None = None,
) -> Planned:  # fmt: skip
    """Gradient of nll_loss's input."""
    if x.dim() == 1 and target.dim() == 1:
        raise Declined("backward takes one row with a target of no dimensions only")
    return _backward(grad, x, target, weight, reduction, ignore_index, total, out, _rows_1d(x, target))


def nll_loss2d_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, total: Tensor,
    out: Tensor | None = None,
) -> Planned:  # fmt: skip
    """Gradient of nll_loss2d's input."""
    if not x.is_contiguous():
        raise Declined("ATen keeps the input's memory format, or raises")
    return _backward(grad, x, target, weight, reduction, ignore_index, total, out, _rows_2d(x, target))


Problems = Callable[[torch.dtype], Iterator[tuple[Tensor, Tensor, Tensor | None]]]


def _problems_1d(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Inputs, targets and class weights in the shapes and layouts that ATen takes."""
    weight = samples.values((10,), dtype, 0, 1)
    target = torch.tensor([0, 9, 2, 5, 1, 2])
    for x in samples.layouts((6, 10), dtype):
        yield x, target, weight
    yield samples.values((6, 10), dtype), target.repeat_interleave(2)[::2], None
    yield samples.values((6, 10), dtype), target.to(torch.uint8), samples.values((20,), dtype, 0, 1)[::2]
    yield samples.values((10,), dtype), torch.tensor(3), weight


def _problems_2d(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    weight = samples.values((4,), dtype, 0, 1)
    target = torch.arange(2 * 3 * 5).reshape(2, 3, 5) % 4
    yield samples.values((2, 4, 3, 5), dtype), target, weight
    yield samples.values((2, 4, 3, 5), dtype), target.transpose(1, 2).contiguous().transpose(1, 2), None
    yield samples.values((1, 4, 1, 1), dtype), target[:1, :1, :1], weight


def _forward_samples(problems: Problems) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x, target, weight in problems(dtype):
            for reduction in (NONE, MEAN, SUM):
                yield Sample((x, target, weight, reduction, -100))
                yield Sample((x, target, weight, reduction, 2))
                # nothing counts
                yield Sample((x, torch.ones_like(target), None, reduction, 1))

    return make


def _samples_1d(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _forward_samples(_problems_1d)(dtype)
    for reduction in (NONE, MEAN, SUM):  # forward alone takes a vector of one target with one row
        yield Sample((samples.values((10,), dtype), torch.tensor([3]), None, reduction, -100))
    long = samples.values((4100, 3), dtype)  # several programs and a second stage
    yield Sample((long, torch.arange(4100) % 3, samples.values((3,), dtype, 0, 1), MEAN, 1))
    yield Sample((long, torch.arange(4100) % 3, None, NONE, 1))


def _samples_2d(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _forward_samples(_problems_2d)(dtype)
    # channels_last and layouts that do not fold
    for x in (samples.values((2, 3, 5, 4), dtype).permute(0, 3, 1, 2), samples.values((2, 4, 5, 3), dtype).transpose(2, 3)):
        for reduction in (NONE, MEAN):
            yield Sample((x, torch.arange(30).reshape(2, 3, 5) % 4, None, reduction, -100))


def _backward_samples(
    problems: Problems, forward: Callable[..., tuple[Tensor, Tensor]], wide: tuple[Tensor, ...]
) -> Callable[[torch.dtype], Iterator[Sample]]:
    """`wide`: shapes of an input and a target that several programs share."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x, target, weight in problems(dtype):
            for reduction in (NONE, MEAN, SUM):
                for ignore_index in (-100, 2):
                    loss, total = forward(x, target, weight, reduction, ignore_index)
                    for grad in list(samples.layouts(tuple(loss.shape), dtype))[:2]:
                        yield Sample((grad, x, target, weight, reduction, ignore_index, total))
        x = samples.values(wide[0], dtype)
        target = torch.arange(torch.Size(wide[1]).numel()).reshape(wide[1]) % x.shape[1]
        one = torch.ones((), dtype=dtype)
        yield Sample((one, x, target, None, MEAN, 7, torch.tensor(4, dtype=dtype)))
        yield Sample((one.expand(wide[1]), x, target, None, NONE, 7, torch.tensor(0, dtype=dtype)))

    return make


def _bench(shape: tuple[int, ...]) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        x = workloads.random_like(shape, dtype, device)
        return (x, torch.randint(0, shape[1], (shape[0], *shape[2:]), device=device), None, MEAN, -100), {}

    return workloads.Workload("x".join(map(str, shape)), make)


def _backward_bench(shape: tuple[int, ...]) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        (x, target, *rest), _ = _bench(shape).make(dtype, device)
        one, total = torch.ones((), dtype=dtype, device=device), torch.full((), target.numel(), dtype=dtype, device=device)
        return (one, x, target, *rest, total), {}

    return workloads.Workload("x".join(map(str, shape)), make)


_SHAPES, _SHAPES_2D = ((4096, 32000), (65536, 1000)), ((8, 32, 512, 512),)
_WIDE, _WIDE_2D = ((3, _BAND + 200), (3,)), ((2, 9, 40, 30), (2, 40, 30))

for _name, _plan, _make, _workloads in (
    ("nll_loss_forward", nll_loss, _samples_1d, tuple(map(_bench, _SHAPES))),
    ("nll_loss2d_forward", nll_loss2d, _samples_2d, tuple(map(_bench, _SHAPES_2D))),
    ("nll_loss_backward", nll_loss_backward,
     _backward_samples(_problems_1d, torch.ops.aten.nll_loss_forward, _WIDE), tuple(map(_backward_bench, _SHAPES))),
    ("nll_loss2d_backward", nll_loss2d_backward,
     _backward_samples(_problems_2d, torch.ops.aten.nll_loss2d_forward, _WIDE_2D), tuple(map(_backward_bench, _SHAPES_2D))),
):  # fmt: skip
    declare(
        Op(
            name=f"aten::{_name}", fn=_plan, plan=_plan, dtypes=DOUBLES, argument_dtypes={"target": TARGETS},
            samples=_make, bench=_workloads, opinfo=("nn.functional.nll_loss", "nn.functional.cross_entropy"), wide=True,
        )
    )  # fmt: skip
