"""sort and topk: rows sorted whole, or the first k of each selected and then sorted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from gems_ops.op import ALL, Declined, Sample, op, result_buffer
from gems_ops.order.radix import WHOLE, RowSort
from gems_ops.order.select import select_kernel
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

_CHUNK = 4096  # elements of a row that a program of topk looks at in one step: 16 for each of 256 threads
_INDEX_LIMIT = 2**31 - 1  # positions in a row are int32 until the end
# A row of topk is one program's. Fewer and longer ones leave an H200 idle; ATen spreads them over programs.
_FEW_ROWS, _LONG_ROW = 64, 65536


def _rows(x: Tensor, dim: int) -> tuple[Tensor, int]:
    """x as a contiguous matrix whose rows run along dim, and that dimension counted from 0. Declines a dim out of range."""
    ndim = max(x.dim(), 1)
    if not -ndim <= dim < ndim:
        raise Declined(f"dim {dim} is out of range: ATen raises")
    dim %= ndim
    if x.dim() == 0:
        return x.reshape(1, 1), 0
    if x.shape[dim] > _INDEX_LIMIT:
        raise Declined(f"dimension {dim} has {x.shape[dim]} elements, more than {_INDEX_LIMIT}")
    return x.movedim(dim, -1).contiguous().view(-1, x.shape[dim]), dim


def _first_of_rows(x: Tensor, dim: int, k: int, descending: bool, outs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The first k of every row along dim, into `outs`."""
    rows, dim = _rows(x, dim)
    n_rows, n_cols = rows.shape
    # A dense row is the result's own; other layouts get theirs by a copy.
    direct = all(t.is_contiguous() and dim == max(t.dim() - 1, 0) for t in outs)
    found = outs if direct else tuple(torch.empty((n_rows, k), dtype=t.dtype, device=x.device) for t in outs)
    if n_cols <= WHOLE or k == n_cols:
        RowSort(n_rows, n_cols, x.dtype, descending, k).run(rows, *found)
    else:
        _select(rows, k, descending, found)
    if not direct:
        for t, source in zip(outs, found, strict=True):
            target = t.movedim(dim, -1) if t.dim() else t
            target.copy_(source.view(target.shape))
    return outs


def _select(rows: Tensor, k: int, largest: bool, found: tuple[Tensor, ...]) -> None:
    n_rows, n_cols = rows.shape
    spare = triton.next_power_of_2(_CHUNK + k)
    kept = torch.empty((n_rows, k), dtype=rows.dtype, device=rows.device)
    numbers = torch.empty((n_rows, k), dtype=torch.int32, device=rows.device)
    spares = (torch.empty((n_rows, spare), dtype=t.dtype, device=rows.device) for t in (kept, numbers))
    select_kernel[(n_rows,)](rows, kept, numbers, *spares, n_cols, k, largest, _CHUNK, spare, num_warps=8)
    RowSort(n_rows, k, rows.dtype, largest, k).run(kept, *found, index=numbers)


def _sorts(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 5), (2, 3, 4), (2, 300)):
        yield Sample((values(shape, dtype),), {"stable": True, "dim": -1, "descending": False})
        yield Sample((values(shape, dtype),), {"stable": True, "dim": 0, "descending": True})
    for x in layouts((6, 10), dtype):
        yield Sample((x,), {"stable": True, "dim": 0})
    if dtype.is_floating_point:
        yield Sample((_specials(dtype),), {"stable": True, "descending": True})
        yield Sample((_specials(dtype),), {"stable": True})


def _specials(dtype: torch.dtype) -> Tensor:
    nan, inf = float("nan"), float("inf")
    return torch.tensor([1.0, nan, -inf, 0.0, -0.0, inf, -nan, 0.0, -1.0, 65504.0, -0.0], dtype=dtype)


def _bench_sort(shape: tuple[int, ...], dim: int = -1) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, where),), {"stable": True, "dim": dim}

    return Workload("x".join(map(str, shape)) + f" dim {dim}", make)


@op(
    "aten::sort.stable", dtypes=ALL, samples=_sorts, opinfo=("sort", "argsort", "msort"),
    bench=(_bench_sort((8192, 8192)), _bench_sort((65536, 512)), _bench_sort((1024, 4096), 0), _bench_sort((1 << 24,))),
)  # fmt: skip
def sort(
    self: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The values in order along dim, nan as the greatest, and where each was. Always stable."""
    dtypes = (self.dtype, torch.int64)
    # New results keep the order of the dimensions in memory.
    made = tuple(torch.empty_like(self, dtype=d) for d in dtypes) if out is None else out
    outs = tuple(result_buffer(t, self.shape, d, self.device) for t, d in zip(made, dtypes, strict=True))
    return _first_of_rows(self, dim, self.shape[dim] if self.dim() else 1, descending, outs)


def _tops(dtype: torch.dtype) -> Iterator[Sample]:
    # Distinct values: of equal ones ATen may give any.
    for shape in ((1,), (7,), (3, 5), (2, 3, 4)):
        n = torch.Size(shape).numel()
        if n > 100 and dtype in (torch.int8, torch.uint8):
            continue
        x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).view(shape).to(dtype)
        if dtype == torch.bool:
            continue
        for k in {1, shape[-1] // 2, shape[-1]}:
            yield Sample((x, k))
            yield Sample((x, min(k, shape[0]), 0, False, True))
    if dtype in (torch.float32, torch.int32, torch.int64, torch.float64):
        long = torch.randperm(9001, generator=torch.Generator().manual_seed(1)).to(dtype).view(1, -1)
        yield Sample((long, 5))
        yield Sample((long.sort().values, 7, -1, True, True))


def _bench_topk(n_rows: int, n_cols: int, k: int) -> Workload:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n_rows, n_cols), dtype, where), k), {}

    return Workload(f"{n_rows}x{n_cols} k {k}", make)


@op(
    "aten::topk", dtypes=ALL - {torch.bool}, samples=_tops,
    bench=(_bench_topk(8192, 128256, 50), _bench_topk(8192, 8192, 8), _bench_topk(65536, 256, 8), _bench_topk(128, 32000, 1)),
)  # fmt: skip
def topk(
    self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, out: tuple[Tensor, Tensor] | None = None  # noqa: A002
) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) along dim in order, nan as the greatest, and where they were; of equal ones the first."""
    ndim = max(self.dim(), 1)
    if not -ndim <= dim < ndim:
        raise Declined(f"dim {dim} is out of range: ATen raises")
    n = self.shape[dim] if self.dim() else 1
    if not 0 < k <= n:
        raise Declined(f"k is {k} of {n}")
    n_rows = self.numel() // n
    if n > WHOLE and k < n and (k > WHOLE or (n_rows < _FEW_ROWS and n > _LONG_ROW)):
        raise Declined(f"{n_rows} rows of {n} with k {k} are slower here")
    shape = list(self.shape)
    if shape:
        shape[dim] = k
    given = zip(out or (None, None), (self.dtype, torch.int64), strict=True)
    outs = tuple(result_buffer(t, shape, dtype, self.device) for t, dtype in given)
    return _first_of_rows(self, dim, k, largest, outs)
