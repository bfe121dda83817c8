"""embedding: rows of a table, gathered."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry, device

TILE = 4096  # elements of a program: 16 per thread of 8 warps
INTERPRETER_TILE = 1 << 16  # the interpreter pays per program, not per element
INDICES = frozenset({torch.int32, torch.int64})


# debug: device asserts stay in. They cost one compare and one never taken branch per program beside TILE copied
# elements, and an index out of range stops the program as in ATen instead of reading what is not the table's.
@LibEntry
@triton.jit(debug=True)
def _gather_rows_kernel(
    table_ptr, index_ptr, out_ptr,
    n_table, n_rows, n_cols, table_stride_row, table_stride_col,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    col_blocks = tl.cdiv(n_cols, BLOCK_COLS)
    row = (tl.program_id(0) // col_blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (tl.program_id(0) % col_blocks) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    index = tl.load(index_ptr + row, mask=row < n_rows, other=0).to(tl.int64)
    tl.device_assert((index >= 0) & (index < n_table), "embedding: index out of range")
    mask = (row < n_rows)[:, None] & (col < n_cols)[None, :]
    x = tl.load(table_ptr + (index * table_stride_row)[:, None] + (col * table_stride_col)[None, :], mask=mask, other=0)
    tl.store(out_ptr + (row * n_cols)[:, None] + col[None, :], x, mask=mask)


def row_tile(n_rows: int, n_cols: int) -> tuple[int, int, int]:
    """(rows, columns) of a tile over a matrix that is dense along its rows, and the programs that cover it."""
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(n_cols), tile)
    # no more rows than leave a few programs for every multiprocessor
    block_rows = max(1, min(tile // block_cols, triton.next_power_of_2(n_rows) // 512))
    if device.interpreted():
        block_rows = min(tile // block_cols, triton.next_power_of_2(n_rows))
    return block_rows, block_cols, triton.cdiv(n_rows, block_rows) * triton.cdiv(n_cols, block_cols)


def embeddings(dtype: torch.dtype) -> Iterator[Sample]:
    g = torch.Generator().manual_seed(0)
    for shape in ((), (1,), (9,), (4, 3), (2, 2, 3)):
        yield Sample((values((11, 6), dtype), torch.randint(0, 11, shape, generator=g)))
    yield Sample((values((300, 130), dtype), torch.randint(0, 300, (5,), generator=g).int(), 3))
    indices = torch.randint(0, 8, (6, 4), generator=g)
    for table in layouts((8, 10), dtype):
        yield Sample((table, indices, 2, True))
    yield Sample((values((8, 10), dtype), indices.t()))
    yield Sample((values((8, 10), dtype), indices[:, ::2]))


def bench_lookup(vocabulary: int, width: int, tokens: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((vocabulary, width), dtype, where), torch.randint(0, vocabulary, (tokens,), device=where)), {}

    return Workload(f"{tokens} of {vocabulary}x{width}", make)


def _check_indices(indices: Tensor, n: int) -> None:
    """Nothing waits for an interpreted kernel, so there ATen's own error can be had."""
    if not bool(((indices >= 0) & (indices < n)).all()):
        raise Declined("an index is out of range: ATen raises")


def _plan_embedding(
    weight: Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool, sparse: bool, out: Tensor | None = None
) -> Planned:
    """The arguments after indices matter to the gradient alone."""
    if weight.dim() != 2:
        raise Declined("weight is not a matrix: ATen raises")
    (n_table, n_cols), n_rows = weight.shape, indices.numel()
    shape = (*indices.shape, n_cols)
    if out is not None and not result_buffer(out, shape, weight.dtype, weight.device).is_contiguous():
        raise Declined("out= is not contiguous")
    plan = Plan("weight", "indices", "_padding_idx", "_scale_grad_by_freq", "_sparse", out=out)
    if device.interpreted():
        plan.do("{check}(indices, {n})", check=_check_indices, n=n_table)
    if not indices.is_contiguous():
        plan.do("indices = indices.contiguous()")
    result = plan.result(shape, weight.dtype, weight.device)
    block_rows, block_cols, programs = row_tile(n_rows, n_cols)
    plan.launch(
        _gather_rows_kernel, (programs,), Code("weight"), Code("indices"), result,
        n_table, n_rows, n_cols, *weight.stride(), block_rows, block_cols,
        num_warps=warps(block_rows * block_cols), sanitize_overflow=False,
    )  # fmt: skip
    return plan.build(result)


@op(
    "aten::embedding",
    dtypes=ALL,
    samples=embeddings,
    argument_dtypes={"indices": INDICES},
    plan=_plan_embedding,
    bench=(bench_lookup(32000, 4096, 16384), bench_lookup(32000, 4096, 1), bench_lookup(1000000, 64, 65536)),
)
def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False, out: Tensor | None = None
) -> Tensor:
    """Rows of weight (n, width), one for each index: the shape of indices plus (width,)."""
    return call(_plan_embedding, weight, indices, padding_idx, scale_grad_by_freq, sparse, out=out)


def warps(elements: int) -> int:
    """Warps of a program that copies or adds so many elements: 16 for each thread."""
    return max(1, min(8, elements // 512))
