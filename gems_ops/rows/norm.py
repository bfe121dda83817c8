"""Plans layer norm and RMS norm over the last dimensions, forward and backward, for operators that name their tensors alike.

A plan's parameters are called x, residual, weight, bias, grad, dsum, mean, rstd and eps; a tensor that is None is not
one of them. No atomics: gradients of weight and bias have the same bits on every run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
import triton
from torch import Tensor

from gems_ops.op import Declined
from gems_ops.plan import Code, Plan
from gems_ops.promote import opmath
from gems_ops.reduce.engine import sm_count
from gems_ops.rows.meeting import Meeting, Share, Shares, meeting, meeting_of, plan_meeting
from gems_ops.rows.norm_kernels import (
    _add_columns_kernel,
    _long_norm_gradient_kernel,
    _long_norm_kernel,
    _norm_columns_kernel,
    _norm_gradient_kernel,
    _norm_kernel,
)
from gems_ops.rows.norm_meeting import _shared_norm_gradient_kernel, _shared_norm_kernel
from gems_ops.rows.tiling import Rows, most_warps
from gems_runtime import device

# Longest row that a program holds in registers: 64 elements a thread of 16 warps forward; backward holds four such
# rows (x, gradient, and the gradients of weight and bias), so fewer.
WHOLE = 32768
WHOLE_GRADIENT = 8192
LONG_BLOCK = 8192
# Columns up to which a row that takes 32 bits an element is one program's; beyond, and of 16 bits beyond WHOLE, programs share it.
# 32 warps hold 32768 of 16 bits: layer norm 106 us and 124 shared, RMS norm 97 and 108 (2048 x 32768, bfloat16), but in
# float32 227 and 204. A layer norm of fewer than FULL keeps too many of their lanes idle: 135 and 123 (3200 x 20480), 121 and
# 124 (2720 x 24576; H100, 2026-11-27).
ALONE, FULL = 16384, 24576
# Weight and bias are read, and held, for several rows at a time. The second share is for the longest rows. Layer norm: 217 us
# and 289 with two reads (512 x 131072), 213 and 218 with one program a row (2048 x 32768; float32, H100, 2026-11-27).
SHARES = Shares((Share(8192, 8, 3, rows=2),))
HALF_SHARES = Shares((Share(16384, 8, 3, rows=4), Share(16384, 16, 2, rows=2)))
LONG_GRADIENT_BLOCK = 4096
# Programs that share rows backward hold several of them: what they keep for each column, they then keep for fewer columns.
# 180 us and 324 with two reads (2048 x 16384), 361 and 645 (2048 x 32768; layer norm, float32, H100, 2026-11-27).
# Two programs of half that are better where they fit: 300 us and 321.
GRADIENT_SHARES = (Share(8192, 8, 2, rows=4), Share(16384, 16, 1, rows=4))
# Of 16 bits a program's part is half as many bytes, and the wait for others as long. What an RMS norm leaves of the registers holds
# the next rows meanwhile (AHEAD): 164 us, 189 without; a layer norm would spill: 232, 214 without (2048 x 32768, bfloat16,
# H100, 2026-11-27; 312 and 394 before, ATen 356).
HALF_GRADIENT_SHARES = (Share(16384, 16, 1, rows=4),)
TILE, WARP = 2048, 512  # elements of a program where rows are short, and of a warp of it
# Each leaves one row of sums for the gradients of weight and bias. Three stages, two rows read ahead, are what hides
# the wait for memory: 109 us instead of 150 with two stages or none (16384 x 4096, bfloat16, H200).
PROGRAMS_PER_SM, SHORT_PROGRAMS_PER_SM = 2, 3
GRADIENT_STAGES = 3
COLUMN_ROWS, COLUMNS = 16, 256  # of a tile that sums over the rows of long ones
# Rows of sums that the second stage reads at once, at most: each read waits for the one before.
PARTS = 128
# Up to so many elements are one program's, which writes the gradients of weight and bias itself: 33 us of the host instead of 49, 4.1 of
# the GPU instead of 5.4 (layer norm of 64 x 64, H100, 2026-11-27).
ONE = 8192
INTERPRETER_COLUMNS = 1 << 15  # the interpreter pays per program, not per element


@dataclass(frozen=True)
class Norm:
    """Rows of `n` elements; CENTER says layer norm, else RMS norm."""

    center: bool
    x: Tensor
    n: int
    residual: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def n_rows(self) -> int:
        return self.x.numel() // self.n

    def vectors(self, plan: Plan) -> tuple[Code | None, Code | None]:
        """Weight and bias as the kernels take them, dense."""
        return tuple(dense(plan, name, t) for name, t in (("weight", self.weight), ("bias", self.bias)))

    def rows(self, plan: Plan) -> tuple[Code, Code | None, int, int]:
        """x and the residual, and the strides of their rows."""
        x_row = dense_rows(plan, "x", self.x, self.n)
        if self.residual is None:
            return Code("x"), None, x_row, 0
        return Code("x"), Code("residual"), x_row, dense_rows(plan, "residual", self.residual, self.n)


def row_length(x: Tensor, shape: tuple[int, ...], *vectors: Tensor | None) -> int:
    """Elements of a row: those of `shape`, which ends x's shape and is that of each vector. Declines anything else."""
    if not shape or tuple(x.shape[-len(shape) :]) != tuple(shape):
        raise Declined(f"normalized_shape {tuple(shape)} does not end the shape {tuple(x.shape)}")
    for t in vectors:
        if t is not None and (tuple(t.shape) != tuple(shape) or t.dtype != x.dtype):
            raise Declined(f"a weight of {t.dtype} {tuple(t.shape)} for rows of {x.dtype} {tuple(shape)}")
    return prod(shape)


