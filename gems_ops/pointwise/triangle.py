"""triu and tril: matrices with one side of a diagonal set to 0."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.layout import INT32_EXTENT, collapse, contiguous_strides, extent
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.pointwise.cases import T, traffic
from gems_ops.samples import layouts, values
from gems_runtime import LibEntry, device

TILE = (32, 128)
INTERPRETER_TILE = (256, 256)  # the interpreter pays per program, not per element


@LibEntry
@triton.jit(do_not_specialize=["diagonal", "size_1"])
def _triangle_kernel(
    x_ptr, out_ptr, rows, cols, size_1, diagonal, x_row, x_col, x_0, x_1, out_row, out_col, out_0, out_1,
    UPPER: tl.constexpr, WIDE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """One tile of one matrix. What becomes 0 is not read."""
    pid = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    col_blocks = tl.cdiv(cols, BLOCK_COLS)
    col = (pid % col_blocks) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    rest = pid // col_blocks
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    row = (rest % row_blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    matrix = rest // row_blocks
    i_0, i_1 = matrix // size_1, matrix % size_1
    keep = col - row >= diagonal if UPPER else col - row <= diagonal
    inside = (row < rows) & (col < cols)
    x = tl.load(x_ptr + i_0 * x_0 + i_1 * x_1 + row * x_row + col * x_col, mask=inside & keep, other=0)
    tl.store(out_ptr + i_0 * out_0 + i_1 * out_1 + row * out_row + col * out_col, x, mask=inside)


def _matrices(self: Tensor, out: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Sizes and strides of the dimensions before the matrices', two of them."""
    sizes, (own, target) = collapse(self.shape[:-2], [self.stride()[:-2], out.stride()[:-2]])
    if len(sizes) > 2:
        raise Declined(f"matrices laid out in {len(sizes)} dimensions")
    lead = 2 - len(sizes)
    return [1] * lead + sizes, [0] * lead + own, [0] * lead + target


def _plan(self: Tensor, diagonal: int, upper: bool, out: Tensor | None, in_place: bool) -> Planned:
    if self.dim() < 2 or not -(2**31) < diagonal < 2**31:
        raise Declined(f"{self.dim()} dimensions, diagonal {diagonal}")
    plan = Plan("self", "diagonal", out=None if in_place else out)
    if in_place:
        target, written = self, Code("self")
    elif out is not None:
        target, written = result_buffer(out, self.shape, self.dtype, self.device), Code("out0")
    else:
        target = torch.empty_strided(self.shape, contiguous_strides(self.shape), dtype=self.dtype, device="meta")
        plan.has("self", self)
        written = plan.empty("out0", self.shape, self.dtype, self.device)
    (n_0, n_1), own, other = _matrices(self, target)
    rows, cols = self.shape[-2:]
    wide = max(extent(t.shape, t.stride()) for t in (self, target)) > INT32_EXTENT - TILE[0] * TILE[1]
    block = INTERPRETER_TILE if device.interpreted() else TILE
    grid = (n_0 * n_1 * triton.cdiv(rows, block[0]) * triton.cdiv(cols, block[1]),)
    strides = (*self.stride()[-2:], *own, *target.stride()[-2:], *other)
    plan.launch(_triangle_kernel, grid, Code("self"), written, rows, cols, n_1, diagonal, *strides, upper, wide, *block)
    return plan.build(written)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for diagonal in (0, 1, -2, 20):
        yield Sample((values((5, 7), dtype), diagonal))
    for x in layouts((3, 4, 6), dtype):
        yield Sample((x, 1))
    yield Sample((values((4, 3, 6, 5), dtype).permute(1, 0, 3, 2),))


_FIELDS = dict(dtypes=ALL, samples=_samples, bench=traffic(T), wide=True, in_place=True, aliasing=True)


@planned("aten::triu", **_FIELDS)
def triu(self: Tensor, diagonal: int = 0, *, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self from a diagonal of each matrix upwards, 0 below"""
    return _plan(self, diagonal, True, out, in_place)


@planned("aten::tril", **_FIELDS)
def tril(self: Tensor, diagonal: int = 0, *, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self from a diagonal of each matrix downwards, 0 above"""
    return _plan(self, diagonal, False, out, in_place)
