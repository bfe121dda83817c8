"""Pieces that the matrix product kernels share: loading operand tiles, multiplying them, storing a result tile."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_runtime import device

# The interpreter of Triton 3.6 multiplies the bit patterns of bfloat16 (only float8 is widened in its create_dot).
# Drop when bfloat16 tl.dot is right there.
_WIDEN_BFLOAT16 = tl.constexpr(device.interpreted())


@triton.jit
def load_tile(ptrs, row_ok, col_ok, EVEN_ROWS: tl.constexpr, EVEN_COLS: tl.constexpr):
    """Load ptrs [R, C]; zero where a mask is false. An EVEN direction has no mask, so that loads stay 16 bytes wide."""
    if EVEN_ROWS and EVEN_COLS:
        return tl.load(ptrs)
    elif EVEN_ROWS:
        return tl.load(ptrs, mask=col_ok[None, :], other=0.0)
    elif EVEN_COLS:
        return tl.load(ptrs, mask=row_ok[:, None], other=0.0)
    else:
        return tl.load(ptrs, mask=row_ok[:, None] & col_ok[None, :], other=0.0)


@triton.jit
def accumulate(a, c, acc, INPUT_PRECISION: tl.constexpr):
    """acc + a @ c, in float32."""
    if _WIDEN_BFLOAT16 and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        c = c.to(tl.float32)
    return tl.dot(a, c, acc, input_precision=INPUT_PRECISION)


@triton.jit
def store_tile(acc, rows, cols, ok, out_ptr, stride_om, stride_on, bias_ptr, bias_offset, stride_im, stride_in, alpha, beta):
    """Store alpha * acc + beta * bias at out[rows, cols]; no bias if bias_ptr is None. rows, cols and the offset are int64."""
    acc = acc * alpha
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + bias_offset + rows * stride_im + cols * stride_in, mask=ok)
        acc += beta * bias.to(tl.float32)
    tl.store(out_ptr + rows * stride_om + cols * stride_on, acc.to(out_ptr.dtype.element_ty), mask=ok)
