"""rms_norm and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.op import FLOATS, Sample
from gems_ops.plan import Code, Plan, Planned
from gems_ops.reduce.engine import add_rows, sm_count
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry

# Longest row that a program holds in registers: 64 elements a thread of 16 warps forward; backward holds four such
# rows (x, gradient, weight and its gradient), so fewer.
ONE_PASS = 32768
ONE_PASS_BACKWARD = 8192
LOOP_BLOCK = 8192
TILE = 2048  # elements of a program where rows are short
PROGRAMS_PER_SM = 2  # each leaves one partial row of the weight's gradient


@triton.jit
def _load_row(ptr, row, stride_row, col, mask):
    return tl.load(ptr + (row * stride_row)[:, None] + col[None, :], mask=mask, other=0).to(tl.float32)


@LibEntry
@triton.jit
def _rms_norm_kernel(
    x_ptr, weight_ptr, y_ptr, n_rows, n, x_stride_row, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_PASS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = (row < n_rows)[:, None]
    if ONE_PASS:
        col = tl.arange(0, BLOCK)
        mask = in_rows & (col < n)[None, :]
        x = _load_row(x_ptr, row, x_stride_row, col, mask)
        scale = tl.rsqrt(tl.sum(x * x, 1) / n + eps)
        weight = tl.load(weight_ptr + col, mask=col < n, other=0).to(tl.float32)
        tl.store(y_ptr + (row * n)[:, None] + col[None, :], x * scale[:, None] * weight[None, :], mask=mask)
    else:
        squares = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, n, BLOCK):
            col = start + tl.arange(0, BLOCK)
            x = _load_row(x_ptr, row, x_stride_row, col, in_rows & (col < n)[None, :])
            squares += x * x
        scale = tl.rsqrt(tl.sum(squares, 1) / n + eps)
        for start in range(0, n, BLOCK):
            col = start + tl.arange(0, BLOCK)
            mask = in_rows & (col < n)[None, :]
            x = _load_row(x_ptr, row, x_stride_row, col, mask)
            weight = tl.load(weight_ptr + col, mask=col < n, other=0).to(tl.float32)
            tl.store(y_ptr + (row * n)[:, None] + col[None, :], x * scale[:, None] * weight[None, :], mask=mask)


@LibEntry
@triton.jit
def _rms_norm_backward_kernel(
    grad_ptr, x_ptr, weight_ptr, dx_ptr, partial_ptr, n_rows, n, grad_stride_row, x_stride_row, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx, and for each program the sum of its rows' contributions to the weight's gradient."""
    col = tl.arange(0, BLOCK)
    in_row = col < n
    weight = tl.load(weight_ptr + col, mask=in_row, other=0).to(tl.float32)
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n_rows)[:, None] & in_row[None, :]
        x = _load_row(x_ptr, row, x_stride_row, col, mask)
        grad = _load_row(grad_ptr, row, grad_stride_row, col, mask)
        scale = tl.rsqrt(tl.sum(x * x, 1) / n + eps)[:, None]
        x = x * scale
        acc += grad * x
        grad = grad * weight[None, :]
        mean = tl.sum(grad * x, 1)[:, None] / n
        tl.store(dx_ptr + (row * n)[:, None] + col[None, :], (grad - x * mean) * scale, mask=mask)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * n + col, tl.sum(acc, 0), mask=in_row)


@LibEntry
@triton.jit
def _rms_norm_dx_kernel(
    grad_ptr, x_ptr, weight_ptr, dx_ptr, scale_ptr, n, grad_stride_row, x_stride_row, eps, BLOCK: tl.constexpr
):
    """dx of one long row, read twice; keeps the row's scale for `_rms_norm_dweight_kernel`."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    products = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * x_stride_row + col, mask=col < n, other=0).to(tl.float32)
        grad = tl.load(grad_ptr + row * grad_stride_row + col, mask=col < n, other=0).to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=col < n, other=0).to(tl.float32)
        squares += x * x
        products += x * grad * weight
    scale = tl.rsqrt(tl.sum(squares, 0) / n + eps)
    mean = tl.sum(products, 0) * scale / n
    tl.store(scale_ptr + row, scale)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * x_stride_row + col, mask=col < n, other=0).to(tl.float32)
        grad = tl.load(grad_ptr + row * grad_stride_row + col, mask=col < n, other=0).to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=col < n, other=0).to(tl.float32)
        tl.store(dx_ptr + row * n + col, (grad * weight - x * scale * mean) * scale, mask=col < n)


@LibEntry
@triton.jit
def _rms_norm_dweight_kernel(
    grad_ptr, x_ptr, scale_ptr, partial_ptr, n_rows, n, grad_stride_row, x_stride_row, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Partial sums over rows of grad * x * scale. Grid: (blocks of columns, partial rows)."""
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(tl.program_id(1) * ROWS, n_rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n_rows)[:, None] & (col < n)[None, :]
        scale = tl.load(scale_ptr + row, mask=row < n_rows, other=0)
        acc += _load_row(grad_ptr, row, grad_stride_row, col, mask) * _load_row(x_ptr, row, x_stride_row, col, mask) * scale[:, None]
    tl.store(partial_ptr + tl.program_id(1).to(tl.int64) * n + col, tl.sum(acc, 0), mask=col < n)


