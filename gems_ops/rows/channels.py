"""Plans norms over channels: statistics in splits that meet in a fixed order, then one pass that applies them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import triton
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import Declined
from gems_ops.plan import Code, Plan
from gems_ops.promote import opmath
from gems_ops.reduce.engine import sm_count
from gems_ops.rows.channel_kernels import (
    _channel_affine_kernel,
    _channel_gradient_kernel,
    _channel_moments_kernel,
    _channel_sums_kernel,
    _coefficients_kernel,
    _finish_moments_kernel,
    _whole_gradient_kernel,
)
from gems_ops.rows.norm import plan_column_sums

TILE = 4096  # elements: 16 for each thread of 8 warps
CHANNELS = 64  # of a tile where they are neighbours in memory: 128 bytes of a 2-byte type
_PROGRAMS_PER_SM = 4
_MOST_SPLITS = 512
LEAST_TILES = 8  # of a split: few more tiles cost less than a second launch
# Tiles of a block of channels up to which one program makes all its gradients. Three launches, for weights of 16 bits, took the host
# 2.2 times what ATen's one does, for 3 x 2 x 300 (H100, 2026-11-27).
WHOLE_TILES = 4
STAGES = 3  # tiles that are on their way at once


@dataclass(frozen=True)
class Channels:
    """A tensor as (batch, channel, inner) with a stride of each."""

    sizes: tuple[int, int, int]
    strides: tuple[int, int, int]

    @property
    def tile(self) -> tuple[int, int]:
        """Channels and inner elements of a tile: long along what is dense in memory."""
        _, channels, inner = self.sizes
        channels, inner = triton.next_power_of_2(channels), triton.next_power_of_2(inner)
        if self.strides[2] == 1:
            block_l = min(inner, TILE // 4)
            return min(channels, max(1, TILE // 2 // block_l)), block_l
        block_m = min(channels, CHANNELS)
        return block_m, min(inner, TILE // block_m)

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return triton.cdiv(self.sizes[1], self.tile[0])

    @property
    def steps(self) -> int:
        """Tiles of each block of channels."""
        return self.sizes[0] * triton.cdiv(self.sizes[2], self.tile[1])

    @property
    def splits(self) -> tuple[int, int]:
        """Programs that share a block of channels, and tiles of each."""
        wanted = max(1, min(_PROGRAMS_PER_SM * sm_count() // self.blocks, self.steps // LEAST_TILES, _MOST_SPLITS))
        each = triton.cdiv(self.steps, wanted)
        return triton.cdiv(self.steps, each), each


@dataclass(frozen=True)
class Affine:
    """How channels find statistics and weights: `shared` channels have one of the first, `n_weights` are of the second."""

    shared: int
    n_weights: int
    weight: Code | None
    bias: Code | None = None


def of_images(shape: tuple[int, ...], strides: tuple[int, ...]) -> Channels | None:
    """An (n, channels, ...) tensor that is contiguous or channels_last; None for other layouts."""
    n, c, inner = shape[0], shape[1], prod(shape[2:])
    dense = contiguous_strides(shape)
    if _same(shape, strides, dense) and len(shape) > 2:
        return Channels((n, c, inner), (c * inner, inner, 1))
    last = contiguous_strides((n, *shape[2:], c))
    if _same(shape, strides, (last[0], last[-1], *last[1:-1])):
        return Channels((1, c, n * inner), (0, 1, c))
    return None


def _same(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x == y for n, x, y in zip(shape, a, b, strict=True) if n > 1)


def plan_moments(
    plan: Plan, x: Tensor, c: Channels, saved: tuple[Code, Code], saved_dtype: torch.dtype, running: tuple[Code, Code] | None,
    momentum: object, eps: object,
) -> tuple[Code, Code]:  # fmt: skip
    """Plan mean and 1 / deviation of every channel as `saved`; gives the names of those in full precision."""
    channels, precise = c.sizes[1], opmath(x.dtype)
    splits, each = c.splits
    mean, rstd = saved
    if saved_dtype != precise:
        mean, rstd = (plan.empty(n, (channels,), precise, x.device) for n in ("wide_mean", "wide_rstd"))
    results = (mean, rstd, *(saved if saved_dtype != precise else (None, None)), *(running or (None, None)))
    parts = plan.empty("parts", (3, splits, channels), precise, x.device) if splits > 1 else None
    plan.launch(
        _channel_moments_kernel, (c.blocks, splits), Code("x"), parts, *(results if splits == 1 else (None,) * 6),
        *c.sizes, *c.strides, each, momentum, eps, *c.tile, STAGES, num_warps=8,
    )  # fmt: skip
    if splits > 1:
        padded = triton.next_power_of_2(splits)
        block = min(triton.next_power_of_2(channels), max(1, 2048 // padded))
        plan.launch(
            _finish_moments_kernel, (triton.cdiv(channels, block),), parts, *results,
            channels, splits, momentum, eps, padded, block,
        )  # fmt: skip
    return mean, rstd


def plan_affine(
    plan: Plan, c: Channels, affine: Affine, mean: Code, scale: Code, y: Code, variance_eps: object | None = None,
    saved: tuple[Code, Code] | None = None,
) -> None:  # fmt: skip
    """Plan y from x. With `variance_eps`, `scale` is a variance. Mean and 1 / deviation are written to `saved`, too."""
    eps = 0.0 if variance_eps is None else variance_eps
    plan.launch(
        _channel_affine_kernel, (c.blocks * c.steps,), Code("x"), mean, scale, affine.weight, affine.bias, y,
        *(saved or (None, None)), *c.sizes, *c.strides, affine.n_weights, eps,
        affine.shared, variance_eps is not None, *c.tile, num_warps=8,
    )  # fmt: skip


def plan_channel_gradient(
    plan: Plan, x: Tensor, c: Channels, grad: Channels, affine: Affine, mean: Code, scale: Code, results: list[Code | None],
    results_dtype: torch.dtype, constant: bool = False, variance_eps: object | None = None,
) -> None:  # fmt: skip
    """Plan dx, dweight and dbias, those that are not None; `constant` statistics do not depend on x."""
    dx, *vectors = results
    eps = 0.0 if variance_eps is None else variance_eps
    batch, channels, inner = c.sizes
    sums_wanted = not constant or vectors != [None, None]
    if sums_wanted and c.steps <= WHOLE_TILES and affine.shared == 1 and affine.n_weights == channels:
        plan.launch(
            _whole_gradient_kernel, (c.blocks,), Code("grad"), Code("x"), mean, scale, affine.weight, *results,
            *c.sizes, *grad.strides, *c.strides, eps, variance_eps is not None, constant, *c.tile, num_warps=8,
        )  # fmt: skip
        return
    tail = (affine.shared, variance_eps is not None, *c.tile)
    along = level = None
    if sums_wanted:
        splits, each = c.splits
        # what is a result already need not be summed again
        final = affine.n_weights == channels and results_dtype == opmath(x.dtype)
        ready = [v if final else None for v in vectors]
        sums = _sums(plan, x, ready, (1, channels)) if splits == 1 else _sums(plan, x, [None, None], (splits, channels))
        plan.launch(
            _channel_sums_kernel, (c.blocks, splits), Code("grad"), Code("x"), mean, scale, *sums,
            *c.sizes, *grad.strides, *c.strides, eps, each, *tail, STAGES, num_warps=8,
        )  # fmt: skip
        if not constant and affine.shared > 1:
            along, level = _plan_coefficients(plan, x, c, affine, sums, splits)
        elif splits > 1 and (final or not constant):
            parts, sums, splits = sums, _sums(plan, x, ready, (1, channels), "total"), 1
            plan_column_sums(plan, parts, sums, c.splits[0], channels)
        if not constant and affine.shared == 1:
            along, level = sums
        if not (final and splits == 1):
            wanted = [part if v is not None else None for part, v in zip(sums, vectors, strict=True)]
            plan_column_sums(plan, wanted, vectors, splits * channels // affine.n_weights, affine.n_weights)
    if dx is not None:
        plan.launch(
            _channel_gradient_kernel, (c.blocks * c.steps,), Code("grad"), Code("x"), mean, scale, affine.weight, along, level, dx,
            *c.sizes, *grad.strides, *c.strides, affine.n_weights, batch * inner, eps, *tail, num_warps=8,
        )  # fmt: skip


def _sums(plan: Plan, x: Tensor, ready: list[Code | None], shape: tuple[int, int], name: str = "parts") -> list[Code]:
    """Places for two sums of each channel and split: results that are `ready` to take them, else new ones."""
    names = (f"dweight_{name}", f"dbias_{name}")
    return [r or plan.empty(n, shape, opmath(x.dtype), x.device) for n, r in zip(names, ready, strict=True)]


def _plan_coefficients(plan: Plan, x: Tensor, c: Channels, affine: Affine, parts: list[Code | None], splits: int) -> list[Code]:
    batch, channels, inner = c.sizes
    n = channels // affine.shared
    found = [plan.empty(name, (n,), opmath(x.dtype), x.device) for name in ("along", "level")]
    block_d = min(256, triton.next_power_of_2(affine.shared))
    block = min(triton.next_power_of_2(n), max(1, 256 // block_d))
    plan.launch(
        _coefficients_kernel, (triton.cdiv(n, block),), *parts, affine.weight, *found,
        n, splits, affine.n_weights, affine.shared, batch * inner * affine.shared, block, block_d,
    )  # fmt: skip
    return found


def channels_of(t: Tensor, what: str) -> Channels:
    """`of_images` of a tensor; declines layouts that it does not know."""
    found = of_images(tuple(t.shape), t.stride()) if t.dim() > 1 else None
    if found is None:
        raise Declined(f"{what} is neither contiguous nor channels_last")
    return found


def strided_like(grad: Tensor, x: Channels, shape: tuple[int, ...]) -> Channels:
    """A gradient of x's geometry: laid out like x, or expanded from one number. Declines any other."""
    if not any(s for n, s in zip(shape, grad.stride(), strict=True) if n > 1):
        return Channels(x.sizes, (0, 0, 0))
    found = of_images(shape, grad.stride())
    if found is None or found.strides != x.strides:
        raise Declined("the gradient is not laid out like the input")
    return found
