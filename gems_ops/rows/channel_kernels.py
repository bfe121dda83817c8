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
def _block_and_step(steps, n_channels, s_channel, BLOCK_M: tl.constexpr):
    """Which block of channels and which of its tiles are this program's: programs that run together read neighbours."""
    program, blocks = tl.program_id(0), tl.cdiv(n_channels, BLOCK_M)
    if s_channel == 1:
        block, step = program % blocks, program // blocks
    else:
        block, step = program // steps, program % steps
    return block, step


@triton.jit
def _vector(ptr, index, mask, other):
    """Elements of a vector, [BLOCK_M, 1]; the number `other` where there is none."""
    if ptr is None:
        return other
    else:
        return widen(tl.load(ptr + index, mask=mask, other=0))[:, None]


@triton.jit
def _store_moments(
    mean, square, count, channel, in_channels, mean_ptr, rstd_ptr, saved_mean_ptr, saved_rstd_ptr, running_mean_ptr, running_var_ptr,
    momentum, eps,
):  # fmt: skip
    """What becomes of channels' mean and sum of squared distances from it, [BLOCK_M]."""
    rstd = 1 / tl.sqrt(square / count + eps)
    tl.store(mean_ptr + channel, mean, mask=in_channels)
    tl.store(rstd_ptr + channel, rstd, mask=in_channels)
    if saved_mean_ptr is not None:
        tl.store(saved_mean_ptr + channel, mean.to(saved_mean_ptr.dtype.element_ty), mask=in_channels)
        tl.store(saved_rstd_ptr + channel, rstd.to(saved_rstd_ptr.dtype.element_ty), mask=in_channels)
    if running_mean_ptr is not None:
        old = widen(tl.load(running_mean_ptr + channel, mask=in_channels, other=0))
        new = (1 - momentum) * old + momentum * mean
        tl.store(running_mean_ptr + channel, new.to(running_mean_ptr.dtype.element_ty), mask=in_channels)
    if running_var_ptr is not None:
        old = widen(tl.load(running_var_ptr + channel, mask=in_channels, other=0))
        new = (1 - momentum) * old + momentum * square / (count - 1)
        tl.store(running_var_ptr + channel, new.to(running_var_ptr.dtype.element_ty), mask=in_channels)


