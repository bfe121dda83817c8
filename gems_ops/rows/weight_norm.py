"""_weight_norm_interface and its gradient: g * v / |v| with one norm for each index of the first or last dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.control import use_gems
from gems_ops.op import DOUBLES, Declined, Sample, plain, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import opmath
from gems_ops.reduce.engine import sm_count
from gems_ops.rows.access import widen, widen_again
from gems_ops.rows.meeting import Share, Shares, meet, meeting, plan_meeting, publish, published, take_place
from gems_ops.rows.tiling import Rows
from gems_runtime import LibEntry

_TILE = 4096  # elements; one tile may hold a whole row
# Of longer rows, which programs share: their elements, of one tensor or of two, in most of the registers.
_ALONE, _ALONG = 1024, (Share(8192, 16, 2),)
_SHARES = Shares(_ALONG, (Share(16384, 16, 2),))
_HALF_SHARES = Shares(_ALONG, (Share(16384, 16, 2, rows=64),))
_GRADIENT_SHARES = Shares(_ALONG, (Share(4096, 8, 4),))
_HALF_GRADIENT_SHARES = Shares(_ALONG, (Share(8192, 8, 4, rows=64),))
_ACROSS = 32  # rows of a tile where neighbours in memory belong to different ones
# Such rows of 16 bits are read twice by one program each, while the second cache (50 MB) holds most of them; then what hides the
# wait is that tiles of so many bytes are copied while others are summed. 4096 x 4096 along dim 1 in us, so and by programs
# that meet: bfloat16 forward 35, 41, backward 57, 60; float32 71, 62 and 108, 91 (H100, 2026-11-27).
_CACHED, _TILE_BYTES, _STAGES = 40 << 20, 8192, 6


@dataclass(frozen=True)
class _Way:
    """Forward or backward: its kernels for a program by itself and for programs that meet, and their shares."""

    alone: LibEntry
    shared: LibEntry
    shares: Shares


@triton.jit
def _tile(first, rows, n_rows, n_cols, s_row, s_col, BLOCK_N: tl.constexpr):
    """Offsets and mask, [BLOCK_R, BLOCK_N]."""
    cols = first + tl.arange(0, BLOCK_N).to(tl.int64)
    return rows[:, None] * s_row + cols[None, :] * s_col, (rows < n_rows)[:, None] & (cols < n_cols)[None, :]


@LibEntry
@triton.jit
def _weight_norm_kernel(
    v_ptr, g_ptr, w_ptr, norm_ptr, n_rows, n_cols, s_row, s_col, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = tl.float64 if v_ptr.dtype.element_ty == tl.float64 else tl.float32
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    squares = tl.zeros((BLOCK_R, BLOCK_N), DTYPE)
    for first in tl.range(0, n_cols, BLOCK_N, num_stages=STAGES):
        at, ok = _tile(first, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
        v = widen(tl.load(v_ptr + at, mask=ok, other=0))
        squares += v * v
    norm = tl.sqrt(tl.sum(squares, 1))
    tl.store(norm_ptr + rows, norm.to(norm_ptr.dtype.element_ty), mask=rows < n_rows)
    scale = widen(tl.load(g_ptr + rows, mask=rows < n_rows, other=0)) / norm
    blocks = tl.cdiv(n_cols, BLOCK_N)
    for step in tl.range(0, blocks, num_stages=STAGES):
        # from the end, which the cache still holds
        first = (blocks - 1 - step) * BLOCK_N
        at, ok = _tile(first, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
        v = widen(tl.load(v_ptr + at, mask=ok, other=0))
        tl.store(w_ptr + at, (v * scale[:, None]).to(w_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _weight_norm_gradient_kernel(
    grad_ptr, v_ptr, g_ptr, norm_ptr, dv_ptr, dg_ptr, n_rows, n_cols, s_row, s_col, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = tl.float64 if v_ptr.dtype.element_ty == tl.float64 else tl.float32
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_ok = rows < n_rows
    products = tl.zeros((BLOCK_R, BLOCK_N), DTYPE)
    for first in tl.range(0, n_cols, BLOCK_N, num_stages=STAGES):
        at, ok = _tile(first, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
        products += widen(tl.load(grad_ptr + at, mask=ok, other=0)) * widen(tl.load(v_ptr + at, mask=ok, other=0))
    norm = widen(tl.load(norm_ptr + rows, mask=row_ok, other=1))
    along = tl.sum(products, 1) / norm
    tl.store(dg_ptr + rows, along.to(dg_ptr.dtype.element_ty), mask=row_ok)
    scale = widen(tl.load(g_ptr + rows, mask=row_ok, other=0)) / norm
    along = along / norm
    blocks = tl.cdiv(n_cols, BLOCK_N)
    for step in tl.range(0, blocks, num_stages=STAGES):
        # from the end, which the cache still holds
        first = (blocks - 1 - step) * BLOCK_N
        at, ok = _tile(first, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
        grad = widen(tl.load(grad_ptr + at, mask=ok, other=0))
        v = widen(tl.load(v_ptr + at, mask=ok, other=0))
        tl.store(dv_ptr + at, ((grad - v * along[:, None]) * scale[:, None]).to(dv_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _shared_weight_norm_kernel(
    v_ptr, g_ptr, w_ptr, norm_ptr, counters_ptr, total_ptr,
    n_rows, n_cols, s_row, s_col, parts, PARTS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows whose parts are held by programs that meet."""
    group, part = take_place(counters_ptr, parts)
    rows = group * BLOCK_R + tl.arange(0, BLOCK_R)
    at, ok = _tile(part * BLOCK_N, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
    v_in = tl.load(v_ptr + at, mask=ok, other=0)
    v = widen(v_in)
    publish(total_ptr, group, part, parts, tl.sum(v * v, 1))
    meet(counters_ptr, group, parts, 1)
    norm = tl.sqrt(tl.sum(published(total_ptr, group, parts, 0.0, BLOCK_R, PARTS), 1))
    tl.store(norm_ptr + rows, norm.to(norm_ptr.dtype.element_ty), mask=(rows < n_rows) & (part == 0))
    scale = widen(tl.load(g_ptr + rows, mask=rows < n_rows, other=0)) / norm
    tl.store(w_ptr + at, (widen_again(v_in) * scale[:, None]).to(w_ptr.dtype.element_ty), mask=ok)


@LibEntry
@triton.jit
def _shared_weight_norm_gradient_kernel(
    grad_ptr, v_ptr, g_ptr, norm_ptr, dv_ptr, dg_ptr, counters_ptr, total_ptr,
    n_rows, n_cols, s_row, s_col, parts, PARTS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Rows whose parts are held by programs that meet."""
    group, part = take_place(counters_ptr, parts)
    rows = group * BLOCK_R + tl.arange(0, BLOCK_R)
    row_ok = rows < n_rows
    at, ok = _tile(part * BLOCK_N, rows, n_rows, n_cols, s_row, s_col, BLOCK_N)
    grad_in, v_in = tl.load(grad_ptr + at, mask=ok, other=0), tl.load(v_ptr + at, mask=ok, other=0)
    publish(total_ptr, group, part, parts, tl.sum(widen(grad_in) * widen(v_in), 1))
    meet(counters_ptr, group, parts, 1)
    norm = widen(tl.load(norm_ptr + rows, mask=row_ok, other=1))
    along = tl.sum(published(total_ptr, group, parts, 0.0, BLOCK_R, PARTS), 1) / norm
    tl.store(dg_ptr + rows, along.to(dg_ptr.dtype.element_ty), mask=row_ok & (part == 0))
    scale = widen(tl.load(g_ptr + rows, mask=row_ok, other=0)) / norm
    dv = (widen_again(grad_in) - widen_again(v_in) * (along / norm)[:, None]) * scale[:, None]
    tl.store(dv_ptr + at, dv.to(dv_ptr.dtype.element_ty), mask=ok)


def _rows(v: Tensor, g: Tensor, dim: int, *others: Tensor) -> tuple[int, int, int, int]:
    """(rows, columns, their strides). Declines what is not contiguous, or a norm of other dimensions."""
    if dim not in (0, v.dim() - 1) or v.dim() < 2 or g.numel() != v.shape[dim] or g.dtype != v.dtype:
        raise Declined(f"norms of dimension {dim} for {tuple(v.shape)}, with {g.dtype} {tuple(g.shape)}")
    if not all(t.is_contiguous() for t in (v, g, *others)):
        raise Declined("a tensor is not contiguous")
    n = v.shape[dim]
    rest = v.numel() // n
    return (n, rest, rest, 1) if dim == 0 else (n, rest, 1, n)


def _launch(plan: Plan, way: _Way, v: Tensor, tensors: tuple[Code, ...], rows: tuple[int, int, int, int]) -> None:
    n_rows, n_cols, s_row, s_col = rows
    across = s_row == 1
    kept = across and v.itemsize == 2 and v.nbytes <= _CACHED and triton.cdiv(n_rows, _ACROSS) >= 3 * sm_count() // 4
    m = meeting(Rows(n_rows, n_cols, 1), (s_row, 0, s_col), v.dtype, way.shares) if n_cols > _ALONE and not kept else None
    if m is not None:
        tensors = (*tensors, *plan_meeting(plan, m, v.device, "total"))
        blocks = (m.padded_parts, m.block_r, m.block_n)
        plan.launch(way.shared, (m.programs,), *tensors, *rows, m.parts, *blocks, **m.share.options)
        return
    columns = triton.next_power_of_2(n_cols)
    if across:
        block_r = min(_ACROSS, triton.next_power_of_2(n_rows))
        block_n, stages = min(columns, _TILE_BYTES // (block_r * v.itemsize)), _STAGES
    else:
        block_n, stages = min(columns, _TILE), 1
        block_r = max(1, min(triton.next_power_of_2(n_rows), _TILE // 4 // block_n))
    plan.launch(way.alone, (triton.cdiv(n_rows, block_r),), *tensors, *rows, block_r, block_n, stages, num_warps=8)


def _problems(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, int]]:
    for shape in ((3, 5), (2, 3, 4), (70, 40), (4, 5000), (5000, 4)):
        for dim in (0, len(shape) - 1):
            sizes = tuple(n if d == dim else 1 for d, n in enumerate(shape))
            yield samples.values(shape, dtype), samples.values(sizes, dtype, seed=1), dim


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for v, g, dim in _problems(dtype):
        yield Sample((v, g, dim))


def _backward_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for v, g, dim in _problems(dtype):
        norms = torch._weight_norm_interface(v, g, dim)[1]
        yield Sample((samples.values(tuple(v.shape), dtype, seed=2), v, g, norms, dim))


def _bench(backward: bool, dim: int) -> workloads.Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        v, grad = (workloads.random_like((4096, 4096), dtype, where) for _ in range(2))
        g = workloads.random_like((4096, 1) if dim == 0 else (1, 4096), dtype, where)
        if not backward:
            return (v, g, dim), {}
        return (grad, v, g, torch._weight_norm_interface(v, g, dim)[1], dim), {}

    return workloads.Workload(f"4096x4096 dim {dim}", make)


@planned("aten::_weight_norm_interface", dtypes=DOUBLES, samples=_samples, bench=(_bench(False, 0), _bench(False, 1)), wide=True)
def weight_norm_interface(v: Tensor, g: Tensor, dim: int) -> Planned:
    """g * v / |v| and |v|, over all dimensions but dim."""
    rows = _rows(v, g, dim)
    plan = Plan("v", "g", "_dim")
    plan.has("v", v)
    w, norms = plan.empty("w", v.shape, v.dtype, v.device), plan.empty("norms", g.shape, opmath(v.dtype), v.device)
    shares = _HALF_SHARES if v.itemsize == 2 else _SHARES
    way = _Way(_weight_norm_kernel, _shared_weight_norm_kernel, shares)
    _launch(plan, way, v, (Code("v"), Code("g"), w, norms), rows)
    return plan.build("w, norms")


@planned(
    "aten::_weight_norm_interface_backward", dtypes=DOUBLES, argument_dtypes={"saved_norms": DOUBLES}, samples=_backward_samples,
    bench=(_bench(True, 0), _bench(True, 1)), wide=True,
)  # fmt: skip
def weight_norm_interface_backward(grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> Planned:
    """Gradients of weight_norm for v and g."""
    rows = _rows(v, g, dim, grad, norms)
    if grad.shape != v.shape or grad.dtype != v.dtype or norms.shape != g.shape or norms.dtype != opmath(v.dtype):
        raise Declined(f"a gradient of {grad.dtype} {tuple(grad.shape)} for {v.dtype} {tuple(v.shape)}")
    plan = Plan("grad", "v", "g", "norms", "_dim")
    plan.has("v", v)
    dv, dg = plan.empty("dv", v.shape, v.dtype, v.device), plan.empty("dg", g.shape, g.dtype, v.device)
    shares = _HALF_GRADIENT_SHARES if v.itemsize == 2 else _GRADIENT_SHARES
    way = _Way(_weight_norm_gradient_kernel, _shared_weight_norm_gradient_kernel, shares)
    _launch(plan, way, v, (Code("grad"), Code("v"), Code("g"), Code("norms"), dv, dg), rows)
    return plan.build("dv, dg")


@plain
def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g * v over the norm of v over all dimensions but dim."""
    with use_gems(include=["aten::_weight_norm_interface"], extend=True):
        return torch._weight_norm(v, g, dim)


@plain
def instance_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
) -> Tensor:
    """Every channel of every image moved to mean 0 and scaled to variance 1, times weight plus bias, as torch.instance_norm."""
    with use_gems(include=["native_batch_norm", "cudnn_batch_norm"], extend=True):
        return torch.instance_norm(
            input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enable
        )
