"""Sample arguments for the declared operators. Seeded; on the CPU; the suite moves them to the device under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gems_ops.op import Sample

Samples = Callable[[torch.dtype], Iterator[Sample]]
SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4), (1, 129), (33, 1), (5, 1, 3))


def values(shape: tuple[int, ...], dtype: torch.dtype, low: float = -3.0, high: float = 3.0, seed: int = 0) -> Tensor:
    """Numbers spread over [low, high); integers within it; booleans."""
    g = torch.Generator().manual_seed(seed + 7919 * len(shape) + sum(shape))
    if dtype == torch.bool:
        return torch.rand(shape, generator=g) < 0.5
    x = torch.rand(shape, generator=g, dtype=torch.float64) * (high - low) + low
    if not dtype.is_floating_point and not dtype.is_signed:
        x = x.abs()
    return x.to(dtype)


def layouts(shape: tuple[int, ...], dtype: torch.dtype, low: float = -3.0, high: float = 3.0, seed: int = 0) -> Iterator[Tensor]:
    """The same shape laid out in memory in different ways: dense, sliced, transposed, offset, expanded."""
    yield values(shape, dtype, low, high, seed)
    if not shape:
        return
    yield values((*shape[:-1], 2 * shape[-1]), dtype, low, high, seed)[..., ::2]
    yield values((shape[-1] + 1, *shape[1:]) if len(shape) == 1 else (shape[0] + 1, *shape[1:]), dtype, low, high, seed)[1:]
    if len(shape) > 1:
        yield values(shape[::-1], dtype, low, high, seed).permute(*range(len(shape) - 1, -1, -1))
        yield values((1, *shape[1:]), dtype, low, high, seed).expand(shape)


def unary(low: float = -3.0, high: float = 3.0, **kwargs: object) -> Samples:
    """One tensor, over the common shapes and layouts."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in SHAPES:
            yield Sample((values(shape, dtype, low, high),), dict(kwargs))
        for x in layouts((6, 10), dtype, low, high):
            yield Sample((x,), dict(kwargs))

    return make


PAIRS = (((7,), (7,)), ((3, 5), (5,)), ((3, 1), (1, 5)), ((), (4,)), ((4,), ()), ((), ()), ((2, 3, 4), (3, 1)), ((130, 9), (130, 9)))


def binary(low: float = -3.0, high: float = 3.0, numbers: bool = True, positive_second: bool = False) -> Samples:
    """Two tensors that broadcast, in every pair of layouts, and a tensor with a Python number."""
    low2 = 0.5 if positive_second else low

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for a, b in PAIRS:
            yield Sample((values(a, dtype, low, high), values(b, dtype, low2, high, seed=1)))
        for x in layouts((4, 6), dtype, low, high):
            for y in layouts((4, 6), dtype, low2, high, seed=1):
                yield Sample((x, y))
        if numbers and dtype != torch.bool:
            yield Sample((values((3, 5), dtype, low, high), 2))
            yield Sample((values((), dtype, low, high), 3))
            if dtype.is_floating_point:
                yield Sample((values((3, 5), dtype, low, high), 1.7))

    return make


def powers(exponents: tuple[float, ...]) -> Samples:
    """A positive tensor to each exponent, and an exponent that is none of them."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for exponent in exponents:
            for shape in ((), (3, 5), (130,)):
                yield Sample((values(shape, dtype, 0.3, 3.0), exponent))

    return make


def gradients(low: float = -3.0, high: float = 3.0, count: int = 2, **kwargs: object) -> Samples:
    """`count` tensors of one shape in equal and different layouts, as a backward operator gets them."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in SHAPES:
            yield Sample(tuple(values(shape, dtype, low, high, seed=i) for i in range(count)), dict(kwargs))
        for i, x in enumerate(layouts((6, 10), dtype, low, high)):
            rest = [list(layouts((6, 10), dtype, low, high, seed=k))[(i + k) % 4] for k in range(1, count)]
            yield Sample((x, *rest), dict(kwargs))

    return make


def masked(number: bool) -> Samples:
    """A tensor, a mask that broadcasts with it, and a value: a number or a 0-dim tensor."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        value = True if dtype == torch.bool else 2
        for a, b in PAIRS:
            yield Sample((values(a, dtype), values(b, torch.bool, seed=1), value if number else torch.tensor(value, dtype=dtype)))
        for x in layouts((4, 6), dtype):
            yield Sample((x, values((4, 6), torch.bool, seed=1), value if number else torch.tensor(value, dtype=dtype)))

    return make


def selected() -> Samples:
    """A condition and two tensors that broadcast with it and promote."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for a, b in PAIRS:
            yield Sample((values(b, torch.bool), values(a, dtype), values(b, dtype, seed=1)))
        for x in layouts((4, 6), dtype):
            yield Sample((values((4, 6), torch.bool), x, values((6,), dtype, seed=1)))
        if dtype.is_floating_point:
            yield Sample((values((3, 5), torch.bool), values((3, 5), dtype), values((3, 5), torch.int32)))

    return make
