"""Kernels of layer norm and RMS norm whose long rows are held by programs that meet; see `norm_kernels` for the arguments."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.rows.access import load_rows, over, widen, widen_again
from gems_ops.rows.meeting import meet, publish, published, published_sum, take_place
from gems_ops.rows.norm_kernels import _add_both, _load_columns, _load_statistic, _load_sum, _store_gradient
from gems_runtime import LibEntry


@triton.jit
def _gather_moments(
    level_ptr, rest_ptr, square_ptr, group, part, parts, n, ROWS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """From this part's level to each row's mean, the mean itself and the mean square distance from it, [ROWS].

    Of each part there are a level, and the sums of its elements' distances from it and of their squares. Everything is
    counted from a level nearby, so that a mean far from 0 costs no precision.
    """
    places = tl.arange(0, PARTS)[None, :]
    counts = tl.minimum(tl.maximum(n - places * BLOCK, 0), BLOCK).to(tl.float32)
    levels = published(level_ptr, group, parts, 0.0, ROWS, PARTS)
    rests = published(rest_ptr, group, parts, 0.0, ROWS, PARTS)
    squares = published(square_ptr, group, parts, 0.0, ROWS, PARTS)
    shift = tl.sum(tl.where(places == 0, levels, 0.0), 1)
    away = tl.where(places < parts, levels - shift[:, None], 0.0)
    distance = over(tl.sum(counts * away + rests, 1), n)
    steps = distance[:, None] - away  # from each part's level to the mean
    total = tl.sum(squares + steps * (counts * steps - 2 * rests), 1)
    return tl.sum(tl.where(places == part, steps, 0.0), 1), shift + distance, tl.maximum(over(total, n), 0.0)


@LibEntry
@triton.jit
def _shared_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, sum_ptr, mean_ptr, rstd_ptr,
    counters_ptr, level_ptr, rest_ptr, square_ptr,
    n_rows, n, parts, x_row, residual_row, y_row, sum_row, eps,
    CENTER: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One part of ROWS rows a program."""
    group, part = take_place(counters_ptr, parts)
    row = group * ROWS + tl.arange(0, ROWS)
    col = part * BLOCK + tl.arange(0, BLOCK)
    in_rows = row < n_rows
    mask = in_rows[:, None] & (col < n)[None, :]
    x = tl.load(x_ptr + (row * x_row)[:, None] + col[None, :], mask=mask, other=0)  # [ROWS, BLOCK]
    if residual_ptr is not None:
        x = widen(x) + load_rows(residual_ptr, row, residual_row, col, mask)
        if sum_ptr is not None:
            x = x.to(sum_ptr.dtype.element_ty)
            tl.store(sum_ptr + (row * sum_row)[:, None] + col[None, :], x, mask=mask)
    if CENTER:
        level = over(tl.sum(widen(x), 1), min(n - part * BLOCK, BLOCK))
        away = tl.where((col < n)[None, :], widen_again(x) - level[:, None], 0.0)
        rest, square = tl.reduce((away, away * away), 1, _add_both)
        publish(level_ptr, group, part, parts, level)
        publish(rest_ptr, group, part, parts, rest)
        publish(square_ptr, group, part, parts, square)
    else:
        publish(square_ptr, group, part, parts, tl.sum(widen(x) * widen(x), 1))
    meet(counters_ptr, group, parts, 1)
    x = widen_again(x, True)
    if CENTER:
        step, mean, variance = _gather_moments(level_ptr, rest_ptr, square_ptr, group, part, parts, n, ROWS, PARTS, BLOCK)
        x = x - level[:, None] - step[:, None]
        if mean_ptr is not None:
            tl.store(mean_ptr + row, mean.to(mean_ptr.dtype.element_ty), mask=in_rows & (part == 0))
    else:
        variance = over(tl.sum(published(square_ptr, group, parts, 0.0, ROWS, PARTS), 1), n)
    rstd = 1 / tl.sqrt(variance + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd.to(rstd_ptr.dtype.element_ty), mask=in_rows & (part == 0))
    y = x * rstd[:, None] * _load_columns(weight_ptr, col, n, 1.0)
    y += _load_columns(bias_ptr, col, n, 0.0)
    tl.store(y_ptr + (row * y_row)[:, None] + col[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_both(
    x_ptr, residual_ptr, grad_ptr, block, n_rows, n, x_row, residual_row, grad_row, col, ROWS: tl.constexpr,
):  # fmt: skip
    """x and the gradient, [ROWS, BLOCK], as they come: widened, they would take twice the registers while others are waited for."""
    row = block * ROWS + tl.arange(0, ROWS)
    mask = (row < n_rows)[:, None] & (col < n)[None, :]
    x = tl.load(x_ptr + (row * x_row)[:, None] + col[None, :], mask=mask, other=0)
    if residual_ptr is not None:
        x = widen(x) + load_rows(residual_ptr, row, residual_row, col, mask)
    return x, tl.load(grad_ptr + (row * grad_row)[:, None] + col[None, :], mask=mask, other=0)


@LibEntry
@triton.jit
def _shared_norm_gradient_kernel(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, mean_ptr, rstd_ptr, dsum_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    counters_ptr, product_ptr, total_ptr, square_ptr,
    n_rows, n, parts, groups, grad_row, x_row, residual_row, dsum_row, eps,
    CENTER: tl.constexpr, SAVED: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """dx of ROWS rows at a time, and for each group one row of sums for the gradients of weight and bias.

    A program stays with its columns and goes from rows to rows. A layer norm must have SAVED its statistics.
    Outside the mask x may be anything finite: there the gradient is 0.
    """
    group, part = take_place(counters_ptr, parts)
    col = part * BLOCK + tl.arange(0, BLOCK)
    weight = _load_columns(weight_ptr, col, n, 1.0)
    dweight, dbias = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    times = 0
    blocks = tl.cdiv(n_rows, ROWS)
    if AHEAD:
        x_in, grad_in = _load_both(x_ptr, residual_ptr, grad_ptr, group, n_rows, n, x_row, residual_row, grad_row, col, ROWS)
    for block in range(group, blocks, groups):
        row = block * ROWS + tl.arange(0, ROWS)
        in_rows = row < n_rows
        mask = in_rows[:, None] & (col < n)[None, :]
        if not AHEAD:
            x_in, grad_in = _load_both(x_ptr, residual_ptr, grad_ptr, block, n_rows, n, x_row, residual_row, grad_row, col, ROWS)
        # Others may still read what they were told a round ago: two places take turns.
        place = group * 2 + times % 2
        times += 1
        if SAVED:
            rstd = _load_statistic(rstd_ptr, row, in_rows)
            mean = _load_statistic(mean_ptr, row, in_rows) if CENTER else tl.zeros_like(rstd)
            x = (widen(x_in) - mean[:, None]) * rstd[:, None]
            grad = widen(grad_in)
            dweight += tl.sum(grad * x, 0)
            dbias += tl.sum(grad, 0)
            grad *= weight
            if CENTER:
                total, product = tl.reduce((grad, grad * x), 1, _add_both)
                publish(total_ptr, place, part, parts, total)
            else:
                product = tl.sum(grad * x, 1)
            publish(product_ptr, place, part, parts, product)
            meet(counters_ptr, group, parts, times)
            if AHEAD:
                x_next, grad_next = _load_both(
                    x_ptr, residual_ptr, grad_ptr, block + groups, n_rows, n, x_row, residual_row, grad_row, col, ROWS
                )
            product = published_sum(product_ptr, place, parts, ROWS, PARTS)
            x = (widen_again(x_in) - mean[:, None]) * rstd[:, None]
            grad = widen_again(grad_in) * weight
        else:
            x, grad = widen(x_in), widen(grad_in)
            square, product = tl.reduce((x * x, grad * x * weight), 1, _add_both)
            publish(square_ptr, place, part, parts, square)
            publish(product_ptr, place, part, parts, product)
            meet(counters_ptr, group, parts, times)
            if AHEAD:
                x_next, grad_next = _load_both(
                    x_ptr, residual_ptr, grad_ptr, block + groups, n_rows, n, x_row, residual_row, grad_row, col, ROWS
                )
            # a row past the last is 0, and eps may be: 0 times infinity would spoil the sums
            variance = over(published_sum(square_ptr, place, parts, ROWS, PARTS), n)
            rstd = tl.where(in_rows, 1 / tl.sqrt(variance + eps), 0.0)
            product = published_sum(product_ptr, place, parts, ROWS, PARTS) * rstd
            x, grad = widen_again(x_in) * rstd[:, None], widen_again(grad_in)
            dweight += tl.sum(grad * x, 0)
            grad *= weight
        dx = grad - x * over(product, n)[:, None]
        if CENTER:
            dx -= over(published_sum(total_ptr, place, parts, ROWS, PARTS), n)[:, None]
        _store_gradient(dx_ptr, dsum_ptr, dx * rstd[:, None], row, dsum_row, n, col, mask)
        if AHEAD:
            x_in, grad_in = x_next, grad_next
    if dweight_ptr is not None:
        tl.store(dweight_ptr + group * n + col, dweight.to(dweight_ptr.dtype.element_ty), mask=col < n)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + group * n + col, dbias.to(dbias_ptr.dtype.element_ty), mask=col < n)
