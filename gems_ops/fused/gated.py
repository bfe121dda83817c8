"""Gates of feed-forward layers, gate(a) * b, and their gradients; of them silu_and_mul."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.fused.custom import CustomOp, wide
from gems_ops.layout import collapse, contiguous_strides
from gems_ops.op import FLOATS, Declined, Sample, plain
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


@triton.jit
def _gate(a, GATE: tl.constexpr):
    """(gate(a), its derivative) for silu, gelu or gelu by tanh."""
    if GATE == "silu":
        half = tl.sigmoid(a)
        return a * half, half * (1 + a * (1 - half))
    elif GATE == "none":
        below = 0.5 + 0.5 * tl.erf(a * 0.7071067811865476)
        return a * below, below + a * tl.exp(-0.5 * a * a) * 0.3989422804014327
    else:
        tl.static_assert(GATE == "tanh", "unknown gate")
        # 0.5 * (1 + tanh(z)) is sigmoid(2 * z)
        below = tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
        return a * below, below + a * below * (1 - below) * 1.5957691216057308 * (1 + 0.134145 * a * a)


@LibEntry
@triton.jit
def _gate_and_mul_kernel(
    a_ptr, b_ptr, out_ptr, n_rows, n_cols, a_stride, b_stride, out_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    row, col, mask = _tile(n_rows, n_cols, ROWS, COLS)
    a = tl.load(a_ptr + row * a_stride + col, mask=mask, other=0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + col, mask=mask, other=0).to(tl.float32)
    gated, _ = _gate(a, GATE)
    tl.store(out_ptr + row * out_stride + col, gated * b, mask=mask)


@LibEntry
@triton.jit
def _gate_and_mul_backward_kernel(
    grad_ptr, a_ptr, b_ptr, da_ptr, db_ptr, n_rows, n_cols, grad_stride, a_stride, b_stride, da_stride, db_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    row, col, mask = _tile(n_rows, n_cols, ROWS, COLS)
    grad = tl.load(grad_ptr + row * grad_stride + col, mask=mask, other=0).to(tl.float32)
    a = tl.load(a_ptr + row * a_stride + col, mask=mask, other=0).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + col, mask=mask, other=0).to(tl.float32)
    gated, slope = _gate(a, GATE)
    tl.store(da_ptr + row * da_stride + col, grad * b * slope, mask=mask)
    tl.store(db_ptr + row * db_stride + col, grad * gated, mask=mask)


def _launch(plan: Plan, kernel: LibEntry, names: str, tensors: tuple[Tensor, ...], n_results: int, gate: str) -> None:
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
    plan.launch(kernel, grid, *map(Code, names.split()), rows, cols, *row_strides, block_rows, block_cols, gate)


def plan_gate(plan: Plan, a: Tensor, b: Tensor, gate: str) -> Planned:
    """gate(a) * b for tensors of one shape that the plan calls a and b."""
    _launch(plan, _gate_and_mul_kernel, "a b out", (a, b), 1, gate)
    return plan.build("out")


def plan_gate_backward(plan: Plan, grad: Tensor, a: Tensor, b: Tensor, gate: str) -> Planned:
    """The gradients of gate(a) * b for a and b; the plan calls the tensors grad, a and b."""
    if not grad.is_contiguous():  # it may be expanded (that of sum() is one number), which rows are not
        plan.do("grad = grad.contiguous()")
        grad = torch.empty(grad.shape, dtype=grad.dtype, device="meta")
    _launch(plan, _gate_and_mul_backward_kernel, "grad a b da db", (grad, a, b), 2, gate)
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


def gate_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (7,), (3, 5), (2, 3, 64), (1, 129)):
        yield Sample((values(shape, dtype), values(shape, dtype, seed=1)))
    a, b = values((4, 6, 20), dtype).chunk(2, -1)
    yield Sample((a, b))
    for x in layouts((6, 10), dtype):
        yield Sample((x, values((6, 10), dtype, seed=1)))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for sample in gate_samples(dtype):
        yield Sample((values(tuple(sample.args[0].shape), dtype, seed=2), *sample.args))
    yield Sample((values((1, 1), dtype).expand(3, 5), values((3, 5), dtype), values((3, 5), dtype, seed=1)))


def gate_bench(inputs: int, m: int, n: int, *extra: str) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (*(random_like((m, n), dtype, where) for _ in range(inputs)), *extra), {}

    return Workload(f"{m}x{n}", make)


_BACKWARD = CustomOp(
    name="gems::silu_and_mul_backward",
    schema="(Tensor grad, Tensor a, Tensor b) -> (Tensor, Tensor)",
    plan=lambda grad, a, b: plan_gate_backward(Plan("grad", "a", "b"), grad, a, b, "silu"),
    formula=_backward_formula,
    fake=lambda grad, a, b: (a.new_empty(a.shape), a.new_empty(a.shape)),
    dtypes=FLOATS,
    samples=_backward_samples,
    bench=(gate_bench(3, 8192, 11008),),
).define()


@_BACKWARD.declare()
def silu_and_mul_backward(grad: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803  as silu_and_mul
    """Gradients of silu_and_mul for A and B of one shape and dtype."""
    return _BACKWARD.call(grad, A, B)


_FORWARD = CustomOp(
    name="gems::silu_and_mul",
    schema="(Tensor a, Tensor b) -> Tensor",
    plan=lambda a, b: plan_gate(Plan("a", "b"), a, b, "silu"),
    formula=_formula,
    fake=lambda a, b: a.new_empty(a.shape),
    save=_save,
    gradient=_gradient,
    dtypes=FLOATS,
    samples=gate_samples,
    bench=(gate_bench(2, 8192, 11008), gate_bench(2, 1, 11008)),
).define()


@_FORWARD.declare()
def silu_and_mul(A: Tensor, B: Tensor) -> Tensor:  # noqa: N803  the names that users of such functions know
    """silu(A) * B, computed in float32; shapes broadcast and dtypes promote."""
    return _FORWARD.call(*alike(A, B))


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape and dtype."""
    if a.shape != b.shape or a.dtype != b.dtype:
        dtype = torch.promote_types(a.dtype, b.dtype)
        a, b = torch.broadcast_tensors(a.to(dtype), b.to(dtype))
    return a, b


@plain
def silu_and_mul_out(A: Tensor, B: Tensor, out: Tensor) -> Tensor:  # noqa: N803  as silu_and_mul
    """silu(A) * B in `out`, which it gives back; not differentiable."""
    with torch.no_grad():
        return out.copy_(silu_and_mul(A, B))
