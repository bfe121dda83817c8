"""Matrix products whose result has few tiles: decoding (a handful of rows) and long K.

Each program streams a band of the large operand once. Where the bands alone would leave the device idle, K is split
too: every split writes its float32 partial result, and a second kernel adds them in a fixed order (no atomics).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from gems_ops.layout import contiguous_strides
from gems_ops.linalg.operands import Product, input_precision
from gems_ops.linalg.tile import accumulate, load_tile, store_tile
from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry

# Programs that keep an H200's 132 multiprocessors busy: 32-column bands of 4096 just do, without a second kernel.
_ENOUGH_PROGRAMS = 128
_FEWEST_BLOCKS = 8  # of K in one split: less than that, and starting a program costs more than it streams
_COMBINE_BLOCK = 512
_STAGES = 6
# One row whose K is at most this is multiplied in one step: all that a program reads is under way at once.
_SHORT_K = 128
_SHORT_K_BYTES = 16384


@dataclass(frozen=True)
class _Split:
    block_m: int
    block_n: int
    block_k: int
    tiles: int
    splits: int
    k_per_split: int
    stages: int


def _blocks(m: int, n: int, k: int, itemsize: int, along_k: bool) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, BLOCK_K). BLOCK_M is 1 for one row that is multiplied without tensor cores.

    Each thread must load four bytes of that row at least, or Triton waits for the row in every step instead of fetching
    it stages ahead: 16-bit types need 256 of K for 128 threads.
    """
    block_n = 32 if n > 16 else 16
    if m == 1 and k <= _SHORT_K:
        block_k = max(16, triton.next_power_of_2(k))
        return 1, min(triton.next_power_of_2(n), max(block_n, min(256, _SHORT_K_BYTES // itemsize // block_k))), block_k
    if m == 1 and itemsize == 4:
        return 1, block_n, 64
    if m == 1 and along_k:
        return 1, 16, 256
    block_m = min(64, max(16, triton.next_power_of_2(m)))
    return block_m, block_n, (256 if block_m <= 16 else 128) // itemsize


@lru_cache(maxsize=4096)
def _split(m: int, n: int, k: int, batch: int, itemsize: int, along_k: bool) -> _Split:
    """Blocks of 8 KiB of the large operand where they are streamed, K split to fill the device.

    Six stages hold five blocks of both operands, at most 60 KiB of shared memory, which the smallest target has.
    """
    block_m, block_n, block_k = _blocks(m, n, k, itemsize, along_k)
    tiles = batch * -(-m // block_m) * -(-n // block_n)
    blocks = -(-k // block_k)
    splits = max(1, min(_ENOUGH_PROGRAMS // tiles, blocks // _FEWEST_BLOCKS, 64))
    k_per_split = -(-blocks // splits) * block_k
    stages = max(1, min(_STAGES, k_per_split // block_k))
    return _Split(block_m, block_n, block_k, tiles, -(-k // k_per_split), k_per_split, stages)


def is_skinny(m: int, n: int, k: int, batch: int) -> bool:
    """True if large tiles would waste most of their work or leave most of a GPU idle."""
    if m <= 16 or n <= 16:
        return True
    return k >= 2048 and 2 * batch * -(-m // 64) * -(-n // 64) <= _ENOUGH_PROGRAMS


@LibEntry
@triton.jit
def _skinny_matmul_kernel(
    a_ptr,
    c_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    k_per_split,
    stride_ab,
    stride_am,
    stride_ak,
    stride_cb,
    stride_ck,
    stride_cn,
    stride_os,
    stride_ob,
    stride_om,
    stride_on,
    stride_ib,
    stride_im,
    stride_in,
    alpha,
    beta,
    INPUT_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    tiles_n = tl.cdiv(N, BLOCK_N)
    tile = tl.program_id(0) // tl.cdiv(M, BLOCK_M)
    rows = (tl.program_id(0) % tl.cdiv(M, BLOCK_M)).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (tile % tiles_n).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = (tile // tiles_n).to(tl.int64)
    split = tl.program_id(1)
    start = split * k_per_split
    stop = min(start + k_per_split, K)
    ks = start.to(tl.int64) + tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + batch * stride_ab + rows[:, None] * stride_am + ks[None, :] * stride_ak
    c_ptrs = c_ptr + batch * stride_cb + ks[:, None] * stride_ck + cols[None, :] * stride_cn
    a_step = tl.full((), BLOCK_K, tl.int64) * stride_ak
    c_step = tl.full((), BLOCK_K, tl.int64) * stride_ck

    if BLOCK_M == 1:
        # One row without tensor cores: multiply where the data lies and add up once, at the end.
        products = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
        for k in tl.range(start, stop, BLOCK_K, num_stages=NUM_STAGES):
            a = load_tile(a_ptrs, rows < M, ks < stop - (k - start), True, EVEN_K)
            c = load_tile(c_ptrs, ks < stop - (k - start), cols < N, EVEN_K, EVEN_N)
            products += tl.trans(a).to(tl.float32) * c.to(tl.float32)
            a_ptrs += a_step
            c_ptrs += c_step
        acc = tl.sum(products, axis=0)[None, :]
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in tl.range(start, stop, BLOCK_K, num_stages=NUM_STAGES):
            a = load_tile(a_ptrs, rows < M, ks < stop - (k - start), False, EVEN_K)
            c = load_tile(c_ptrs, ks < stop - (k - start), cols < N, EVEN_K, EVEN_N)
            if c.dtype == tl.float32:
                # Each block is summed from zero: one chain of 16384 additions errs seven times as much. Subtracted, since Triton
                # makes one chain of it again where blocks are added; the sign is exact.
                acc -= accumulate(a, c, tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32), INPUT_PRECISION)
            else:
                acc = accumulate(a, c, acc, INPUT_PRECISION)
            a_ptrs += a_step
            c_ptrs += c_step
        if c_ptr.dtype.element_ty == tl.float32:
            acc = 0.0 - acc

    store_tile(
        acc,
        rows[:, None],
        cols[None, :],
        (rows < M)[:, None] & (cols < N)[None, :],
        out_ptr + split.to(tl.int64) * stride_os + batch * stride_ob,
        stride_om,
        stride_on,
        bias_ptr,
        batch * stride_ib,
        stride_im,
        stride_in,
        alpha,
        beta,
    )


@LibEntry
@triton.jit
def _combine_splits_kernel(
    partial_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    n_rows,
    stride_ob,
    stride_om,
    stride_on,
    stride_ib,
    stride_im,
    stride_in,
    alpha,
    beta,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add partial [SPLITS, n_rows, N] (dense; n_rows is batch * M) over the splits, in order, into out."""
    blocks = tl.cdiv(N, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    batch = row // M
    cols = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < N
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(partial_ptr + (split * n_rows + row) * N + cols, mask=ok, other=0.0)
    store_tile(
        acc,
        row % M,
        cols,
        ok,
        out_ptr + batch * stride_ob,
        stride_om,
        stride_on,
        bias_ptr,
        batch * stride_ib,
        stride_im,
        stride_in,
        alpha,
        beta,
    )


def multiply(plan: Plan, p: Product) -> None:
    """Plan the launches that compute p, whose shape `is_skinny`."""
    if p.n < p.m:
        p = p.transposed()
    if p.m == 1:
        # Never used; where it is 1, as K's is, Triton takes the row for a column, and 8192 x 8192 times a vector took 61 us in
        # bfloat16, ATen's 35 (H200, 2026-11-26).
        p.a_strides = (p.a_strides[0], 0, p.a_strides[2])
    split = _split(p.m, p.n, p.k, p.batch, p.dtype.itemsize, p.c_strides[1] == 1)
    if split.splits == 1:
        _stream(plan, p, split, p.out, (0, *p.out_strides), p.bias, p.alpha)
        return
    shape = (split.splits, p.batch, p.m, p.n)
    partial = plan.empty("partial", shape, torch.float32, p.device)
    _stream(plan, p, split, partial, contiguous_strides(shape), None, 1.0)
    plan.launch(
        _combine_splits_kernel, (p.batch * p.m * -(-p.n // _COMBINE_BLOCK),),
        partial, p.bias, p.out, p.m, p.n, p.batch * p.m, *p.out_strides, *p.bias_strides, p.alpha, p.beta,
        split.splits, _COMBINE_BLOCK,
    )  # fmt: skip


def _stream(
    plan: Plan, p: Product, split: _Split, target: Code, strides: tuple[int, ...], bias: Code | None, alpha: float
) -> None:
    """Launch the streaming kernel into `target`, strided (split, batch, row, column)."""
    plan.launch(
        _skinny_matmul_kernel, (split.tiles, split.splits),
        p.a, p.c, bias, target, p.m, p.n, p.k, split.k_per_split,
        *p.a_strides, *p.c_strides, *strides, *p.bias_strides, alpha, p.beta,
        input_precision(plan, p.dtype), split.block_m, split.block_n, split.block_k,
        p.n % split.block_n == 0, p.k % split.block_k == 0, split.stages,
        num_warps=4,
    )  # fmt: skip
