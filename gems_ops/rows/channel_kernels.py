"""Kernels of batch, instance and group norm: moments of channels, the affine pass, sums of gradients, and the gradient.

A tensor is read as (batch, channel, inner), of which a tile is [BLOCK_M channels, BLOCK_L inner]. The statistics of
channel m are number m // SHARED: batch norm has one for each channel (SHARED is 1), group norm one for SHARED channels
of an image, which are all channels here. Weight and bias have `n_weights` elements, of which channel m has m % n_weights.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.rows.access import over, widen
from gems_runtime import LibEntry


@triton.jit
def _channels(block, n_channels, BLOCK_M: tl.constexpr):
    """The channels of a block, [BLOCK_M], and which of them exist. int64: channel * stride passes 2**31"""
    channel = block.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    return channel, channel < n_channels


@triton.jit
def _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L: tl.constexpr):
    """Offsets and mask of tile number `step` of some channels."""
    blocks = tl.cdiv(n_inner, BLOCK_L)
    inner = (step % blocks).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    at = (step // blocks).to(tl.int64) * s_batch + (channel * s_channel)[:, None] + (inner * s_inner)[None, :]
    return at, in_channels[:, None] & (inner < n_inner)[None, :]


@triton.jit
def _vector(ptr, index, mask, other):
    """Elements of a vector, [BLOCK_M, 1]; the number `other` where there is none."""
    if ptr is None:
        return other
    else:
        return widen(tl.load(ptr + index, mask=mask, other=0))[:, None]


@LibEntry
@triton.jit
def _channel_moments_kernel(
    x_ptr, mean_ptr, square_ptr, count_ptr,
    n_batch, n_channels, n_inner, s_batch, s_channel, s_inner, steps_per_split, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """For each channel and split: mean, sum of squared distances from it, and count. Grid: (channel blocks, splits)."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel, in_channels = _channels(tl.program_id(0), n_channels, BLOCK_M)
    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, n_batch * tl.cdiv(n_inner, BLOCK_L))
    at, mask = _tile_at(first, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    x = widen(tl.load(x_ptr + at, mask=mask, other=0))
    # Distances are taken from the mean of the first tile: near enough to the whole's that their squares do not cancel.
    shift = tl.sum(x, 1) / tl.maximum(tl.sum(mask.to(DTYPE), 1), 1.0)
    totals, squares = tl.zeros((BLOCK_M, BLOCK_L), DTYPE), tl.zeros((BLOCK_M, BLOCK_L), DTYPE)
    counts = tl.zeros((BLOCK_M, BLOCK_L), tl.int32)
    for step in range(first, last):
        at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
        x = tl.where(mask, widen(tl.load(x_ptr + at, mask=mask, other=0)) - shift[:, None], 0.0)
        totals += x
        squares += x * x
        counts += mask.to(tl.int32)
    count = tl.sum(counts, 1).to(DTYPE)
    distance = tl.sum(totals, 1) / count
    to = tl.program_id(1).to(tl.int64) * n_channels + channel
    tl.store(mean_ptr + to, shift + distance, mask=in_channels)
    tl.store(square_ptr + to, tl.maximum(tl.sum(squares, 1) - count * distance * distance, 0.0), mask=in_channels)
    tl.store(count_ptr + to, count, mask=in_channels)


@LibEntry
@triton.jit
def _finish_moments_kernel(
    means_ptr, squares_ptr, counts_ptr, mean_ptr, rstd_ptr, wide_mean_ptr, wide_rstd_ptr, running_mean_ptr, running_var_ptr,
    n_channels, n_splits, momentum, eps, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of each channel from its splits', as they are saved and as the next kernel reads them."""
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    in_channels = channel < n_channels
    at = split.to(tl.int64)[:, None] * n_channels + channel[None, :]
    mask = (split < n_splits)[:, None] & in_channels[None, :]
    counts = tl.load(counts_ptr + at, mask=mask, other=0.0)
    means = tl.load(means_ptr + at, mask=mask, other=0.0)
    squares = tl.load(squares_ptr + at, mask=mask, other=0.0)
    count = tl.maximum(tl.sum(counts, 0), 1.0)
    # from the first split's mean: sums of small distances round less
    start = tl.load(means_ptr + channel, mask=in_channels, other=0.0)
    mean = start + tl.sum(counts * (means - start[None, :]), 0) / count
    square = tl.sum(squares + counts * (means - mean[None, :]) * (means - mean[None, :]), 0)
    rstd = 1 / tl.sqrt(square / count + eps)
    tl.store(wide_mean_ptr + channel, mean, mask=in_channels)
    tl.store(wide_rstd_ptr + channel, rstd, mask=in_channels)
    if mean_ptr is not None:
        tl.store(mean_ptr + channel, mean.to(mean_ptr.dtype.element_ty), mask=in_channels)
        tl.store(rstd_ptr + channel, rstd.to(rstd_ptr.dtype.element_ty), mask=in_channels)
    if running_mean_ptr is not None:
        old = widen(tl.load(running_mean_ptr + channel, mask=in_channels, other=0))
        new = (1 - momentum) * old + momentum * mean
        tl.store(running_mean_ptr + channel, new.to(running_mean_ptr.dtype.element_ty), mask=in_channels)
    if running_var_ptr is not None:
        old = widen(tl.load(running_var_ptr + channel, mask=in_channels, other=0))
        new = (1 - momentum) * old + momentum * square / (count - 1)
        tl.store(running_var_ptr + channel, new.to(running_var_ptr.dtype.element_ty), mask=in_channels)


@triton.jit
def _load_scale(rstd_ptr, index, mask, eps, VARIANCE: tl.constexpr):
    """1 / deviation, [BLOCK_M, 1]; VARIANCE: from a variance."""
    scale = _vector(rstd_ptr, index, mask, 1.0)
    if VARIANCE:
        scale = 1 / tl.sqrt(scale + eps)
    return scale


@LibEntry
@triton.jit
def _channel_affine_kernel(
    x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, y_ptr,
    n_batch, n_channels, n_inner, s_batch, s_channel, s_inner, n_weights, eps,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """(x - mean) * rstd * weight + bias. A program a tile; y has x's strides."""
    steps = n_batch * tl.cdiv(n_inner, BLOCK_L)
    channel, in_channels = _channels(tl.program_id(0) // steps, n_channels, BLOCK_M)
    at, mask = _tile_at(tl.program_id(0) % steps, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    x = widen(tl.load(x_ptr + at, mask=mask, other=0))
    mean = _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    weight = _vector(weight_ptr, channel % n_weights, in_channels, 1.0)
    y = (x - mean) * scale * weight + _vector(bias_ptr, channel % n_weights, in_channels, 0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@LibEntry
@triton.jit
def _channel_sums_kernel(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, dweight_ptr, dbias_ptr,
    n_batch, n_channels, n_inner, g_batch, g_channel, g_inner, s_batch, s_channel, s_inner, eps, steps_per_split,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """For each channel and split: the sums of grad * (x - mean) * rstd and of grad. Grid: (channel blocks, splits)."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel, in_channels = _channels(tl.program_id(0), n_channels, BLOCK_M)
    mean = _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, n_batch * tl.cdiv(n_inner, BLOCK_L))
    products, totals = tl.zeros((BLOCK_M, BLOCK_L), DTYPE), tl.zeros((BLOCK_M, BLOCK_L), DTYPE)
    for step in range(first, last):
        at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
        grad_at, mask = _tile_at(step, channel, in_channels, n_inner, g_batch, g_channel, g_inner, BLOCK_L)
        grad = widen(tl.load(grad_ptr + grad_at, mask=mask, other=0))
        x = widen(tl.load(x_ptr + at, mask=mask, other=0))
        products += grad * (x - mean)
        totals += grad
    to = tl.program_id(1).to(tl.int64) * n_channels + channel
    tl.store(dweight_ptr + to, tl.sum(products * scale, 1), mask=in_channels)
    tl.store(dbias_ptr + to, tl.sum(totals, 1), mask=in_channels)


@LibEntry
@triton.jit
def _coefficients_kernel(
    dweight_ptr, dbias_ptr, weight_ptr, along_ptr, level_ptr, n_statistics, n_parts, n_weights, shared, count,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """What dx takes off: weighted sums over the channels that share a statistic, over the count of their elements."""
    DTYPE: tl.constexpr = dweight_ptr.dtype.element_ty
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    along, level = tl.zeros((BLOCK, BLOCK_D), DTYPE), tl.zeros((BLOCK, BLOCK_D), DTYPE)
    for start in range(0, shared, BLOCK_D):
        member = start + tl.arange(0, BLOCK_D)
        channel = number[:, None] * shared + member[None, :]
        mask = (number < n_statistics)[:, None] & (member < shared)[None, :]
        if weight_ptr is None:
            weight = mask.to(DTYPE)
        else:
            weight = tl.load(weight_ptr + channel % n_weights, mask=mask, other=0).to(DTYPE)
        for _ in range(0, n_parts):
            along += weight * tl.load(dweight_ptr + channel, mask=mask, other=0)
            level += weight * tl.load(dbias_ptr + channel, mask=mask, other=0)
            channel += n_statistics * shared
    tl.store(along_ptr + number, over(tl.sum(along, 1), count), mask=number < n_statistics)
    tl.store(level_ptr + number, over(tl.sum(level, 1), count), mask=number < n_statistics)


@LibEntry
@triton.jit
def _channel_gradient_kernel(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, along_ptr, level_ptr, dx_ptr,
    n_batch, n_channels, n_inner, g_batch, g_channel, g_inner, s_batch, s_channel, s_inner, n_weights, eps,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """dx, with x's strides; without `along` the statistics are constants. A program a tile."""
    steps = n_batch * tl.cdiv(n_inner, BLOCK_L)
    channel, in_channels = _channels(tl.program_id(0) // steps, n_channels, BLOCK_M)
    grad_at, mask = _tile_at(tl.program_id(0) % steps, channel, in_channels, n_inner, g_batch, g_channel, g_inner, BLOCK_L)
    at, mask = _tile_at(tl.program_id(0) % steps, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    grad = widen(tl.load(grad_ptr + grad_at, mask=mask, other=0))
    dx = grad * _vector(weight_ptr, channel % n_weights, in_channels, 1.0)
    if along_ptr is not None:
        x = widen(tl.load(x_ptr + at, mask=mask, other=0)) - _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
        along = _vector(along_ptr, channel // SHARED, in_channels, 0.0)
        dx -= x * scale * along + _vector(level_ptr, channel // SHARED, in_channels, 0.0)
    tl.store(dx_ptr + at, (dx * scale).to(dx_ptr.dtype.element_ty), mask=mask)
