"""Kernel pieces that address rows and compute in float32, or in float64 where the data is."""

from __future__ import annotations

import triton
import triton.language as tl


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
def take_place(counters_ptr, SHARE: tl.constexpr):
    """(group, place in it): programs take places in the order in which they start.

    A program that waits for its group then waits for programs that run already or start next, whatever the order of
    their numbers is: all groups but the last are complete. With at most MOST_SHARED programs in a group, a device has
    room for the last one's too.
    """
    ticket = tl.atomic_add(counters_ptr, 1)
    return (ticket // SHARE).to(tl.int64), ticket % SHARE


@triton.jit
def meet(counters_ptr, group, SHARE: tl.constexpr):
    """Return when every program of the group has come here; what they stored before can be loaded after, past the L1 cache."""
    tl.debug_barrier()
    arrived = tl.atomic_add(counters_ptr + 1 + group, 1, sem="acq_rel") + 1
    while arrived < SHARE:
        arrived = tl.atomic_add(counters_ptr + 1 + group, 0, sem="acquire")
    tl.debug_barrier()
