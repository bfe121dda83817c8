"""sort and topk: short rows sorted whole, or the first k of each selected and then sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
from torch import Tensor

from gems_ops.op import ALL, BOOL, Declined, Sample, op, result_buffer
from gems_ops.order.radix import is_short, sort_rows
from gems_ops.order.select import select_kernel
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

# topk reads a row in chunks that hold k, two warps for each 512 elements. 8192 rows of 128256, k 50, H200, 2026-11-22:
# chunk 512 with 2 warps 3.9 ms in bfloat16 and 4.5 in float32, 2048 with 8 6.4 and 9.3, ATen 7.5 and 11.6.
_LEAST_CHUNK, _MOST_K = 512, 2048
# One program reads a row; ATen spreads long ones over several, which is faster where rows are few.
_FEW_ROWS, _LONG_ROW = 512, 65536


def matrix(x: Tensor, dim: int) -> Tensor:
    """x with dim last, contiguous, as a matrix."""
    return (x.movedim(dim, -1) if x.dim() else x).contiguous().view(-1, x.shape[dim] if x.dim() else 1)


def dimension(x: Tensor, dim: int) -> int:
    """How many elements x has along dim. Declines a dim out of range."""
    ndim = max(x.dim(), 1)
    if not -ndim <= dim < ndim:
        raise Declined(f"dim {dim} is out of range: ATen raises")
    return x.shape[dim] if x.dim() else 1


def _along(x: Tensor, dim: int, outs: tuple[Tensor, Tensor], rows: Callable[[Tensor, Tensor, Tensor], None]) -> tuple[Tensor, Tensor]:
    """Let `rows` fill matrices of the results, which are `outs` themselves where dim is the last of dense tensors."""
    direct = all(t.is_contiguous() and dim in (-1, max(t.dim() - 1, 0)) for t in outs)
    found = outs if direct else tuple(torch.empty_like(matrix(t, dim)) for t in outs)
    rows(matrix(x, dim), *found)
    if not direct:
        for t, source in zip(outs, found, strict=True):
            target = t.movedim(dim, -1) if t.dim() else t
            target.copy_(source.view(target.shape))
    return outs


def _specials(dtype: torch.dtype) -> Tensor:
    nan, inf = float("nan"), float("inf")
    return torch.tensor([1.0, nan, -inf, 0.0, -0.0, inf, -nan, 0.0, -1.0, 65504.0, -0.0], dtype=dtype)


def _sorts(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (2, 40)):
        yield Sample((values(shape, dtype),), {"stable": True, "dim": -1, "descending": False})
        yield Sample((values(shape, dtype),), {"stable": True, "dim": 0, "descending": True})
    for x in layouts((6, 10), dtype):
        yield Sample((x,), {"stable": True, "dim": 0})
    if dtype.is_floating_point:
        yield Sample((_specials(dtype),), {"stable": True, "descending": True})
        yield Sample((_specials(dtype),), {"stable": None})


def _bench_sort(shape: tuple[int, ...], dim: int = -1) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, where),), {"stable": True, "dim": dim}

    return Workload("x".join(map(str, shape)) + f" dim {dim}", make)


@op(
    "aten::sort.stable", dtypes=frozenset(d for d in ALL if d.itemsize <= 4), samples=_sorts, opinfo=("sort", "argsort", "msort"),
    bench=(_bench_sort((65536, 256)), _bench_sort((8192, 1024)), _bench_sort((512, 8192), 0)),
)  # fmt: skip
def sort(
    self: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The values in order along dim, nan as the greatest, and where each was. Always stable."""
    if not is_short(dimension(self, dim), self.dtype):
        raise Declined("rows this long are sorted faster by ATen")
    # New results keep the order of the dimensions in memory.
    dtypes = (self.dtype, torch.int64)
    given = tuple(torch.empty_like(self, dtype=d) for d in dtypes) if out is None else out
    outs = tuple(result_buffer(t, self.shape, d, self.device) for t, d in zip(given, dtypes, strict=True))
    return _along(self, dim, outs, lambda x, found, indices: sort_rows(x, descending, found, indices))


def _tops(dtype: torch.dtype) -> Iterator[Sample]:
    # Distinct values: of equal ones ATen may give any.
    for shape in ((1,), (7,), (3, 5), (2, 3, 4)):
        n = torch.Size(shape).numel()
        x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).view(shape).to(dtype)
        for k in {1, shape[-1] // 2, shape[-1]} - {0}:
            yield Sample((x, k))
            yield Sample((x, min(k, shape[0]), 0, False, True))
    if dtype in (torch.float32, torch.int64):  # several chunks, and values that all come too late or all in time
        yield Sample((_long(dtype, 1601), 5))
        yield Sample((_long(dtype, 1601).sort().values, 7, -1, True, True))


def _long(dtype: torch.dtype, n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(n)).to(dtype).view(1, -1)


def _bench_topk(n_rows: int, n_cols: int, k: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        # Distinct in every row, so that ATen's choice of equal ones does not matter.
        rows = torch.arange(n_cols, device=where).repeat(n_rows, 1)
        steps = torch.randint(0, n_cols, (n_rows, 1), device=where)
        return (((rows * 40503 + steps) % n_cols).to(dtype), k), {}

    return Workload(f"{n_rows}x{n_cols} k {k}", make)


@op(
    # torch.testing's samples have equal elements, of which ATen may give any; test_order_seams.py has ours.
    "aten::topk", dtypes=ALL - BOOL, samples=_tops, any_of_equal=True, opinfo=("none",),
    bench=(_bench_topk(8192, 128256, 50), _bench_topk(8192, 8192, 8), _bench_topk(65536, 256, 8), _bench_topk(512, 32000, 1)),
)  # fmt: skip
def topk(
    self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, out: tuple[Tensor, Tensor] | None = None  # noqa: A002
) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) along dim in order, nan as the greatest, and where they were; of equal ones the first."""
    n = dimension(self, dim)
    n_rows = self.numel() // n
    short = is_short(n, self.dtype)
    if not 0 < k <= n:
        raise Declined(f"k is {k} of {n}")
    if not short and (k > _MOST_K or (n_rows < _FEW_ROWS and n > _LONG_ROW) or n >= 2**31):
        raise Declined(f"k {k} of {n_rows} rows of {n} is found faster by ATen")
    shape = list(self.shape)
    if shape:
        shape[dim] = k
    given = zip(out or (None, None), (self.dtype, torch.int64), strict=True)
    outs = tuple(result_buffer(t, shape, dtype, self.device) for t, dtype in given)
    if short:
        return _along(self, dim, outs, lambda x, found, indices: sort_rows(x, largest, found, indices))
    return _along(self, dim, outs, lambda x, found, indices: _select(x, k, largest, found, indices))


def _select(x: Tensor, k: int, largest: bool, found: Tensor, indices: Tensor) -> None:
    n_rows, n_cols = x.shape
    chunk = max(_LEAST_CHUNK, triton.next_power_of_2(k))
    spare = triton.next_power_of_2(chunk + k)
    kept, spare_values = (x.new_empty((n_rows, n)) for n in (k, spare))
    numbers, spare_indices = (x.new_empty((n_rows, n), dtype=torch.int32) for n in (k, spare))
    select_kernel[(n_rows,)](
        x, kept, numbers, spare_values, spare_indices, n_cols, k, largest, chunk, spare, num_warps=chunk // 256
    )
    sort_rows(kept, largest, found, indices, numbers)
