"""Programs that hold one row together, each its part in registers, and meet in global memory to learn what the others found.

A row too long for one program's registers is so read once; without a meeting it is read a second time, for its results.

Why nobody waits for ever: programs take their places by a ticket, so that places are filled in the order in which programs
start, whatever order that is. The programs of a row whose last place is taken all run, and finish. Only the one row being
filled may wait, for programs that start as soon as others end: those of finished rows, of this kernel or of another. What
must not happen is that rows being filled occupy the whole device. The registers of a program are bounded so that the device
holds a number of them that is known, and a row has at most an eighth of that many parts: more than eight such kernels
would have to run at the same moment, on as many streams, each stopped within a row; or one, on a partition of the device of
less than an eighth of its multiprocessors.

Results do not depend on who comes first: each program reads the parts of its row and combines them in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from gems_ops.create.fill import fill_dense
from gems_ops.plan import Code, Plan
from gems_ops.reduce.engine import sm_count
from gems_ops.rows.access import row_offsets
from gems_ops.rows.tiling import Rows, RowStrides, lie_across
from gems_runtime import device

_KERNELS = 8  # that may meet at the same time, see above
_ACROSS = 32  # neighbouring rows of a tile across the memory, at least
_REGISTERS = 65536  # of a multiprocessor
# Arrivals are counted this far behind the tickets, which every program draws: in a cache line of their own.
_ARRIVALS = tl.constexpr(32)


@dataclass(frozen=True)
class Share:
    """A part of a row, or of several: its program, and how many of those a multiprocessor holds at least."""

    elements: int
    num_warps: int
    resident: int
    rows: int = 1  # of those that a part has; across the memory at least 32

    @property
    def options(self) -> dict[str, int]:
        """Of the launch."""
        return {"num_warps": self.num_warps, "maxnreg": min(255, _REGISTERS // (32 * self.num_warps * self.resident) // 8 * 8)}


@dataclass(frozen=True)
class Shares:
    """What to try, in order, for rows along the memory and for rows across it."""

    along: tuple[Share, ...]
    across: tuple[Share, ...] = ()


@dataclass(frozen=True)
class Meeting:
    """Groups of block_r rows, each in `parts` parts of block_n columns, with one program for each part."""

    share: Share
    block_r: int
    block_n: int
    groups: int
    parts: int

    @property
    def programs(self) -> int:
        return self.groups * self.parts

    @property
    def resident(self) -> int:
        """Programs that the device holds at least."""
        return self.share.resident * sm_count()

    @property
    def padded_parts(self) -> int:
        return triton.next_power_of_2(self.parts)


def meeting(rows: Rows, strides: RowStrides, dtype: torch.dtype, shares: Shares) -> Meeting | None:
    """How programs meet over `rows` of a tensor with these strides, in parts of the first share that fits.

    None where they must not, or where there are too few to fill the device.
    """
    across = rows.n_rows >= _ACROSS and lie_across(rows, strides)
    for share in shares.across if across else shares.along:
        m = meeting_of(rows, dtype, share, max(_ACROSS, share.rows) if across else share.rows)
        if m is not None:
            # Few rows are read twice from the second cache, by more programs.
            return m if m.programs >= 4 * sm_count() else None
    return None


def meeting_of(rows: Rows, dtype: torch.dtype, share: Share, block_r: int) -> Meeting | None:
    """How programs meet in such parts of block_r rows; None where they must not."""
    block_n = share.elements // block_r
    m = Meeting(share, block_r, block_n, triton.cdiv(rows.n_rows, block_r), triton.cdiv(rows.n_cols, block_n))
    fits = 1 < m.parts <= m.resident // _KERNELS
    return m if fits and dtype != torch.float64 and _may_wait() else None


def _may_wait() -> bool:
    """True if programs run at the same time, and an acquiring atomic operation sees what came before a releasing one."""
    return not device.interpreted() and device.identity().vendor == "nvidia"


def plan_meeting(plan: Plan, m: Meeting, where: torch.device, *names: str, places: int = 1) -> tuple[Code, ...]:
    """Allocate counters, which start at 0, and for each name the float32 numbers of all parts, in so many places."""
    counters = plan.empty("counters", (_ARRIVALS.value + m.groups,), torch.int32, where)
    fill_dense(plan, counters, _ARRIVALS.value + m.groups, torch.int32, 0)
    return counters, *(plan.empty(name, (places * m.programs, m.block_r), torch.float32, where) for name in names)


@triton.jit
def take_place(counters_ptr, parts):
    """This program's group of rows, int64, and its part of them."""
    ticket = tl.atomic_add(counters_ptr, 1, sem="relaxed")
    return (ticket // parts).to(tl.int64), ticket % parts


@triton.jit
def held(group, part, n_rows, n_cols, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of a part: its rows [R], its first column, its columns [N] counted from there, and which elements exist, [R, N].

    Counted from the part's own first column, what a thread keeps of its places until it stores is small.
    """
    rows = group * BLOCK_R + tl.arange(0, BLOCK_R)
    first, cols = part.to(tl.int64) * BLOCK_N, tl.arange(0, BLOCK_N)
    return rows, first, cols, (rows < n_rows)[:, None] & (cols < n_cols - first)[None, :]


@triton.jit
def places(rows, first, cols, inner, stride_outer, stride_inner, stride_col):
    """Offsets [R, N] of what a part holds of a tensor; a row is counted as (outer, inner)."""
    start = row_offsets(rows, inner, stride_outer, stride_inner) + first * stride_col
    return start[:, None] + cols.to(tl.int64)[None, :] * stride_col


@triton.jit
def publish(ptr, group, part, parts, x):
    """Write this part's numbers, [R]."""
    tl.store(ptr + (group * parts + part) * x.shape[0] + tl.arange(0, x.shape[0]), x)


@triton.jit
def meet(counters_ptr, group, parts, times):
    """Wait until all parts of the group have come here `times` times: then all see what each has published before."""
    # Atomic operations are one thread's: the others' stores come before this barrier, their loads after the next.
    tl.debug_barrier()
    arrivals_ptr = counters_ptr + _ARRIVALS + group
    arrived = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") + 1
    while arrived < parts * times:
        arrived = tl.atomic_add(arrivals_ptr, 0, sem="acquire")
    tl.debug_barrier()


@triton.jit
def published(ptr, group, parts, other, R: tl.constexpr, PARTS: tl.constexpr):
    """What all parts of the group have published, [R, PARTS]; `other` beyond the last part."""
    part = tl.arange(0, PARTS)
    at = (group * parts + part)[None, :] * R + tl.arange(0, R)[:, None]
    # Past the first cache, which may hold what was there before.
    return tl.load(ptr + at, mask=(part < parts)[None, :], other=other, cache_modifier=".cg")


@triton.jit
def published_sum(ptr, group, parts, R: tl.constexpr, PARTS: tl.constexpr):
    """The sum over all parts of what the group has published, [R].

    Row by row: in a tile, which a compiler lays out like the rows' own elements, every thread would read up to all R x PARTS.
    """
    row, part = tl.arange(0, R), tl.arange(0, PARTS)
    total = tl.zeros((R,), tl.float32)
    for r in tl.static_range(R):
        x = tl.load(ptr + (group * parts + part) * R + r, mask=part < parts, other=0.0, cache_modifier=".cg")
        total = tl.where(row == r, tl.sum(x, 0), total)
    return total