def dense_rows(plan: Plan, name: str, t: Tensor, n: int) -> int:
    """Make the plan's tensor `name` a matrix of rows of n dense elements, a copy only where strides allow no view.

    Returns the stride of its rows.
    """
    stride = row_stride(t, n)
    if stride is not None:
        return stride
    plan.do(f"{name} = {name}.contiguous()")
    return n


def row_stride(t: Tensor, n: int) -> int | None:
    """The stride of t's rows of n dense elements; None if it has no such rows."""
    stand_in = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
    try:
        rows = stand_in.view(-1, n)
    except RuntimeError:  # torch's answer for strides that allow no view
        return None
    return rows.stride(0) if rows.stride(1) == 1 or n == 1 else None


def dense(plan: Plan, name: str, t: Tensor | None) -> Code | None:
    if t is None:
        return None
    if not t.is_contiguous():
        plan.do(f"{name} = {name}.contiguous()")
    return Code(name)


def _warps(elements: int, each: int, most: int = 16) -> int:
    """A warp for every so many elements: 1024 forward and 512 backward were best on an H200 from 1K to 16K columns."""
    return max(1, min(most, elements // each))


def _interpreted_columns(n: int) -> int:
    return min(triton.next_power_of_2(n), INTERPRETER_COLUMNS)


def _rows_per_program(n_rows: int, block: int) -> int:
    return max(1, min(TILE // block, triton.next_power_of_2(n_rows)))


def plan_norm(
    plan: Plan,
    norm: Norm,
    y: Code,
    y_row: int | None = None,
    total: Code | None = None,
    total_row: int | None = None,
    mean: Code | None = None,
    rstd: Code | None = None,
    eps: Code = Code("eps"),
) -> None:
    """Plan to write y, and where they are wanted x + residual and the rows' statistics."""
    x, residual, x_row, residual_row = norm.rows(plan)
    n, n_rows = norm.n, norm.n_rows
    strides = (x_row, residual_row, n if y_row is None else y_row, n if total_row is None else total_row)
    tensors = (x, residual, *norm.vectors(plan), y, total, mean, rstd)
    # a sum that nobody wants is kept in 32 bits
    narrow = norm.x.dtype.itemsize == 2 and (norm.residual is None or total is not None)
    if n > (ALONE if not narrow or norm.center and n < FULL else WHOLE):
        shares = HALF_SHARES if narrow else SHARES
        m = meeting(Rows(n_rows, n, 1), (x_row, 0, 1), norm.x.dtype, shares)
        if m is not None:
            places = plan_meeting(plan, m, norm.x.device, *(("level", "rest") if norm.center else ()), "square")
            places = places if norm.center else (places[0], None, None, places[1])
            plan.launch(
                _shared_norm_kernel, (m.programs,), *tensors, *places, n_rows, n, m.parts, *strides, eps,
                norm.center, m.padded_parts, m.block_r, m.block_n, **m.share.options,
            )  # fmt: skip
            return
    arguments = (*tensors, n_rows, n, *strides, eps, norm.center)
    if n > WHOLE:
        plan.launch(_long_norm_kernel, (n_rows,), *arguments, 1, LONG_BLOCK, num_warps=16)
        return
    block = triton.next_power_of_2(n)
    rows = _rows_per_program(n_rows, block)
    warps = _warps(rows * block, 1024 if rows == 1 else WARP, most_warps(2 if narrow else 4))
    plan.launch(_norm_kernel, (triton.cdiv(n_rows, rows),), *arguments, rows, block, num_warps=warps)


def plan_gradient(
    plan: Plan,
    norm: Norm,
    grad: Tensor,
    wanted: tuple[bool, bool, bool],
    dsum: Tensor | None = None,
    mean: Code | None = None,
    rstd: Code | None = None,
    eps: Code | float = 0.0,
) -> None:
    """Plan to write dx, dweight and dbias as `wanted`; the others are None under their names.

    `rstd`, and `mean` of a layer norm, are what the forward pass saved; without them they are computed again with eps.
    """
    n = norm.n
    x, residual, x_row, residual_row = norm.rows(plan)
    grad_row = dense_rows(plan, "grad", grad, n)
    dsum_row = dense_rows(plan, "dsum", dsum, n) if dsum is not None else 0
    inputs = (Code("grad"), x, residual)
    strides = (norm.n_rows, n, grad_row, x_row, residual_row)
    weight, _ = norm.vectors(plan)
    results = _results(plan, norm, wanted)
    around = None if dsum is None else Code("dsum")
    tail = (dsum_row, eps, norm.center, rstd is not None)
    if n <= WHOLE_GRADIENT:
        block = triton.next_power_of_2(n)
        rows = _rows_per_program(norm.n_rows, block)
        sums = wanted[1] or wanted[2]
        blocks = triton.cdiv(norm.n_rows, rows)
        # two of the longest rows do not fit a multiprocessor
        per_sm = 1 if block == WHOLE_GRADIENT else PROGRAMS_PER_SM if block > TILE else SHORT_PROGRAMS_PER_SM
        programs = (1 if blocks * rows * block <= ONE else min(blocks, per_sm * sm_count())) if sums else blocks
        parts = _parts(plan, norm, results[1:], programs)
        plan.launch(
            _norm_gradient_kernel, (programs,), *inputs, weight, mean, rstd, around, results[0], *parts,
            *strides, *tail, rows, block, GRADIENT_STAGES, num_warps=_warps(rows * block, 512),
        )  # fmt: skip
    elif (m := _gradient_meeting(norm, wanted, saved=rstd is not None)) is not None:
        programs = m.groups
        parts = _parts(plan, norm, results[1:], programs)
        counters, *places = plan_meeting(plan, m, norm.x.device, "product", "total", "square", places=2)
        plan.launch(
            _shared_norm_gradient_kernel, (m.programs,), *inputs, weight, mean, rstd, around, results[0], *parts, counters, *places,
            *strides[:2], m.parts, m.groups, *strides[2:], *tail, m.padded_parts, m.block_r, m.block_n, norm.x.itemsize == 2 and not norm.center,
            **m.share.options,
        )  # fmt: skip
    else:
        mean, rstd = _plan_long_dx(plan, norm, (*inputs, weight, mean, rstd, around, results[0]), (*strides, *tail))
        width = _interpreted_columns(n) if device.interpreted() else COLUMNS
        blocks = triton.cdiv(n, width)
        programs = max(1, min(triton.cdiv(norm.n_rows, COLUMN_ROWS), 4 * sm_count() // blocks))
        parts = _parts(plan, norm, results[1:], programs)
        if wanted[1] or wanted[2]:
            plan.launch(
                _norm_columns_kernel, (blocks, programs), *inputs, mean, rstd, *parts, *strides, COLUMN_ROWS, width, num_warps=8
            )
    if programs > 1:
        plan_column_sums(plan, parts, results[1:], programs, n)


def _gradient_meeting(norm: Norm, wanted: tuple[bool, bool, bool], saved: bool) -> Meeting | None:
    """How programs meet over long rows, each with all the rows that it can have; None where they cannot."""
    if not wanted[0] or norm.center and not saved:
        return None
    for share in HALF_GRADIENT_SHARES if norm.x.itemsize == 2 else GRADIENT_SHARES:
        m = meeting_of(Rows(norm.n_rows, norm.n, 1), norm.x.dtype, share, share.rows)
        if m is not None:
            return replace(m, groups=min(m.groups, m.resident // m.parts))
    return None


def _plan_long_dx(plan: Plan, norm: Norm, tensors: tuple, numbers: tuple) -> tuple[Code | None, Code]:
    """Plan dx of rows that no program holds; gives the names of their statistics."""
    *_, mean, rstd, _, dx = tensors
    new_mean = new_rstd = None
    if rstd is None:
        precise = opmath(norm.x.dtype)
        new_rstd = plan.empty("row_rstd", (norm.n_rows,), precise, norm.x.device)
        new_mean = plan.empty("row_mean", (norm.n_rows,), precise, norm.x.device) if norm.center else None
    if dx is None:
        # statistics were saved, or nobody would ask for the gradients of weight and bias alone
        return mean, rstd
    arguments = (*tensors, new_mean, new_rstd, *numbers)
    plan.launch(_long_norm_gradient_kernel, (norm.n_rows,), *arguments, LONG_GRADIENT_BLOCK, num_warps=8)
    return (mean, rstd) if rstd is not None else (new_mean, new_rstd)


def _results(plan: Plan, norm: Norm, wanted: tuple[bool, bool, bool]) -> list[Code | None]:
    """The gradients' names, allocated like what they are the gradients of."""
    like = norm.x, norm.weight, norm.bias
    found: list[Code | None] = []
    for name, want, t in zip(("dx", "dweight", "dbias"), wanted, like, strict=True):
        if want:
            found.append(plan.empty(name, t.shape, t.dtype, norm.x.device))
        else:
            plan.do(f"{name} = None")
            found.append(None)
    return found


def _parts(plan: Plan, norm: Norm, results: list[Code | None], programs: int) -> list[Code | None]:
    """Rows of sums for the gradients of weight and bias, one for each program; of one program they are the gradients."""
    if programs == 1:
        return results
    shape, dtype = (programs, norm.n), opmath(norm.x.dtype)
    return [r and plan.empty(f"{r}_parts", shape, dtype, norm.x.device) for r in results]


def plan_column_sums(plan: Plan, parts: list[Code | None], results: list[Code | None], programs: int, n: int) -> None:
    """Plan the gradients of weight and bias, those that are not None, from their rows of sums."""
    if any(r is not None for r in results):
        block = _interpreted_columns(n) if device.interpreted() else 32 if n >= 32 * sm_count() else 16
        at_once = min(PARTS, max(16, triton.next_power_of_2(programs)))
        plan.launch(_add_columns_kernel, (triton.cdiv(n, block),), *parts, *results, programs, n, at_once, block, num_warps=4)
