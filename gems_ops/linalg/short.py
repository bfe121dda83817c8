"""Batches of products with a short K: a program keeps its columns of c and goes down the rows of a.

One step of K leaves nothing to overlap inside a product; here the next rows arrive while results of the last are written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gems_ops.linalg.operands import Product, input_precision
from gems_ops.linalg.tile import accumulate, load_tile, store_tile
from gems_ops.plan import Plan
from gems_runtime import LibEntry

LONGEST_K = 128
# Rows and columns of a block; two programs of 90 KiB share a multiprocessor. 42 us for 128 of 512x512x128 in bfloat16 as cuBLAS, 47 in
# blocks of 64x256, 50 with the best of tiled.py (H100, 2026-11-27).
BLOCKS, WARPS = (64, 128), 4
STAGES, STAGES_WITH_BIAS = 3, 2  # of the loop over rows, which fetches what is added ahead, too
FEWEST_PROGRAMS = 264  # two for each of an H200's multiprocessors


def is_short(p: Product) -> bool:
    """True for 16-bit products whose blocks come out even."""
    even = p.m % BLOCKS[0] == 0 and p.n % BLOCKS[1] == 0 and p.k in (64, LONGEST_K)
    lies = p.a_strides[2] == 1 and 1 in p.c_strides[1:]
    return even and lies and p.dtype.itemsize == 2 and p.m >= 4 * BLOCKS[0] and p.batch * p.n >= FEWEST_PROGRAMS * BLOCKS[1]


@LibEntry
@triton.jit
def _short_matmul_kernel(
    a_ptr, c_ptr, bias_ptr, out_ptr, M, N, stride_ab, stride_am, stride_ak, stride_cb, stride_ck, stride_cn,
    stride_ob, stride_om, stride_on, stride_ib, stride_im, stride_in, alpha, beta,
    INPUT_PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tiles_n = N // BLOCK_N
    batch = (tl.program_id(0) // tiles_n).to(tl.int64)
    cols = (tl.program_id(0) % tiles_n).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, K).to(tl.int64)
    c = load_tile(c_ptr + batch * stride_cb + ks[:, None] * stride_ck + cols[None, :] * stride_cn, None, None, True, True)  # [K, BLOCK_N]
    a_ptr += batch * stride_ab
    for m in tl.range(0, M, BLOCK_M, num_stages=STAGES):
        rows = (m + tl.arange(0, BLOCK_M)).to(tl.int64)
        a = load_tile(a_ptr + rows[:, None] * stride_am + ks[None, :] * stride_ak, None, None, True, True)  # [BLOCK_M, K]
        acc = accumulate(a, c, tl.zeros((BLOCK_M, BLOCK_N), tl.float32), INPUT_PRECISION)
        store_tile(
            acc, rows[:, None], cols[None, :], None, out_ptr + batch * stride_ob, stride_om, stride_on,
            bias_ptr, batch * stride_ib, stride_im, stride_in, alpha, beta,
        )  # fmt: skip


def multiply(plan: Plan, p: Product) -> None:
    """Plan the launch of the kernel on p."""
    plan.launch(
        _short_matmul_kernel, (p.batch * (p.n // BLOCKS[1]),), p.a, p.c, p.bias, p.out, p.m, p.n,
        *p.a_strides, *p.c_strides, *p.out_strides, *p.bias_strides, p.alpha, p.beta,
        input_precision(plan, p.dtype), *BLOCKS, p.k, STAGES if p.bias is None else STAGES_WITH_BIAS, num_warps=WARPS,
    )  # fmt: skip