@LibEntry
@triton.jit
def _channel_moments_kernel(
    x_ptr, parts_ptr, mean_ptr, rstd_ptr, saved_mean_ptr, saved_rstd_ptr, running_mean_ptr, running_var_ptr,
    n_batch, n_channels, n_inner, s_batch, s_channel, s_inner, steps_per_split, momentum, eps,
    BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean, sum of squared distances from it and count of each split, [3, splits, channels]. Grid: (channel blocks, splits).

    Without `parts` there is one split, and its program finishes its channels.
    """
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel, in_channels = _channels(tl.program_id(0), n_channels, BLOCK_M)
    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, n_batch * tl.cdiv(n_inner, BLOCK_L))
    at, mask = _tile_at(first, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    x = widen(tl.load(x_ptr + at, mask=mask, other=0))
    # Distances are taken from the mean of the first tile: near enough to the whole's that their squares do not cancel.
    shift = (tl.sum(x, 1) / tl.maximum(tl.sum(mask.to(DTYPE), 1), 1.0))[:, None]
    totals = tl.where(mask, x - shift, 0.0)
    squares = totals * totals
    counts = mask.to(tl.int32)
    for step in tl.range(first + 1, last, num_stages=STAGES):
        at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
        x = tl.where(mask, widen(tl.load(x_ptr + at, mask=mask, other=0)) - shift, 0.0)
        totals += x
        squares += x * x
        counts += mask.to(tl.int32)
    count = tl.maximum(tl.sum(counts, 1).to(DTYPE), 1.0)
    distance = tl.sum(totals, 1) / count
    mean = tl.sum(shift, 1) + distance
    square = tl.maximum(tl.sum(squares, 1) - count * distance * distance, 0.0)
    if parts_ptr is None:
        _store_moments(
            mean, square, count, channel, in_channels, mean_ptr, rstd_ptr, saved_mean_ptr, saved_rstd_ptr,
            running_mean_ptr, running_var_ptr, momentum, eps,
        )  # fmt: skip
    else:
        plane = tl.num_programs(1).to(tl.int64) * n_channels
        to = parts_ptr + tl.program_id(1).to(tl.int64) * n_channels + channel
        tl.store(to, mean, mask=in_channels)
        tl.store(to + plane, square, mask=in_channels)
        tl.store(to + 2 * plane, count, mask=in_channels)


@LibEntry
@triton.jit
def _finish_moments_kernel(
    parts_ptr, mean_ptr, rstd_ptr, saved_mean_ptr, saved_rstd_ptr, running_mean_ptr, running_var_ptr,
    n_channels, n_splits, momentum, eps, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of each channel from its splits', as they are saved and as the next kernel reads them."""
    channel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    in_channels = channel < n_channels
    plane = n_splits.to(tl.int64) * n_channels
    at = parts_ptr + split.to(tl.int64)[:, None] * n_channels + channel[None, :]
    mask = (split < n_splits)[:, None] & in_channels[None, :]
    means = tl.load(at, mask=mask, other=0.0)
    squares = tl.load(at + plane, mask=mask, other=0.0)
    counts = tl.load(at + 2 * plane, mask=mask, other=0.0)
    count = tl.maximum(tl.sum(counts, 0), 1.0)
    # from the first split's mean: sums of small distances round less
    start = tl.load(parts_ptr + channel, mask=in_channels, other=0.0)
    mean = start + tl.sum(counts * (means - start[None, :]), 0) / count
    square = tl.sum(squares + counts * (means - mean[None, :]) * (means - mean[None, :]), 0)
    _store_moments(
        mean, square, count, channel, in_channels, mean_ptr, rstd_ptr, saved_mean_ptr, saved_rstd_ptr,
        running_mean_ptr, running_var_ptr, momentum, eps,
    )  # fmt: skip


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
    x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, y_ptr, saved_mean_ptr, saved_rstd_ptr,
    n_batch, n_channels, n_inner, s_batch, s_channel, s_inner, n_weights, eps,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """(x - mean) * rstd * weight + bias. A program a tile; y has x's strides. The first tiles save mean and rstd."""
    block, step = _block_and_step(n_batch * tl.cdiv(n_inner, BLOCK_L), n_channels, s_channel, BLOCK_M)
    channel, in_channels = _channels(block, n_channels, BLOCK_M)
    at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    x = widen(tl.load(x_ptr + at, mask=mask, other=0))
    mean = _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    weight = _vector(weight_ptr, channel % n_weights, in_channels, 1.0)
    y = (x - mean) * scale * weight + _vector(bias_ptr, channel % n_weights, in_channels, 0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    if saved_mean_ptr is not None:
        once = (in_channels & (step == 0))[:, None]
        tl.store(saved_mean_ptr + channel[:, None], mean.to(saved_mean_ptr.dtype.element_ty), mask=once)
        tl.store(saved_rstd_ptr + channel[:, None], scale.to(saved_rstd_ptr.dtype.element_ty), mask=once)


@LibEntry
@triton.jit
def _channel_sums_kernel(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, dweight_ptr, dbias_ptr,
    n_batch, n_channels, n_inner, g_batch, g_channel, g_inner, s_batch, s_channel, s_inner, eps, steps_per_split,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """For each channel and split: the sums of grad * (x - mean) * rstd and of grad. Grid: (channel blocks, splits)."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel, in_channels = _channels(tl.program_id(0), n_channels, BLOCK_M)
    mean = _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    first = tl.program_id(1) * steps_per_split
    last = tl.minimum(first + steps_per_split, n_batch * tl.cdiv(n_inner, BLOCK_L))
    products, totals = tl.zeros((BLOCK_M, BLOCK_L), DTYPE), tl.zeros((BLOCK_M, BLOCK_L), DTYPE)
    for step in tl.range(first, last, num_stages=STAGES):
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
def _whole_gradient_kernel(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    n_batch, n_channels, n_inner, g_batch, g_channel, g_inner, s_batch, s_channel, s_inner, eps,
    VARIANCE: tl.constexpr, CONSTANT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """All gradients of a block of channels that have a statistic each, by one program. CONSTANT: statistics do not depend on x."""
    DTYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel, in_channels = _channels(tl.program_id(0), n_channels, BLOCK_M)
    mean = _vector(mean_ptr, channel, in_channels, 0.0)
    scale = _load_scale(rstd_ptr, channel, in_channels, eps, VARIANCE)
    weight = _vector(weight_ptr, channel, in_channels, 1.0)
    steps = n_batch * tl.cdiv(n_inner, BLOCK_L)
    products, totals = tl.zeros((BLOCK_M, BLOCK_L), DTYPE), tl.zeros((BLOCK_M, BLOCK_L), DTYPE)
    for step in range(0, steps):
        at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
        grad_at, mask = _tile_at(step, channel, in_channels, n_inner, g_batch, g_channel, g_inner, BLOCK_L)
        grad = widen(tl.load(grad_ptr + grad_at, mask=mask, other=0))
        products += grad * (widen(tl.load(x_ptr + at, mask=mask, other=0)) - mean)
        totals += grad
    dweight, dbias = tl.sum(products * scale, 1), tl.sum(totals, 1)
    if dweight_ptr is not None:
        tl.store(dweight_ptr + channel, dweight.to(dweight_ptr.dtype.element_ty), mask=in_channels)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + channel, dbias.to(dbias_ptr.dtype.element_ty), mask=in_channels)
    if dx_ptr is not None:
        count = n_batch * n_inner
        along, level = over(dweight[:, None] * weight, count), over(dbias[:, None] * weight, count)
        for step in range(0, steps):
            at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
            grad_at, mask = _tile_at(step, channel, in_channels, n_inner, g_batch, g_channel, g_inner, BLOCK_L)
            dx = widen(tl.load(grad_ptr + grad_at, mask=mask, other=0)) * weight
            if not CONSTANT:
                dx -= (widen(tl.load(x_ptr + at, mask=mask, other=0)) - mean) * scale * along + level
            tl.store(dx_ptr + at, (dx * scale).to(dx_ptr.dtype.element_ty), mask=mask)


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
    n_batch, n_channels, n_inner, g_batch, g_channel, g_inner, s_batch, s_channel, s_inner, n_weights, count, eps,
    SHARED: tl.constexpr, VARIANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """dx, with x's strides; without `along` the statistics are constants. A program a tile.

    `along` and `level` are those of `_coefficients_kernel`; where every channel has its own statistics, the channels' sums,
    which make them with the weight and the `count` of elements.
    """
    block, step = _block_and_step(n_batch * tl.cdiv(n_inner, BLOCK_L), n_channels, s_channel, BLOCK_M)
    channel, in_channels = _channels(block, n_channels, BLOCK_M)
    grad_at, mask = _tile_at(step, channel, in_channels, n_inner, g_batch, g_channel, g_inner, BLOCK_L)
    at, mask = _tile_at(step, channel, in_channels, n_inner, s_batch, s_channel, s_inner, BLOCK_L)
    scale = _load_scale(rstd_ptr, channel // SHARED, in_channels, eps, VARIANCE)
    grad = widen(tl.load(grad_ptr + grad_at, mask=mask, other=0))
    weight = _vector(weight_ptr, channel % n_weights, in_channels, 1.0)
    dx = grad * weight
    if along_ptr is not None:
        x = widen(tl.load(x_ptr + at, mask=mask, other=0)) - _vector(mean_ptr, channel // SHARED, in_channels, 0.0)
        along = _vector(along_ptr, channel // SHARED, in_channels, 0.0)
        level = _vector(level_ptr, channel // SHARED, in_channels, 0.0)
        if SHARED == 1:
            along, level = over(along * weight, count), over(level * weight, count)
        dx -= x * scale * along + level
    tl.store(dx_ptr + at, (dx * scale).to(dx_ptr.dtype.element_ty), mask=mask)
