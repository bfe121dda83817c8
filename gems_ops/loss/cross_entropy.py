"""cross_entropy_loss against class indices or probabilities, as one differentiable operator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.layout import contiguous_strides
from gems_ops.loss.cross_entropy_kernels import _cross_entropy_gradient_kernel, _cross_entropy_kernel
from gems_ops.loss.nll import TARGETS, checked, vector
from gems_ops.loss.parts import MEAN, NONE, SUM, empty_parts, plan_sum
from gems_ops.op import DOUBLES, Declined, Sample, plain
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.rows.tiling import Rows, RowStrides, read_rows, rows_of, strides_along
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

_REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}
_TILE = 8192  # elements of a program's tile forward
_GRADIENT_TILE = 4096  # and backward, where every tile is a program's only one
_ACROSS = 64  # rows of a tile where neighbours in memory belong to different rows


def _class_dim(x: Tensor) -> int:
    return 1 if x.dim() > 1 else 0


def _rows(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Rows:
    """The rows of a call that the kernels take; declines any other, of which ATen says what is wrong."""
    dim = _class_dim(x)
    probabilities = target.dtype.is_floating_point
    expected = x.shape if probabilities else (*x.shape[:dim], *x.shape[dim + 1 :])
    if x.dim() == 0 or tuple(target.shape) != tuple(expected) or probabilities and target.dtype != x.dtype:
        raise Declined(f"a target of {target.dtype} {tuple(target.shape)} for logits of {x.dtype} {tuple(x.shape)}")
    if weight is not None and (tuple(weight.shape) != (x.shape[dim],) or weight.dtype != x.dtype):
        raise Declined("weight must be one number of the logits' dtype for each class")
    if reduction not in (NONE, MEAN, SUM):
        raise Declined(f"reduction {reduction}")
    return rows_of(x.shape, dim)


def _tile(rows: Rows, strides: RowStrides, elements: int) -> tuple[int, int]:
    """Rows and classes of a tile: long along what is dense in memory."""
    step = strides[1] if rows.inner > 1 else strides[0]
    across = 0 < step < strides[2] and rows.n_rows >= _ACROSS
    block_c = min(elements // _ACROSS if across else elements, triton.next_power_of_2(rows.n_cols))
    most = _ACROSS if across else max(1, _GRADIENT_TILE // block_c)
    return min(most, triton.next_power_of_2(rows.n_rows)), block_c


def _read_target(plan: Plan, target: Tensor, x: Tensor, rows: Rows) -> RowStrides:
    """Strides of the probabilities; for class indices, one vector over all rows, the step in the middle."""
    if target.dtype.is_floating_point:
        return read_rows(plan, "target", target, _class_dim(x), rows)
    return 0, vector(plan, "target", target)[1], 0


def _plan(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> Planned:
    rows = _rows(x, target, weight, reduction)
    probabilities = target.dtype.is_floating_point
    plan = Plan("x", "target", "weight", "_reduction", "_ignore_index", "_smoothing")
    if not probabilities:
        checked(plan, rows.n_cols, ignore_index)
    dim, precise = _class_dim(x), opmath(x.dtype)
    each = reduction == NONE
    loss = plan.empty("loss", (*x.shape[:dim], *x.shape[dim + 1 :]) if each else (), x.dtype, x.device)
    saved = plan.empty("saved", (2, rows.n_rows), precise, x.device)
    total = plan.empty("total", (), precise, x.device)
    plan.do("lse, mass = saved.unbind()")
    x_strides = read_rows(plan, "x", x, dim, rows)
    t_strides = _read_target(plan, target, x, rows)
    weight_code, weight_step = vector(plan, "weight", weight)
    block_r, block_c = _tile(rows, x_strides, _TILE)
    programs = -(-rows.n_rows // block_r)
    parts = (loss, total) if each else empty_parts(plan, ("losses", "weights"), programs, precise, x.device)
    spread = probabilities or label_smoothing > 0
    plan.launch(
        _cross_entropy_kernel, (programs,), Code("x"), Code("target"), weight_code, *parts, Code("lse"), Code("mass"),
        rows.n_rows, rows.n_cols, rows.inner, *x_strides, *t_strides, weight_step, ignore_index, label_smoothing,
        probabilities, spread, each, block_r, block_c,
        num_warps=max(1, min(8, block_r * block_c // 1024)), sanitize_overflow=False,
    )  # fmt: skip
    if not each:
        weights = None if probabilities else parts[1]
        plan_sum(plan, parts[0], weights, loss, total, programs, reduction, rows.n_rows)
        if probabilities:
            plan.do("total.fill_({n})", n=float(rows.n_rows))
    return plan.build(f"{loss}, {saved}, {total}")


def _plan_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, saved: Tensor, total: Tensor,
    reduction: int, ignore_index: int, label_smoothing: float,
) -> Planned:  # fmt: skip
    rows = _rows(x, target, weight, reduction)
    probabilities, dim = target.dtype.is_floating_point, _class_dim(x)
    plan = Plan("grad", "x", "target", "weight", "saved", "total", "_reduction", "_ignore_index", "_smoothing")
    dx = plan.empty("dx", x.shape, x.dtype, x.device)
    plan.do("lse, mass = saved.unbind()")
    dx_strides = strides_along(x.shape, contiguous_strides(x.shape), dim, rows)
    x_strides = read_rows(plan, "x", x, dim, rows)
    t_strides = _read_target(plan, target, x, rows)
    (grad_code, grad_step), (weight_code, weight_step) = vector(plan, "grad", grad), vector(plan, "weight", weight)
    block_r, block_c = _tile(rows, dx_strides, _GRADIENT_TILE)
    spread = probabilities or label_smoothing > 0
    plan.launch(
        _cross_entropy_gradient_kernel, (-(-rows.n_rows // block_r) * -(-rows.n_cols // block_c),),
        grad_code, Code("x"), Code("target"), weight_code, Code("lse"), Code("mass"), Code("total"), dx,
        rows.n_rows, rows.n_cols, rows.inner, grad_step if grad.dim() else 0, *x_strides, *t_strides, *dx_strides,
        weight_step, ignore_index, label_smoothing, probabilities, spread, reduction == MEAN, block_r, block_c,
        num_warps=max(1, min(8, block_r * block_c // 1024)),
    )  # fmt: skip
    return plan.build("dx")


def _formula(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    how = next(name for name, number in _REDUCTIONS.items() if number == reduction)
    in_float32 = tuple(wide(t) if t is not None and t.dtype.is_floating_point else t for t in (x, target, weight))
    loss = torch.nn.functional.cross_entropy(*in_float32, None, ignore_index, None, how, label_smoothing)
    saved, total = _saved(*in_float32, ignore_index, label_smoothing)
    return loss.to(x.dtype), saved, torch.zeros_like(total) if reduction == NONE else total


def _saved(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Each row's logarithm of the sum of exponentials and sum of q; the total weight."""
    dim = _class_dim(x)
    q, counted = _q(x, target, weight, ignore_index, label_smoothing)
    saved = torch.stack([torch.logsumexp(x, dim).flatten(), q.sum(dim).flatten()])
    if target.dtype.is_floating_point:
        counted = torch.full_like(counted, q.numel() // x.shape[dim])
    return saved.detach(), counted.detach()


def _q(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """What the target says of each class, and the sum of the targets' weights."""
    dim, n = _class_dim(x), x.shape[_class_dim(x)]
    shape = [n if d == dim else 1 for d in range(x.dim())]
    weights = (torch.ones(n, dtype=x.dtype, device=x.device) if weight is None else weight).view(shape)
    if target.dtype.is_floating_point:
        return ((1 - label_smoothing) * target + label_smoothing / n) * weights, x.new_zeros(())
    counts = target != ignore_index
    one_hot = torch.nn.functional.one_hot(torch.where(counts, target, 0).long(), n).movedim(-1, dim).to(x.dtype)
    counted = (one_hot * weights).sum(dim) * counts
    return ((1 - label_smoothing) * one_hot + label_smoothing / n) * weights * counts.unsqueeze(dim), counted.sum()


def _backward_formula(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, saved: Tensor, total: Tensor,
    reduction: int, ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    dim = _class_dim(x)
    y, t, w = wide(x), wide(target) if target.dtype.is_floating_point else target, None if weight is None else wide(weight)
    q, _ = _q(y, t, w, ignore_index, label_smoothing)
    g = wide(grad) / total if reduction == MEAN else wide(grad)
    dx = (y.softmax(dim) * q.sum(dim, keepdim=True) - q) * (g.unsqueeze(dim) if grad.dim() else g)
    return dx.to(x.dtype).contiguous()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    x, target, weight, *ctx.numbers = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, target, weight, *output[1:])


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    dx = torch.ops.gems.cross_entropy_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return dx, None, None, None, None, None


def _problems(dtype: torch.dtype) -> Iterator[tuple]:
    """x, target, weight, ignore_index, label_smoothing."""
    weight = values((10,), dtype, 0.1, 1)
    target = torch.tensor([0, 9, 2, 5, 1, 2])
    for x in layouts((6, 10), dtype):
        yield x, target, weight, 2, 0.0
    x = values((6, 10), dtype)
    yield x, target.to(torch.uint8), None, -100, 0.1
    yield x, target, weight, 2, 0.25
    yield x, x.softmax(1), weight, -100, 0.1
    yield x, x.t().contiguous().softmax(0).t(), None, -100, 0.0
    yield values((10,), dtype), torch.tensor(3), weight, -100, 0.1
    images = values((2, 4, 5, 9), dtype)
    yield images, torch.arange(90).reshape(2, 5, 9) % 4, None, 1, 0.0
    yield images.to(memory_format=torch.channels_last), images.softmax(1), values((4,), dtype, 0.1, 1), -100, 0.2
    yield values((3, _TILE + 100), dtype), torch.tensor([_TILE + 99, 0, 7]), None, 7, 0.1  # several tiles
    hidden = values((2, 4), dtype)
    hidden[0, :3] = float("-inf")
    yield hidden, torch.tensor([3, 0]), None, -100, 0.0


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for i, (x, target, weight, ignore_index, smoothing) in enumerate(_problems(dtype)):
        for reduction in (NONE, MEAN, SUM) if i > 3 else (MEAN,):
            yield Sample((x, target, weight, reduction, ignore_index, smoothing))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        loss, saved, total = _formula(*sample.args)
        x, target, weight, *numbers = sample.args
        yield Sample((values(tuple(loss.shape), dtype, seed=9), x, target, weight, saved, total, *numbers))


def _bench(backward: bool, *shape: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x = random_like(shape, dtype, where)
        target = torch.randint(0, shape[1], (shape[0], *shape[2:]), device=where)
        if not backward:
            return (x, target, None, MEAN, -100, 0.0), {}
        loss, saved, total = torch.ops.gems.cross_entropy(x, target, None, MEAN, -100, 0.0)
        return (torch.ones_like(loss), x, target, None, saved, total, MEAN, -100, 0.0), {}

    return Workload("x".join(map(str, shape)), make)


_SHAPES = ((8192, 128256), (16384, 1000), (8, 32, 512, 512))

_BACKWARD = CustomOp(
    name="gems::cross_entropy_backward",
    schema=(
        "(Tensor grad, Tensor x, Tensor target, Tensor? weight, Tensor saved, Tensor total, int reduction, int ignore_index,"
        " float label_smoothing) -> Tensor"
    ),
    plan=_plan_backward,
    formula=_backward_formula,
    fake=lambda grad, x, *rest: x.new_empty(x.shape),
    dtypes=DOUBLES,
    argument_dtypes={"target": TARGETS | DOUBLES, "saved": DOUBLES, "total": DOUBLES},
    keyed=frozenset({"label_smoothing"}),
    samples=_backward_samples,
    bench=tuple(_bench(True, *s) for s in _SHAPES),
).define()


@_BACKWARD.declare()
def cross_entropy_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, saved: Tensor, total: Tensor,
    reduction: int, ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """Gradient of cross_entropy's logits."""
    return _BACKWARD.call(grad, x, target, weight, saved, total, reduction, ignore_index, label_smoothing)


def _fake(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    dim, precise = _class_dim(x), opmath(x.dtype)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    rows = x.numel() // x.shape[dim]
    loss = x.new_empty(shape if reduction == NONE else ())
    return loss, x.new_empty((2, rows), dtype=precise), x.new_empty((), dtype=precise)


_FORWARD = CustomOp(
    name="gems::cross_entropy",
    schema=(
        "(Tensor x, Tensor target, Tensor? weight, int reduction, int ignore_index, float label_smoothing)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    plan=_plan,
    formula=_formula,
    fake=_fake,
    save=_save,
    gradient=_gradient,
    dtypes=DOUBLES,
    argument_dtypes={"target": TARGETS | DOUBLES},
    keyed=frozenset({"label_smoothing"}),
    samples=_samples,
    bench=tuple(_bench(False, *s) for s in _SHAPES),
).define()


@_FORWARD.declare()
def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and what its gradient needs: for each row log(sum(exp(x))) and the sum of its target; the total weight."""
    return _FORWARD.call(x, target, weight, reduction, ignore_index, label_smoothing)


@plain
def cross_entropy_loss(
    inp: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str | int = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """As torch.nn.functional.cross_entropy, without ever writing the logarithms of the probabilities.

    inp is (classes), (n, classes) or (n, classes, ...); target holds class indices, or a probability for each class.
    `reduction` is "none", "mean" or "sum", or ATen's number for it.
    """
    if reduction not in _REDUCTIONS and reduction not in _REDUCTIONS.values():
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(_REDUCTIONS)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be between 0 and 1")
    if target.dtype.is_floating_point and (target.requires_grad or weight is not None and weight.requires_grad):
        how = next(name for name, number in _REDUCTIONS.items() if reduction in (name, number))
        return torch.nn.functional.cross_entropy(inp, target, weight, None, ignore_index, None, how, label_smoothing)
    return _FORWARD.call(inp, target, weight, _REDUCTIONS.get(reduction, reduction), ignore_index, label_smoothing)[0]
