"""addr: the outer product of two vectors, added to a matrix element by element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
from torch import Tensor

from gems_ops.op import NUMBERS, Declined, Sample, planned
from gems_ops.plan import Planned
from gems_ops.pointwise.engine import Pointwise
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like


@triton.jit
def _added(self, vec1, vec2, beta, alpha):
    return beta * self + alpha * (vec1 * vec2)


@triton.jit
def _alone(self, vec1, vec2, beta, alpha):
    """beta is 0: what self holds does not count."""
    return alpha * (vec1 * vec2)


_ADDED = Pointwise(_added, ("self", "vec1", "vec2", "beta", "alpha"), frozenset({"self", "vec1", "vec2"}), rounded=True)
_ALONE = replace(_ADDED, scalar=_alone)


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    number = 0.5 if dtype.is_floating_point else 3
    a, b = values((7,), dtype), values((5,), dtype, seed=1)
    for shape in ((7, 5), (5,), (7, 1), (1,), ()):
        yield Sample((values(shape, dtype), a, b))
        yield Sample((values(shape, dtype), a, b), {"beta": number, "alpha": -2})
    for x in layouts((7, 5), dtype):
        yield Sample((x, *(v[::2] for v in (values((14,), dtype), values((10,), dtype)))), {"alpha": number})
    yield Sample((values((40, 1), dtype), values((40,), dtype), b[:1]), {"beta": 2})
    yield Sample((values((1,), dtype), a, b[:1]))  # a result in the shape of vec1 as a column
    nothing = torch.full((7, 5), float("nan") if dtype.is_floating_point else 9).to(dtype)
    yield Sample((nothing, a, b), {"beta": 0})


def _bench(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
    return tuple(random_like(shape, dtype, device) for shape in ((8192, 8192), (8192,), (8192,))), {}


def _refuse(self: Tensor, vec1: Tensor, vec2: Tensor, numbers: tuple[object, ...]) -> None:
    if vec1.dim() != 1 or vec2.dim() != 1:
        raise Declined(f"{tuple(vec1.shape)} and {tuple(vec2.shape)} are not two vectors")
    whole = not any(t.is_floating_point() for t in (self, vec1, vec2))
    if any(isinstance(n, (bool, complex)) or whole and isinstance(n, float) for n in numbers):
        raise Declined(f"beta, alpha = {numbers}, which ATen refuses or computes by rules of their own")
    if any(n not in (1, own) for n, own in zip((1, 1, *self.shape)[-2:], (vec1.shape[0], vec2.shape[0]))) or self.dim() > 2:
        raise Declined(f"{tuple(self.shape)} does not broadcast to {(vec1.shape[0], vec2.shape[0])}")


@planned(
    "aten::addr", dtypes=NUMBERS, samples=_samples, bench=(Workload("8192x8192", _bench),), keyed=frozenset({"beta"}), wide=True
)
def addr(self: Tensor, vec1: Tensor, vec2: Tensor, beta: float = 1, alpha: float = 1) -> Planned:
    """beta * self + alpha * the outer product of vec1 and vec2, with self broadcast to it; beta = 0 does not read self"""
    # ATen's out= form compares the addresses of its C++ arguments to tell addr_ apart and raise for its shapes, which no router
    # passes on: that form stays ATen's, and with it addr_, which calls it.
    _refuse(self, vec1, vec2, (beta, alpha))
    engine = _ALONE if beta == 0 else _ADDED
    plan = engine.plan(self, vec1.unsqueeze(1), vec2, beta, alpha)
    if vec2.shape[0] > 1:  # no result has a column's shape, and a launch needs only its address: 1.4 us less (EPYC, Python 3.11)
        return plan
    return lambda self, vec1, vec2, *rest: plan(self, vec1.unsqueeze(1), vec2, *rest)
