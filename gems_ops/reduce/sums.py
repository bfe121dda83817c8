"""sum, mean and amax: three ways to fold, one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gems_ops.op import ALL, DOUBLES, Declined, Sample, op
from gems_ops.plan import Plan, Planned, call
from gems_ops.reduce.engine import plan_reduction
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

_EXACT = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64}


def _dtype_of_sum(x: Tensor, dtype: torch.dtype | None, out: Tensor | None) -> torch.dtype:
    """The result's type, as ATen infers it. Declines types that are not simply summed."""
    if dtype is None:
        dtype = out.dtype if out is not None else x.dtype if x.is_floating_point() else torch.int64
    small_float_of_int = dtype in (torch.float16, torch.bfloat16) and not x.is_floating_point()
    if dtype not in _EXACT or small_float_of_int or (x.is_floating_point() and dtype == torch.int64):
        raise Declined(f"sums of {x.dtype} as {dtype} are left to the native kernel")
    return dtype


def _plan_sum(x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    plan = Plan("x", "_dim", "_keepdim", "_dtype", out=out)
    return plan_reduction(plan, x, dim, keepdim, _dtype_of_sum(x, dtype, out), "sum")


def _plan_sum_all(x: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dtype", out=out), x, None, False, _dtype_of_sum(x, dtype, out), "sum")


def _dtype_of_mean(x: Tensor, dtype: torch.dtype | None, out: Tensor | None) -> torch.dtype:
    if (dtype or x.dtype) not in DOUBLES:
        raise Declined(f"the mean of {x.dtype} as {dtype or x.dtype} has no type: ATen raises")
    return _dtype_of_sum(x, dtype, out)


def _plan_mean(x: Tensor, dim: object, keepdim: bool, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    plan = Plan("x", "_dim", "_keepdim", "_dtype", out=out)
    return plan_reduction(plan, x, dim, keepdim, _dtype_of_mean(x, dtype, out), "mean")


def _plan_mean_all(x: Tensor, dtype: torch.dtype | None, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dtype", out=out), x, None, False, _dtype_of_mean(x, dtype, out), "mean")


def _plan_amax(x: Tensor, dim: object, keepdim: bool, out: Tensor | None = None) -> Planned:
    return plan_reduction(Plan("x", "_dim", "_keepdim", out=out), x, dim, keepdim, x.dtype, "max")


SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4), (1, 129), (33, 1), (5, 1, 3))


def _whole(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in SHAPES:
        yield Sample((values(shape, dtype),))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))


def _by_dim(dtype: torch.dtype) -> Iterator[Sample]:
    for shape in SHAPES:
        yield Sample((values(shape, dtype), [0], False))
        yield Sample((values(shape, dtype), [-1], True))
    for x in layouts((6, 10), dtype):
        yield Sample((x, [0]))
        yield Sample((x, [1], True))
        yield Sample((x, []))
    x = values((3, 4, 2, 5), dtype)
    for dims in ([1], [0, 2], [1, 3], [0, 3], [0, 1, 2, 3]):
        yield Sample((x, dims))
        yield Sample((x.permute(2, 0, 3, 1), dims, True))
    yield Sample((values((2, 3, 2, 3, 2, 3), dtype), [0, 2, 4]))
    if dtype.is_floating_point:
        yield Sample((torch.tensor([[1.0, float("nan"), 3.0], [float("inf"), 1.0, -float("inf")], [1, 2, 3]]).to(dtype), [1]))


def _with_dtype(samples: Callable[[torch.dtype], Iterator[Sample]]) -> Callable[[torch.dtype], Iterator[Sample]]:
    """The samples, and some that ask for a wider result."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        yield from samples(dtype)
        wider = {torch.float16: torch.float32, torch.bfloat16: torch.float32}.get(dtype, torch.float64)
        for sample in samples(dtype):
            if sample.args[0].numel() == 60:
                yield Sample(sample.args, {"dtype": wider})

    return make


def _floats_or(samples: Callable[[torch.dtype], Iterator[Sample]]) -> Callable[[torch.dtype], Iterator[Sample]]:
    """For mean: integers need dtype=."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for sample in samples(dtype):
            yield sample if dtype.is_floating_point else Sample(sample.args, {"dtype": torch.float32})

    return make


def _bench(shape: tuple[int, ...], *args: object) -> Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, device), *args), {}

    return Workload("x".join(map(str, shape)) + (f" dim {args[0]}" if args else ""), make)


_BENCH_ALL = (_bench((8192, 8192)), _bench((1024, 1024)))
_BENCH_DIM = (
    _bench((8192, 8192), [0]), _bench((8192, 8192), [1]), _bench((64, 1024, 1024), [1]), _bench((1000000, 32), [1]),
    _bench((32, 256, 56, 56), [0, 2, 3]), _bench((16, 4194304), [1]), _bench((512, 4096), [-1]),
)  # fmt: skip


@op("aten::sum", dtypes=ALL, samples=_with_dtype(_whole), plan=_plan_sum_all, bench=_BENCH_ALL, wide=True)
def sum(self: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:  # noqa: A001  ATen's name
    """The sum of all elements, accumulated in float32 (float64 for float64, int64 for integers and booleans)."""
    return call(_plan_sum_all, self, dtype, out=out)


@op("aten::sum.dim_IntList", dtypes=ALL, samples=_with_dtype(_by_dim), plan=_plan_sum, bench=_BENCH_DIM, wide=True)
def sum_dim(
    self: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The sum over some dimensions."""
    return call(_plan_sum, self, dim, keepdim, dtype, out=out)


@op("aten::mean", dtypes=ALL, samples=_floats_or(_whole), plan=_plan_mean_all, bench=_BENCH_ALL, wide=True)
def mean(self: Tensor, *, dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
    """The mean of all elements."""
    return call(_plan_mean_all, self, dtype, out=out)


@op("aten::mean.dim", dtypes=ALL, samples=_floats_or(_by_dim), plan=_plan_mean, bench=_BENCH_DIM, wide=True)
def mean_dim(
    self: Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """The mean over some dimensions."""
    return call(_plan_mean, self, dim, keepdim, dtype, out=out)


@op("aten::amax", dtypes=ALL, samples=_by_dim, plan=_plan_amax, bench=_BENCH_DIM, wide=True)
def amax(self: Tensor, dim: list[int] = (), keepdim: bool = False, out: Tensor | None = None) -> Tensor:
    """The largest element over some dimensions; NaN if there is one."""
    return call(_plan_amax, self, dim, keepdim, out=out)
