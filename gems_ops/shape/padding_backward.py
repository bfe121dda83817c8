"""The gradients of padding by reflection and by repeating the edge: each element of the input adds up what came from it.

Padding maps every index of the result to one of the input. Here each element of the input looks the other way: along a
dimension it gathers from its own place and from those that mirror or repeat it. Nothing is written twice, so sums are
the same on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.layout import collapse, contiguous_strides, suggested_format
from gems_ops.op import DOUBLES, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_ops.samples import layouts, values
from gems_ops.shape.padding import edges, refuse_limits
from gems_ops.shape.walk import INTERPRETER_TILE, TILE, Rule
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

# Of a tile, so that most tiles of a long row have no edge in them and read each place once: rows of 1024 in one tile took
# 0.5 ms for 64 x 1024 x 1024 of float32, four times what the memory needs (H200, 2026-11-26); in tiles of 64, 0.24 (H100, 2026-11-27).
COLUMNS = 64


@triton.jit
def _places(j, n, before, after, REFLECT: tl.constexpr):
    """How many places of the padded dimension, at most, took an index among j of the n."""
    if REFLECT:
        mirrored = (j >= 1) & (j <= before) | (j <= n - 2) & (j >= n - 1 - after)
        return 1 + 2 * tl.max(tl.max(mirrored.to(tl.int32), 0), 0)
    else:
        repeats = tl.where(j == 0, before, 0) + tl.where(j == n - 1, after, 0)
        return 1 + tl.max(tl.max(repeats, 0), 0)


@triton.jit
def _place(k, j, n, before, after, REFLECT: tl.constexpr):
    """(place number k of those that took the index j, whether there is such a one)."""
    if REFLECT:
        # its own, the one before the first element, the one after the last
        place = tl.where(k == 0, before + j, tl.where(k == 1, before - j, before + 2 * (n - 1) - j))
        left, right = (j >= 1) & (j <= before), (j <= n - 2) & (j >= n - 1 - after)
        return place, (k == 0) | (k == 1) & left | (k == 2) & right
    else:
        place = tl.where(j == 0, 0, before + j) + k
        return place, place <= before + j + tl.where(j == n - 1, after, 0)


@LibEntry
@triton.jit(do_not_specialize=["size_c", "size_d", "size_h", "before_d", "after_d", "before_h", "after_h", "before_w", "after_w"])
def _fold_kernel(
    grad_ptr, out_ptr, n_rows, n_cols, size_c, size_d, size_h, stride_n, stride_c, stride_d, stride_h, stride_w,
    before_d, after_d, before_h, after_h, before_w, after_w,
    REFLECT: tl.constexpr, DIMS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Rows (n, c, d, h) of w elements, written dense; the strides are the gradient's. Dimensions not padded have size 1."""
    col_blocks = tl.cdiv(n_cols, BLOCK_COLS)
    # int32 throughout: the router lets through no more than 2**31 elements, and three loads of each cost their index arithmetic
    pid = tl.program_id(0)
    # int32 throughout: the router lets through less than 2**31 elements, and each of them takes up to nine places to compute
    pid = tl.program_id(0)
    row = (pid // col_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    w = (pid % col_blocks * BLOCK_COLS + tl.arange(0, BLOCK_COLS))[None, :]
    inside = (row < n_rows) & (w < n_cols)
    h = row % size_h
    d = row // size_h % size_d
    lead = row // size_h // size_d
    start = lead // size_c * stride_n + lead % size_c * stride_c
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for k_d in range(_places(d, size_d, before_d, after_d, REFLECT) if DIMS > 2 else 1):
        at_d, is_d = _place(k_d, d, size_d, before_d, after_d, REFLECT)
        for k_h in range(_places(h, size_h, before_h, after_h, REFLECT) if DIMS > 1 else 1):
            at_h, is_h = _place(k_h, h, size_h, before_h, after_h, REFLECT)
            for k_w in range(_places(w, n_cols, before_w, after_w, REFLECT)):
                at_w, is_w = _place(k_w, w, n_cols, before_w, after_w, REFLECT)
                offset = start + at_d * stride_d + at_h * stride_h + at_w * stride_w
                acc += widen(tl.load(grad_ptr + offset, mask=inside & is_d & is_h & is_w, other=0))
    tl.store(out_ptr + row * n_cols + w, acc.to(out_ptr.dtype.element_ty), mask=inside)


def _plan_fold(
    rule: Rule, dims: int, grad_output: Tensor, self: Tensor, padding: list[int], out: Tensor | None
) -> Planned:
    refuse_limits(rule, self, dims, padding)
    amounts = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    spatial = self.shape[-dims:]
    padded = (*self.shape[:-dims], *(n + a + b for n, (a, b) in zip(spatial, amounts, strict=True)))
    if tuple(grad_output.shape) != padded or grad_output.dtype != self.dtype:
        raise Declined(f"gradients {grad_output.dtype} {tuple(grad_output.shape)} for {self.dtype} {padded}: ATen raises")
    if any(t.dim() in (4, 5) and suggested_format(t) != torch.contiguous_format for t in (self, grad_output)):
        raise Declined("a channels-last tensor: its result's layout differs from device to device")
    if out is not None and not result_buffer(out, self.shape, self.dtype, self.device).is_contiguous():
        raise Declined("out= is not contiguous")
    # all that is not padded, as two dimensions at most
    still = self.shape[:-dims]
    lead, (strides, _) = collapse(still, [grad_output.stride()[:-dims], contiguous_strides(still)])
    lead, strides = [1] * (2 - len(lead)) + lead, [0] * (2 - len(strides)) + strides
    missing = 3 - dims
    sizes = [1] * missing + list(spatial)
    walked = [*strides, *[0] * missing, *grad_output.stride()[-dims:]]
    n_rows, n_cols = prod(lead) * prod(sizes[:-1]), sizes[-1]
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(n_cols), tile if device.interpreted() else COLUMNS)
    block_rows = min(triton.next_power_of_2(n_rows), tile // block_cols)
    plan = Plan("grad_output", "_self", "_padding", out=out)
    result = plan.result(self.shape, self.dtype, self.device)
    plan.launch(
        _fold_kernel, (triton.cdiv(n_rows, block_rows) * triton.cdiv(n_cols, block_cols),), Code("grad_output"), result,
        n_rows, n_cols, lead[1], *sizes[:-1], *walked, *[0, 0] * missing, *(x for pair in amounts for x in pair),
        rule is Rule.REFLECT, dims, block_rows, block_cols, num_warps=max(1, min(8, block_rows * block_cols // 512)),
    )  # fmt: skip
    return plan.build(result)


def _gradients(rule: Rule, dims: int) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for sample in edges(dims, rule is Rule.REFLECT)(dtype):
            self, padding = sample.args
            shape = _padded(self.shape, padding)
            yield Sample((values(shape, dtype, seed=1), self, padding))
        for grad in layouts(tuple(shape), dtype):
            yield Sample((grad, self, padding))

    return make


def _padded(shape: tuple[int, ...], padding: tuple[int, ...]) -> tuple[int, ...]:
    around = [a + b for a, b in zip(padding[::2], padding[1::2], strict=True)][::-1]
    still = len(shape) - len(around)
    return (*shape[:still], *(n + a for n, a in zip(shape[still:], around, strict=True)))


def _bench(dims: int) -> tuple[Workload, ...]:
    shape, padding = (64, 1024, 1024) if dims < 3 else (4, 64, 512, 512), (3, 3) * dims

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like(_padded(shape, padding), dtype, where), random_like(shape, dtype, where), padding), {}

    return (Workload("x".join(map(str, shape)), make),)


def _fold_function(rule: Rule, dims: int) -> None:
    """Declare one of the six: they differ in a rule and in how many dimensions were padded."""

    def plan_fold(grad_output: Tensor, self: Tensor, padding: list[int], out: Tensor | None = None) -> Planned:
        return _plan_fold(rule, dims, grad_output, self, padding, out)

    kind = "reflection" if rule is Rule.REFLECT else "replication"
    plan_fold.__name__ = name = f"{kind}_pad{dims}d_backward"
    plan_fold.__doc__ = f"Sums of the gradients of all that {kind} made of each element; the same bits on every run."
    planned(
        f"aten::{name}", dtypes=DOUBLES, samples=_gradients(rule, dims), bench=_bench(dims),
        opinfo=(f"nn.functional.pad.{'reflect' if rule is Rule.REFLECT else 'replicate'}",),
    )(plan_fold)  # fmt: skip


for _dims in (1, 2, 3):
    _fold_function(Rule.REFLECT, _dims)
    _fold_function(Rule.CLAMP, _dims)