def _rows(plan: Plan, name: str, t: Tensor, n: int) -> int:
    """Make the plan's tensor `name` a matrix of rows of n dense elements, a copy only where strides allow no view.

    Returns the stride of its rows.
    """
    stand_in = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
    try:
        rows = stand_in.view(-1, n)
    except RuntimeError:  # torch's answer for strides that allow no view
        rows = None
    if rows is not None and (rows.stride(1) == 1 or n == 1):
        return rows.stride(0)
    plan.do(f"{name} = {name}.contiguous()")
    return n


def _warps(elements: int) -> int:
    return max(1, min(16, elements // 512))


def _dense(plan: Plan, name: str, t: Tensor) -> None:
    if not t.is_contiguous():
        plan.do(f"{name} = {name}.contiguous()")


def _plan(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float) -> Planned:
    plan, n = Plan("x", "_normalized_shape", "weight", "eps"), weight.numel()
    m = x.numel() // n
    stride = _rows(plan, "x", x, n)
    _dense(plan, "weight", weight)
    y = plan.empty("y", x.shape, x.dtype, x.device)
    one_pass = n <= ONE_PASS
    block = triton.next_power_of_2(n) if one_pass else LOOP_BLOCK
    per_program = max(1, min(TILE // block, triton.next_power_of_2(m))) if block < TILE else 1
    plan.launch(
        _rms_norm_kernel, (triton.cdiv(m, per_program),),
        Code("x"), Code("weight"), y, m, n, stride, Code("eps"), per_program, block, one_pass,
        num_warps=_warps(per_program * block),
    )  # fmt: skip
    return plan.build(y)


def _plan_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Planned:
    plan, n = Plan("grad", "x", "weight", "eps"), weight.numel()
    strides = _rows(plan, "grad", grad, n), _rows(plan, "x", x, n)
    _dense(plan, "weight", weight)
    dx = plan.empty("dx", x.shape, x.dtype, x.device)
    backward = _one_pass_backward if n <= ONE_PASS_BACKWARD else _loop_backward
    programs = backward(plan, x.numel() // n, n, strides, x.device)
    dweight = plan.empty("dweight", weight.shape, weight.dtype, weight.device)
    add_rows(plan, Code("partial"), dweight, (programs, n), x.device)
    return plan.build(f"{dx}, {dweight}")


def _one_pass_backward(plan: Plan, m: int, n: int, strides: tuple[int, int], where: torch.device) -> int:
    """Plans to write dx, and the weight's gradient in partial rows; returns how many."""
    block = triton.next_power_of_2(n)
    per_program = max(1, min(TILE // block, triton.next_power_of_2(m))) if block < TILE else 1
    programs = min(triton.cdiv(m, per_program), PROGRAMS_PER_SM * sm_count())
    partial = plan.empty("partial", (programs, n), torch.float32, where)
    plan.launch(
        _rms_norm_backward_kernel, (programs,),
        Code("grad"), Code("x"), Code("weight"), Code("dx"), partial, m, n, *strides, Code("eps"), per_program, block,
        num_warps=_warps(per_program * block),
    )  # fmt: skip
    return programs


def _loop_backward(plan: Plan, m: int, n: int, strides: tuple[int, int], where: torch.device) -> int:
    """As `_one_pass_backward`, for rows that no program can hold."""
    scale = plan.empty("scale", (m,), torch.float32, where)
    plan.launch(
        _rms_norm_dx_kernel, (m,),
        Code("grad"), Code("x"), Code("weight"), Code("dx"), scale, n, *strides, Code("eps"), LOOP_BLOCK // 2, num_warps=8,
    )  # fmt: skip
    blocks = triton.cdiv(n, 256)
    programs = max(1, min(triton.cdiv(m, 16), 4 * sm_count() // blocks))
    partial = plan.empty("partial", (programs, n), torch.float32, where)
    plan.launch(
        _rms_norm_dweight_kernel, (blocks, programs),
        Code("grad"), Code("x"), scale, partial, m, n, *strides, 16, 256, num_warps=8,
    )  # fmt: skip
    return programs


def _formula(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    scale = torch.rsqrt(wide(x).square().mean(dims, keepdim=True) + eps)
    return (wide(x) * scale * wide(weight)).to(x.dtype).contiguous()


def _backward_formula(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dims, lead = tuple(range(-weight.dim(), 0)), tuple(range(x.dim() - weight.dim()))
    scale = torch.rsqrt(wide(x).square().mean(dims, keepdim=True) + eps)
    x_hat, by_weight = wide(x) * scale, wide(grad) * wide(weight)
    dx = (by_weight - x_hat * (by_weight * x_hat).mean(dims, keepdim=True)) * scale
    dweight = wide(grad) * x_hat
    dweight = dweight.sum(lead) if lead else dweight
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype).contiguous()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, _, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dx, dweight = torch.ops.gems.rms_norm_backward(grad, x, weight, ctx.eps)
    return dx, None, dweight, None


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((7,), (3, 5), (2, 3, 64), (1, 129), (33, 1)):
        yield Sample((values(shape, dtype), [shape[-1]], values(shape[-1:], dtype, seed=1)), {"eps": 1e-5})
    for x in layouts((6, 10), dtype):
        yield Sample((x, [10], values((10,), dtype, seed=1), 1e-6))
    yield Sample((values((2, 3, 4, 5), dtype), [4, 5], values((4, 5), dtype, seed=1), 1e-5))
    if dtype == torch.bfloat16:
        yield Sample((values((1, ONE_PASS + 100), dtype), [ONE_PASS + 100], values((ONE_PASS + 100,), torch.float32, seed=1), 1e-5))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        x, _, weight, *eps = sample.args
        yield Sample((values(tuple(x.shape), dtype, seed=2), x, weight, *(eps or [1e-5])))
    n = ONE_PASS_BACKWARD + 100
    if dtype == torch.float32:
        yield Sample((values((3, n), dtype, seed=2), values((3, n), dtype), values((n,), dtype, seed=1), 1e-5))


def _bench(m: int, n: int, backward: bool = False) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, weight = random_like((m, n), dtype, where), random_like((n,), dtype, where)
        return ((random_like((m, n), dtype, where), x, weight, 1e-5) if backward else (x, [n], weight, 1e-5)), {}

    return Workload(f"{m}x{n}", make)


_BACKWARD = CustomOp(
    name="gems::rms_norm_backward",
    schema="(Tensor grad, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    plan=_plan_backward,
    formula=_backward_formula,
    fake=lambda grad, x, weight, eps: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
    dtypes=FLOATS,
    samples=_backward_samples,
    bench=(_bench(16384, 4096, True), _bench(2048, 16384, True)),
).define()


@_BACKWARD.declare()
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of rms_norm for x and weight."""
    return _BACKWARD.call(grad, x, weight, eps)


_FORWARD = CustomOp(
    name="gems::rms_norm",
    schema="(Tensor x, int[] normalized_shape, Tensor weight, float eps=1e-05) -> Tensor",
    plan=_plan,
    formula=_formula,
    fake=lambda x, normalized_shape, weight, eps: x.new_empty(x.shape),
    save=_save,
    gradient=_gradient,
    dtypes=FLOATS,
    samples=_samples,
    bench=(_bench(16384, 4096), _bench(1, 4096), _bench(1000000, 64), _bench(512, 65536)),
).define()


@_FORWARD.declare()
def rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions, which are `normalized_shape`; computed in float32."""
    shape = tuple(normalized_shape)
    if tuple(x.shape[-len(shape) :]) != shape or tuple(weight.shape) != shape:
        raise ValueError(f"normalized_shape {shape} must be weight's shape {tuple(weight.shape)} and end x's {tuple(x.shape)}")
    return _FORWARD.call(x, shape, weight, eps)
