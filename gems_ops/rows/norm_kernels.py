"""Kernels of layer norm and RMS norm along dense rows: forward, gradient of the input, gradients of weight and bias.

CENTER: layer norm, else RMS norm. A pointer that is None stands for what the call does not have.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.rows.access import load_rows, over, widen
from gems_runtime import LibEntry


@triton.jit
def _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, mask, ROUND: tl.constexpr):
    """x, or x + residual: ROUND as the type that it is stored in holds it. [ROWS, BLOCK]"""
    x = load_rows(x_ptr, row, x_row, col, mask)
    if residual_ptr is not None:
        x += load_rows(residual_ptr, row, residual_row, col, mask)
        if ROUND:
            x = widen(x.to(x_ptr.dtype.element_ty))
    return x


@triton.jit
def _load_columns(ptr, col, n, other):
    """A vector over the columns, [1, BLOCK]; the number `other` where there is none."""
    if ptr is None:
        return other
    else:
        return widen(tl.load(ptr + col, mask=col < n, other=0))[None, :]


@triton.jit
def _add_both(a, b, c, d):
    return a + c, b + d


@triton.jit
def _centred(x, mask, n, CENTER: tl.constexpr):
    """x [ROWS, BLOCK] moved to mean 0, and each row's mean and mean square distance from it, [ROWS]."""
    if CENTER:
        mean = over(tl.sum(x, 1), n)
        x = tl.where(mask, x - mean[:, None], 0.0)
        # The mean's own rounding error, which counts where the mean is large beside the deviation.
        rest, square = tl.reduce((x, x * x), 1, _add_both)
        rest = over(rest, n)
        variance = over(square, n) - rest * rest
        return x - rest[:, None], mean + rest, variance
    else:
        squares = tl.sum(x * x, 1)
        return x, tl.zeros_like(squares), over(squares, n)


