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
