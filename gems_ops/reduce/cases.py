"""Samples and workloads that reductions share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from gems_ops.op import Sample
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

Samples = Callable[[torch.dtype], Iterator[Sample]]
_SHAPES = ((), (1,), (7,), (2, 3, 4), (1, 129), (33, 1))


def whole(dtype: torch.dtype) -> Iterator[Sample]:
    """A tensor."""
    for shape in _SHAPES:
        yield Sample((values(shape, dtype),))
    for x in layouts((6, 10), dtype):
        yield Sample((x,))


def by_dims(dtype: torch.dtype) -> Iterator[Sample]:
    """A tensor and a list of dimensions."""
    for i, shape in enumerate(_SHAPES):
        yield Sample((values(shape, dtype), [-(i % 2)], i % 3 == 0))
    for x in layouts((6, 10), dtype):
        yield Sample((x, [0]))
        yield Sample((x, [1], True))
    yield Sample((values((6, 10), dtype), []))
    x = values((3, 4, 2, 5), dtype)
    for dims in ([1], [0, 2], [1, 3], [0, 1, 2, 3]):
        yield Sample((x, dims))
        yield Sample((x.permute(2, 0, 3, 1), dims, True))
    yield Sample((values((2, 3, 2, 3, 2, 3), dtype), [0, 2, 4]))
    if dtype.is_floating_point:
        yield Sample((specials(dtype), [1]))


def by_dim(dtype: torch.dtype) -> Iterator[Sample]:
    """A tensor and one dimension; elements repeat, so that positions have to be chosen."""
    for i, shape in enumerate(_SHAPES):
        yield Sample((values(shape, dtype), -(i % 2), i % 3 == 0))
    for x in layouts((6, 10), dtype):
        yield Sample((x.round() if dtype.is_floating_point else x, 0))
        yield Sample((x, 1, True))
    x = values((3, 4, 2, 5), dtype)
    for dim in (1, 2):
        yield Sample((x, dim))
        yield Sample((x.permute(2, 0, 3, 1), dim, True))
    if dtype.is_floating_point:
        yield Sample((specials(dtype), 1))
        yield Sample((torch.full((2, 9), -float("inf")).to(dtype), 1))


def specials(dtype: torch.dtype) -> torch.Tensor:
    """Rows with nan, with infinities, and without."""
    nan, inf = float("nan"), float("inf")
    return torch.tensor([[1.0, nan, 3.0, nan], [inf, 1.0, -inf, inf], [1, 3, 2, 3], [-inf, -inf, 0, -0.0]]).to(dtype)


def by_keyword(dtype: torch.dtype) -> Iterator[Sample]:
    """`by_dim` with dim and keepdim by name, and without."""
    for x in layouts((6, 10), dtype):
        yield Sample((x,))
    yield Sample((values((2, 3, 4), dtype),), {"keepdim": True})
    for sample in by_dim(dtype):
        yield Sample(sample.args[:1], dict(zip(("dim", "keepdim"), sample.args[1:])))


def thinned(samples: Samples) -> Samples:
    """Every third sample, for operators that share another's kernel."""
    return lambda dtype: itertools.islice(samples(dtype), 0, None, 3)


def without_keepdim(samples: Samples) -> Samples:
    """The samples' first two arguments."""
    return lambda dtype: (Sample(sample.args[:2]) for sample in samples(dtype))


def with_dtype(samples: Samples) -> Samples:
    """The samples, and some that ask for a wider result."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        yield from samples(dtype)
        wider = {torch.float16: torch.float32, torch.bfloat16: torch.float32}.get(dtype, torch.float64)
        for sample in samples(dtype):
            if sample.args[0].numel() == 60:
                yield Sample(sample.args, {"dtype": wider})

    return make


def floats_or(samples: Samples) -> Samples:
    """For means: integers need dtype=."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for sample in samples(dtype):
            yield sample if dtype.is_floating_point else Sample(sample.args, {"dtype": torch.float32})

    return make


def workload(shape: tuple[int, ...], *args: object, **kwargs: object) -> Workload:
    """One tensor of a shape, and the other arguments."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, device), *args), dict(kwargs)

    dims = f" dim {args[0]}" if args else f" dim {kwargs['dim']}" if "dim" in kwargs else ""
    return Workload("x".join(map(str, shape)) + dims, make)


SQUARE, SMALL = (8192, 8192), (1024, 1024)
BENCH_ALL = (workload(SQUARE), workload(SMALL))
BENCH_DIMS = (
    workload(SQUARE, [0]), workload(SQUARE, [1]), workload((64, 1024, 1024), [1]), workload((1000000, 32), [1]),
    workload((32, 256, 56, 56), [0, 2, 3]), workload((16, 4194304), [1]), workload((512, 4096), [-1]),
)  # fmt: skip
BENCH_DIM = (workload(SQUARE, 0), workload(SQUARE, 1), workload((1000000, 32), 1), workload((1, 10000000), 1))
BENCH_KEYWORD = (workload(SQUARE), workload(SQUARE, dim=0), workload(SQUARE, dim=1), workload((1000000, 32), dim=1))