@LibEntry
@triton.jit
def _norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, sum_ptr, mean_ptr, rstd_ptr,
    n_rows, n, x_row, residual_row, y_row, sum_row, eps, CENTER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whole rows in registers. sum: where x + residual goes."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK)
    in_rows = row < n_rows
    mask = in_rows[:, None] & (col < n)[None, :]
    x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, mask, sum_ptr is not None)
    if sum_ptr is not None:
        tl.store(sum_ptr + (row * sum_row)[:, None] + col[None, :], x.to(sum_ptr.dtype.element_ty), mask=mask)
    x, mean, variance = _centred(x, mask, n, CENTER)
    rstd = 1 / tl.sqrt(variance + eps)
    if mean_ptr is not None:
        tl.store(mean_ptr + row, mean.to(mean_ptr.dtype.element_ty), mask=in_rows)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd.to(rstd_ptr.dtype.element_ty), mask=in_rows)
    y = x * rstd[:, None] * _load_columns(weight_ptr, col, n, 1.0)
    y += _load_columns(bias_ptr, col, n, 0.0)
    tl.store(y_ptr + (row * y_row)[:, None] + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _long_moments(x_ptr, residual_ptr, sum_ptr, row, x_row, residual_row, sum_row, n, CENTER: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and mean square distance from it of one row, read in blocks; writes x + residual to sum."""
    col = tl.arange(0, BLOCK)
    in_row = (col < n)[None, :]
    ROUND: tl.constexpr = sum_ptr is not None
    x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, in_row, ROUND)
    # Distances are taken from the mean of the first block: near enough to the row's that their squares do not cancel.
    shift = over(tl.sum(x, 1), min(n, BLOCK)) if CENTER else tl.zeros_like(tl.sum(x, 1))
    totals, squares = tl.zeros_like(x), tl.zeros_like(x)
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        in_row = (col < n)[None, :]
        x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, in_row, ROUND)
        if sum_ptr is not None:
            tl.store(sum_ptr + (row * sum_row)[:, None] + col[None, :], x.to(sum_ptr.dtype.element_ty), mask=in_row)
        x = tl.where(in_row, x - shift[:, None], 0.0)
        if CENTER:
            totals += x
        squares += x * x
    if CENTER:
        distance = over(tl.sum(totals, 1), n)
        return shift + distance, tl.maximum(over(tl.sum(squares, 1), n) - distance * distance, 0.0)
    else:
        return shift, over(tl.sum(squares, 1), n)


@LibEntry
@triton.jit
def _long_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, sum_ptr, mean_ptr, rstd_ptr,
    n_rows, n, x_row, residual_row, y_row, sum_row, eps, CENTER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program, read twice: the second time from its end, which the cache still holds."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    mean, variance = _long_moments(x_ptr, residual_ptr, sum_ptr, row, x_row, residual_row, sum_row, n, CENTER, BLOCK)
    rstd = 1 / tl.sqrt(variance + eps)
    if sum_ptr is not None:
        # other threads of the program may have written what this one reads
        tl.debug_barrier()
    blocks = tl.cdiv(n, BLOCK)
    for step in range(0, blocks):
        col = (blocks - 1 - step) * BLOCK + tl.arange(0, BLOCK)
        in_row = (col < n)[None, :]
        if sum_ptr is not None:
            x = load_rows(sum_ptr, row, sum_row, col, in_row)
        else:
            x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, in_row, False)
        weight, bias = _load_columns(weight_ptr, col, n, 1.0), _load_columns(bias_ptr, col, n, 0.0)
        y = (x - mean[:, None]) * rstd[:, None] * weight + bias
        tl.store(y_ptr + (row * y_row)[:, None] + col[None, :], y.to(y_ptr.dtype.element_ty), mask=in_row)
    if mean_ptr is not None:
        tl.store(mean_ptr + row, mean.to(mean_ptr.dtype.element_ty))
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd.to(rstd_ptr.dtype.element_ty))


@triton.jit
def _load_statistic(ptr, row, in_rows):
    """What the forward pass saved for each row, [ROWS]."""
    return widen(tl.load(ptr + row, mask=in_rows, other=0))


@triton.jit
def _store_gradient(dx_ptr, dsum_ptr, dx, row, dsum_row, n, col, mask):
    """dx, and to it what came down the path around the norm."""
    if dsum_ptr is not None:
        dx += load_rows(dsum_ptr, row, dsum_row, col, mask)
    tl.store(dx_ptr + (row * n)[:, None] + col[None, :], dx.to(dx_ptr.dtype.element_ty), mask=mask)


@LibEntry
@triton.jit
def _norm_gradient_kernel(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, mean_ptr, rstd_ptr, dsum_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    n_rows, n, grad_row, x_row, residual_row, dsum_row, eps,
    CENTER: tl.constexpr, SAVED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx of whole rows, and for each program one row of sums for the gradients of weight and bias."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    col = tl.arange(0, BLOCK)
    in_row = (col < n)[None, :]
    dweight, dbias = tl.zeros((ROWS, BLOCK), DTYPE), tl.zeros((ROWS, BLOCK), DTYPE)
    for block in tl.range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0), num_stages=STAGES):
        row = block * ROWS + tl.arange(0, ROWS).to(tl.int64)
        in_rows = row < n_rows
        mask = in_rows[:, None] & in_row
        x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, mask, False)
        grad = load_rows(grad_ptr, row, grad_row, col, mask)
        if SAVED:
            rstd = _load_statistic(rstd_ptr, row, in_rows)
            if CENTER:
                x = tl.where(mask, x - _load_statistic(mean_ptr, row, in_rows)[:, None], 0.0)
        else:
            x, mean, variance = _centred(x, mask, n, CENTER)
            # a row past the last is 0, and eps may be: 0 times infinity would spoil the sums
            rstd = tl.where(in_rows, 1 / tl.sqrt(variance + eps), 0.0)
        x *= rstd[:, None]
        if dweight_ptr is not None:
            dweight += grad * x
        if dbias_ptr is not None:
            dbias += grad
        if dx_ptr is not None:
            grad *= _load_columns(weight_ptr, col, n, 1.0)
            dx = grad - x * (over(tl.sum(grad * x, 1), n))[:, None]
            if CENTER:
                dx -= (over(tl.sum(grad, 1), n))[:, None]
            _store_gradient(dx_ptr, dsum_ptr, dx * rstd[:, None], row, dsum_row, n, col, mask)
    at = tl.program_id(0).to(tl.int64) * n + col
    if dweight_ptr is not None:
        tl.store(dweight_ptr + at, tl.sum(dweight, 0).to(dweight_ptr.dtype.element_ty), mask=col < n)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + at, tl.sum(dbias, 0).to(dbias_ptr.dtype.element_ty), mask=col < n)


@LibEntry
@triton.jit
def _long_norm_gradient_kernel(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, mean_ptr, rstd_ptr, dsum_ptr, dx_ptr, mean_out_ptr, rstd_out_ptr,
    n_rows, n, grad_row, x_row, residual_row, dsum_row, eps, CENTER: tl.constexpr, SAVED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of one long row a program. Statistics that nobody saved are left for `_norm_columns_kernel`."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    if SAVED:
        rstd = _load_statistic(rstd_ptr, row, row < n_rows)
        mean = _load_statistic(mean_ptr, row, row < n_rows) if CENTER else tl.zeros_like(rstd)
    else:
        mean, variance = _long_moments(x_ptr, residual_ptr, None, row, x_row, residual_row, 0, n, CENTER, BLOCK)
        rstd = 1 / tl.sqrt(variance + eps)
        if mean_out_ptr is not None:
            tl.store(mean_out_ptr + row, mean)
        tl.store(rstd_out_ptr + row, rstd)
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    products, totals = tl.zeros((1, BLOCK), DTYPE), tl.zeros((1, BLOCK), DTYPE)
    shift = mean[:, None] if CENTER else 0.0
    for start in range(0, n, BLOCK):
        col = start + tl.arange(0, BLOCK)
        in_row = (col < n)[None, :]
        x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, in_row, False)
        grad = load_rows(grad_ptr, row, grad_row, col, in_row) * _load_columns(weight_ptr, col, n, 1.0)
        products += grad * (x - shift)
        totals += grad
    along = over(tl.sum(products, 1) * rstd, n)
    level = over(tl.sum(totals, 1), n) if CENTER else tl.zeros_like(along)
    blocks = tl.cdiv(n, BLOCK)
    for step in range(0, blocks):
        # from the row's end, which the cache still holds
        col = (blocks - 1 - step) * BLOCK + tl.arange(0, BLOCK)
        in_row = (col < n)[None, :]
        x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, in_row, False)
        grad = load_rows(grad_ptr, row, grad_row, col, in_row) * _load_columns(weight_ptr, col, n, 1.0)
        dx = (grad - (x - shift) * (rstd * along)[:, None] - level[:, None]) * rstd[:, None]
        _store_gradient(dx_ptr, dsum_ptr, dx, row, dsum_row, n, col, in_row)


@LibEntry
@triton.jit
def _norm_columns_kernel(
    grad_ptr, x_ptr, residual_ptr, mean_ptr, rstd_ptr, dweight_ptr, dbias_ptr,
    n_rows, n, grad_row, x_row, residual_row, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over rows for the gradients of weight and bias. Grid: (blocks of columns, rows of sums)."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dweight, dbias = tl.zeros((ROWS, BLOCK), DTYPE), tl.zeros((ROWS, BLOCK), DTYPE)
    for start in range(tl.program_id(1) * ROWS, n_rows, tl.num_programs(1) * ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        in_rows = row < n_rows
        mask = in_rows[:, None] & (col < n)[None, :]
        grad = load_rows(grad_ptr, row, grad_row, col, mask)
        dbias += grad
        if dweight_ptr is not None:
            x = _load_sum(x_ptr, residual_ptr, row, x_row, residual_row, col, mask, False)
            if mean_ptr is not None:
                x -= _load_statistic(mean_ptr, row, in_rows)[:, None]
            dweight += grad * x * _load_statistic(rstd_ptr, row, in_rows)[:, None]
    at = tl.program_id(1).to(tl.int64) * n + col
    if dweight_ptr is not None:
        tl.store(dweight_ptr + at, tl.sum(dweight, 0).to(dweight_ptr.dtype.element_ty), mask=col < n)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + at, tl.sum(dbias, 0).to(dbias_ptr.dtype.element_ty), mask=col < n)


@triton.jit
def _add_column(parts_ptr, out_ptr, n_parts, n, col, PARTS: tl.constexpr):
    DTYPE: tl.constexpr = parts_ptr.dtype.element_ty
    total = tl.zeros((PARTS, col.shape[0]), DTYPE)
    for start in range(0, n_parts, PARTS):
        part = start + tl.arange(0, PARTS).to(tl.int64)
        mask = (part < n_parts)[:, None] & (col < n)[None, :]
        total += tl.load(parts_ptr + (part * n)[:, None] + col[None, :], mask=mask, other=0)
    tl.store(out_ptr + col, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=col < n)


@LibEntry
@triton.jit
def _add_columns_kernel(
    dweight_parts_ptr, dbias_parts_ptr, dweight_ptr, dbias_ptr, n_parts, n, PARTS: tl.constexpr, BLOCK: tl.constexpr
):
    """The second stage of the gradients of weight and bias: the sums of their rows of sums, in a fixed order."""
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if dweight_ptr is not None:
        _add_column(dweight_parts_ptr, dweight_ptr, n_parts, n, col, PARTS)
    if dbias_ptr is not None:
        _add_column(dbias_parts_ptr, dbias_ptr, n_parts, n, col, PARTS)
