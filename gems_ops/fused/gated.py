"""silu_and_mul, the gate of a Llama feed-forward layer, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.layout import collapse, contiguous_strides
from gems_ops.op import FLOATS, Declined, Sample
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

TILE = 2048  # elements of a program: 16 per thread of 4 warps
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element


@triton.jit
def _tile(n_rows, n_cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Row and column numbers of this program's tile, and which of them exist."""
    blocks = tl.cdiv(n_cols, COLS)
    row = ((tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = ((tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS))[None, :]
    return row, col, (row < n_rows) & (col < n_cols)


@LibEntry
@triton.jit
def _silu_and_mul_kernel(
    a_ptr, b_ptr, out_ptr, n_rows, n_cols, a_stride, b_stride, out_stride, ROWS: tl.constexpr, COLS: tl.constexpr
):
    row, col, mask = _tile(n_rows, n_cols, ROWS, COLS)
    a = tl.load(a_ptr + row * a_stride + col, mask=mask, other=0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + col, mask=mask, other=0).to(tl.float32)
    tl.store(out_ptr + row * out_stride + col, a * tl.sigmoid(a) * b, mask=mask)


@LibEntry
@triton.jit
def _silu_and_mul_backward_kernel(
    grad_ptr, a_ptr, b_ptr, da_ptr, db_ptr, n_rows, n_cols, grad_stride, a_stride, b_stride, da_stride, db_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = _tile(n_rows, n_cols, ROWS, COLS)
    grad = tl.load(grad_ptr + row * grad_stride + col, mask=mask, other=0).to(tl.float32)
    a = tl.load(a_ptr + row * a_stride + col, mask=mask, other=0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + col, mask=mask, other=0).to(tl.float32)
    gate = tl.sigmoid(a)
    tl.store(da_ptr + row * da_stride + col, grad * b * gate * (1 + a * (1 - gate)), mask=mask)
    tl.store(db_ptr + row * db_stride + col, grad * a * gate, mask=mask)


def _launch(plan: Plan, kernel: LibEntry, names: str, tensors: tuple[Tensor, ...], n_results: int) -> None:
    """Plan a kernel over tensors of one shape, as rows: its pointers, (rows, columns), then a row stride each.

    The results are new tensors, the last of `names`.
    """
    like = tensors[-1]
    if any(t.shape != like.shape or t.dtype != like.dtype for t in tensors):
        raise Declined("shapes or dtypes differ")
    sizes, strides = collapse(like.shape, [t.stride() for t in tensors] + [contiguous_strides(like.shape)] * n_results)
    if len(sizes) > 2 or any(s and s[-1] != 1 for s in strides):
        raise Declined("the tensors are not rows of dense elements")
    rows, cols = ([1, 1] + sizes)[-2:]
    row_strides = [s[0] if len(s) == 2 else 0 for s in strides]
    for name in names.split()[-n_results:]:
        plan.empty(name, like.shape, like.dtype, like.device)
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(cols), tile)
    block_rows = min(triton.next_power_of_2(rows), tile // block_cols)
    grid = (triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols),)
    plan.launch(kernel, grid, *map(Code, names.split()), rows, cols, *row_strides, block_rows, block_cols)


def _plan(a: Tensor, b: Tensor) -> Planned:
    plan = Plan("a", "b")
    _launch(plan, _silu_and_mul_kernel, "a b out", (a, b), 1)
    return plan.build("out")


def _plan_backward(grad: Tensor, a: Tensor, b: Tensor) -> Planned:
    plan = Plan("grad", "a", "b")
    if not grad.is_contiguous():  # it may be expanded (that of sum() is one number), which rows are not
        plan.do("grad = grad.contiguous()")
        grad = torch.empty(grad.shape, dtype=grad.dtype, device="meta")
    _launch(plan, _silu_and_mul_backward_kernel, "grad a b da db", (grad, a, b), 2)
    return plan.build("da, db")


def _formula(a: Tensor, b: Tensor) -> Tensor:
    return (wide(a) * torch.sigmoid(wide(a)) * wide(b)).to(a.dtype).contiguous()


def _backward_formula(grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x, y, g = wide(a), wide(b), wide(grad)
    gate = torch.sigmoid(x)
    da, db = g * y * gate * (1 + x * (1 - gate)), g * x * gate
    return da.to(a.dtype).contiguous(), db.to(a.dtype).contiguous()


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.gems.silu_and_mul_backward(grad, *ctx.saved_tensors)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (7,), (3, 5), (2, 3, 64), (1, 129)):
        yield Sample((values(shape, dtype), values(shape, dtype, seed=1)))
    a, b = values((4, 6, 20), dtype).chunk(2, -1)
    yield Sample((a, b))
    for x in layouts((6, 10), dtype):
        yield Sample((x, values((6, 10), dtype, seed=1)))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _samples(dtype):
        yield Sample((values(tuple(sample.args[0].shape), dtype, seed=2), *sample.args))
    yield Sample((values((1, 1), dtype).expand(3, 5), values((3, 5), dtype), values((3, 5), dtype, seed=1)))


def _bench(inputs: int, m: int, n: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return tuple(random_like((m, n), dtype, where) for _ in range(inputs)), {}

    return Workload(f"{m}x{n}", make)


_BACKWARD = CustomOp(
    name="gems::silu_and_mul_backward",
    schema="(Tensor grad, Tensor a, Tensor b) -> (Tensor, Tensor)",
    plan=_plan_backward,
    formula=_backward_formula,
    fake=lambda grad, a, b: (a.new_empty(a.shape), a.new_empty(a.shape)),
    dtypes=FLOATS,
    samples=_backward_samples,
    bench=(_bench(3, 8192, 11008),),
).define()


@_BACKWARD.declare()
def silu_and_mul_backward(grad: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803  as silu_and_mul
    """Gradients of silu_and_mul for A and B of one shape and dtype."""
    return _BACKWARD.call(grad, A, B)


_FORWARD = CustomOp(
    name="gems::silu_and_mul",
    schema="(Tensor a, Tensor b) -> Tensor",
    plan=_plan,
    formula=_formula,
    fake=lambda a, b: a.new_empty(a.shape),
    save=_save,
    gradient=_gradient,
    dtypes=FLOATS,
    samples=_samples,
    bench=(_bench(2, 8192, 11008), _bench(2, 1, 11008)),
).define()


@_FORWARD.declare()
def silu_and_mul(A: Tensor, B: Tensor) -> Tensor:  # noqa: N803  the names that users of such functions know
    """silu(A) * B, computed in float32; shapes broadcast and dtypes promote."""
    if A.shape != B.shape or A.dtype != B.dtype:
        dtype = torch.promote_types(A.dtype, B.dtype)
        A, B = torch.broadcast_tensors(A.to(dtype), B.to(dtype))  # noqa: N806
    return _FORWARD.call(A, B)
