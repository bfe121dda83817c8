"""Kernel pieces that address rows and compute in float32, or in float64 where the data is."""

from __future__ import annotations

import triton
import triton.language as tl

from gems_runtime import device

_INTERPRETED = tl.constexpr(device.interpreted())


@triton.jit
def row_offsets(rows, inner, stride_outer, stride_inner):
    """Offsets [R] of the rows' first elements; a row is counted as (outer, inner). rows is int64."""
    return rows // inner * stride_outer + rows % inner * stride_inner


@triton.jit
def load_rows(ptr, row, stride_row, col, mask):
    """Elements [R, N] of dense rows, as `widen` gives them; 0 outside the mask. row is int64."""
    return widen(tl.load(ptr + (row * stride_row)[:, None] + col[None, :], mask=mask, other=0))


@triton.jit
def widen(x):
    """x in the dtype arithmetic is done in."""
    if x.dtype == tl.float64:
        return x
    else:
        return x.to(tl.float32)


@triton.jit
def over(total, n):
    """total / n, rounded once: a GPU's own division is 2 bits short, and rows of one number would not vanish exactly."""
    if total.dtype == tl.float64:
        return total / n
    else:
        return tl.div_rn(total, tl.full(total.shape, n, tl.float32))


@triton.jit
def widen_again(x, ONCE_MORE: tl.constexpr = False):
    """`widen`, of which a compiler for NVIDIA does not know that it was done before: so it keeps 16-bit elements, not both.

    The third time is ONCE_MORE: two instructions of one text would be one.
    """
    if _INTERPRETED or x.dtype.primitive_bitwidth != 16:
        return widen(x)
    elif ONCE_MORE:
        return widen(tl.inline_asm_elementwise("mov.b32 $0, $1; // once more", "=r,r", [x], dtype=x.dtype, is_pure=True, pack=2))
    else:
        return widen(tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=True, pack=2))
