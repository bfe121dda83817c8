"""Samples for operators on the pointwise engine: every special value, few layouts.

The engine walks memory in one way for all of them, and tests/ops/test_pointwise_engine.py covers its layouts; so an
operator here has a handful of samples, which keeps a hundred operators in three forms and ten dtypes affordable.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops.op import Sample
from gems_ops.samples import Samples, values
from gems_ops.workloads import Workload, random_like


def specials(dtype: torch.dtype, low: float, high: float) -> Tensor:
    """nan, infinities, signed zeros, extremes, for integers their limits, and numbers over [low, high); 24 in all."""
    if dtype == torch.bool:
        return values((24,), dtype)
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    ends = [0, 1, limits.max, limits.min]
    if dtype.is_floating_point:
        ends += [float("nan"), float("inf"), -float("inf"), -0.0, 0.5, -0.5, 1.5, 2.5]
    first = torch.tensor(ends, dtype=torch.float64 if dtype.is_floating_point else dtype).to(dtype)
    return torch.cat([first, values((24 - len(ends),), dtype, low, high)])


def few(low: float = -3.0, high: float = 3.0, *extra: object, **kwargs: object) -> Samples:
    """One tensor and the same other arguments: special values, a transposed tensor, one of no dimensions."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x in (specials(dtype, low, high), values((10, 6), dtype, low, high).t(), values((), dtype, low, high)):
            yield Sample((x, *extra), dict(kwargs))

    return make


def several(*calls: tuple[tuple, dict], low: float = -3.0, high: float = 3.0, whole: tuple[tuple, dict] | None = None) -> Samples:
    """One tensor with each of these other arguments, the first of them also on special values and transposed.

    `whole` are the arguments for integer tensors, where floating point ones would do something else.
    """

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        chosen = calls if dtype.is_floating_point or whole is None else (whole,)
        extra, kwargs = chosen[0]
        yield Sample((specials(dtype, low, high), *extra), kwargs)
        yield Sample((values((10, 6), dtype, low, high).t(), *extra), kwargs)
        for extra, kwargs in chosen[1:]:
            yield Sample((specials(dtype, low, high), *extra), kwargs)

    return make


def pairs(
    *extra: object, low: float = -3.0, high: float = 3.0, low2: float | None = None, number: bool = False, mixed: bool = True,
    **kwargs: object,
) -> Samples:
    """Two tensors: every special value with every other, broadcast, transposed, of mixed dtypes; one with a number."""
    second = low if low2 is None else low2

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        a, b = specials(dtype, low, high), specials(dtype, second, high)
        if low2 is not None:
            b = values((24,), dtype, second, high)
        yield Sample((a[:, None].contiguous(), b, *extra), dict(kwargs))
        yield Sample((values((10, 6), dtype, low, high).t(), values((6, 10), dtype, second, high, seed=1), *extra), dict(kwargs))
        yield Sample((values((3, 5), dtype, low, high), values((), dtype, second, high, seed=1), *extra), dict(kwargs))
        if mixed and dtype in (torch.float32, torch.int32):
            other = torch.bfloat16 if dtype.is_floating_point else torch.int8
            yield Sample((values((3, 5), dtype, low, high), values((3, 5), other, second, high, seed=1), *extra), dict(kwargs))
        if number and dtype != torch.bool:
            yield Sample((specials(dtype, low, high), 2), dict(kwargs))

    return make


def with_numbers(*numbers: object, low: float = -3.0, high: float = 3.0) -> Samples:
    """One tensor of special values with each number that its dtype compares with; the first also transposed."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        fitting = [n for n in numbers if dtype.is_floating_point or not isinstance(n, float)] or [1]
        yield Sample((values((10, 6), dtype, low, high).t(), fitting[0]))
        for n in fitting:
            yield Sample((specials(dtype, low, high), n))

    return make


def fitting(*numbers: object) -> Samples:
    """As `with_numbers`, for an operator that does not look at what the tensor holds."""
    return plain(with_numbers(*numbers))


def number_first(number: object, low: float = -3.0, high: float = 3.0) -> Samples:
    """A number, then a tensor."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x in (specials(dtype, low, high), values((10, 6), dtype, low, high).t()):
            yield Sample((number, x))

    return make


def plain(samples: Samples) -> Samples:
    """The samples with their special values replaced, where ATen's own kernels disagree about those or raise."""

    def replaced(x: object) -> object:
        if not isinstance(x, Tensor) or x.shape != (24,):
            return x
        return values((24,), x.dtype, 1.0, 9.0)

    return lambda dtype: (Sample(tuple(replaced(x) for x in s.args), s.kwargs) for s in samples(dtype))


def triples(low3: float = -3.0, value: bool = False) -> Samples:
    """Three tensors that broadcast, in different orders, and with them a number `value=`."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shapes in (((24,), (24,), (24,)), ((5, 1), (5,), (3, 5, 5))):
            first, second = (values(s, dtype, seed=i) for i, s in enumerate(shapes[:2]))
            yield Sample((first, second, values(shapes[2], dtype, low3, 3.0, seed=2)), {"value": 2} if value else {})
        transposed = values((10, 6), dtype).t()
        yield Sample((specials(dtype, -3.0, 3.0), values((24,), dtype, seed=1), values((24,), dtype, low3, 3.0, seed=2)))
        yield Sample((transposed, values((6, 10), dtype, seed=1), values((10,), dtype, low3, 3.0, seed=2)))

    return make


def backward(*extra: object, low: float = -3.0, high: float = 3.0, tensor_last: bool = False) -> Samples:
    """A gradient and the tensor it belongs to, in one order of dimensions and in two, with the same other arguments."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        pairs = [
            (values((24,), dtype, seed=1), specials(dtype, low, high)),
            (values((6, 10), dtype, seed=1), values((10, 6), dtype, low, high).t()),
        ]
        for grad, x in pairs:
            yield Sample((grad, *extra, x) if tensor_last else (grad, x, *extra))

    return make


def mask_gradient() -> Samples:
    """A gradient, a mask and a scale."""
    return lambda dtype: iter([Sample((specials(dtype, -3.0, 3.0), values((24,), torch.bool), 2.5))])


T = object()  # stands for a tensor in `traffic`
WHOLE = (torch.int32, torch.bool)


def traffic(*args: object, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16), **kwargs: object) -> tuple[Workload, ...]:
    """The operator on dense tensors of 8192 x 8192 where `T` stands, bound by memory."""
    shape = (8192, 8192)

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return tuple(random_like(shape, dtype, device) if a is T else a for a in args), dict(kwargs)

    return (Workload("8192x8192", make, dtypes=dtypes),)
