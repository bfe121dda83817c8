"""x[...] and x[...] = v with tensors of integers, and x[mask] with a mask of x's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gems_ops.index.along import indices, permuted
from gems_ops.index.compact import plan_selection
from gems_ops.index.engine import GATHER, SCATTER, Index, plan_indexed, plan_target, refuse_when_deterministic
from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import broadcast_shape
from gems_ops.samples import values
from gems_ops.workloads import Workload, random_like

INDEX_DTYPES = frozenset({torch.int64, torch.int32, torch.bool})


@dataclass(frozen=True)
class Walk:
    """The shape that indices give, and how self and each index are walked along it."""

    shape: tuple[int, ...]
    table_strides: tuple[int, ...]
    indices: tuple[Index, ...]


def _walk(self: Tensor, given: Sequence[Tensor | None], strides: Sequence[int]) -> Walk:
    """Declines masks and what ATen refuses. `strides` are self's, or those of a copy that is written."""
    if len(given) > self.dim() or any(t is not None and t.dtype == torch.bool for t in given):
        raise Declined("masks, or more indices than dimensions")
    given = [*given, *[None] * (self.dim() - len(given))]
    named = [d for d, t in enumerate(given) if t is not None]
    if not named or any(given[d].device != self.device for d in named):
        raise Declined("no tensor of indices, or one of another device")
    common = broadcast_shape([given[d] for d in named])
    # Indices of neighbouring dimensions put theirs where the first of them was, others put theirs in front.
    first = named[0] if named == list(range(named[0], named[-1] + 1)) else 0
    before = [d for d in range(self.dim()) if given[d] is None and d < first]
    after = [d for d in range(self.dim()) if given[d] is None and d >= first]
    shape = (*(self.shape[d] for d in before), *common, *(self.shape[d] for d in after))
    table = (*(strides[d] for d in before), *(0 for _ in common), *(strides[d] for d in after))
    walks = []
    for d in named:
        expanded = torch.empty_strided(given[d].shape, given[d].stride(), device="meta").expand(common).stride()
        walk = (*(0 for _ in before), *expanded, *(0 for _ in after))
        walks.append(Index(Code(f"indices[{d}]"), walk, self.shape[d], strides[d]))
    return Walk(shape, table, tuple(walks))


def _indexings(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample((values((5,), dtype), [indices(7, n=5)]))
    yield Sample((values((4, 6), dtype), [indices(3, 2, n=4)]))
    yield Sample((values((4, 6), dtype), [None, indices(5, n=6) - 6]))
    yield Sample((values((4, 6), dtype), [indices(5, n=4), indices(5, n=6)]))
    yield Sample((values((4, 6), dtype), [indices(5, 1, n=4), indices(3, n=6)]))
    yield Sample((values((4, 5, 6), dtype), [indices(7, n=4), None, indices(7, n=6)]))
    yield Sample((values((4, 5, 6), dtype), [None, indices(2, 3, n=5)]))
    yield Sample((values((4, 5, 6), dtype), [None, indices(2, 3, n=5), indices(3, n=6)]))
    yield Sample((values((70, 90), dtype), [values((70, 90), torch.bool, seed=1)]))


def _bench() -> tuple[Workload, ...]:
    n = 8192

    def rows(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n, n), dtype, where), [torch.randperm(n, device=where)]), {}

    def points(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n, n), dtype, where), [torch.randint(0, n, (n, 512), device=where) for _ in "ab"]), {}

    return Workload("rows of 8192x8192", rows), Workload("8192x512 points of 8192x8192", points)


@planned("aten::index.Tensor", dtypes=ALL, samples=_indexings, argument_dtypes={"indices": INDEX_DTYPES}, bench=_bench(), opinfo=("__getitem__",))
def index(self: Tensor, indices: list[Tensor | None]) -> Planned:
    """self[indices]: elements at places that tensors name in some dimensions, all of the others."""
    if not self.is_contiguous():
        raise Declined("self is not contiguous: the result's layout would follow it")
    plan = Plan("self", "indices")
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool and indices[0].shape == self.shape:
        plan.do("mask = indices[0].contiguous()")
        return plan_selection(plan, self.numel(), self.dtype, self.device)
    walk = _walk(self, indices, self.stride())
    out = plan.empty("out", walk.shape, self.dtype, self.device)
    plan_indexed(
        plan, GATHER, Code("self"), out, walk.indices, walk.shape, walk.table_strides, contiguous_strides(walk.shape), wraps=True
    )  # fmt: skip
    return plan.build(out)


def _assignments(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample((values((5,), dtype), [permuted(3, n=5, dim=0)], values((3,), dtype, seed=1)))
    yield Sample((values((4, 6), dtype), [permuted(3, n=4, dim=0)], values((3, 6), dtype, seed=1)))
    yield Sample((values((4, 6), dtype), [permuted(3, n=4, dim=0)], values((6,), dtype, seed=1)))
    yield Sample((values((4, 6), dtype), [None, permuted(5, n=6, dim=0) - 6], values((), dtype, seed=1)))
    yield Sample((values((4, 6), dtype), [permuted(4, n=4, dim=0), permuted(4, n=6, dim=0)], values((4,), dtype, seed=1)))
    yield Sample((values((6, 4), dtype).t(), [permuted(3, n=4, dim=0)], values((3, 6), dtype, seed=1)))
    yield Sample((values((4, 5, 6), dtype), [permuted(3, n=4, dim=0), None, permuted(3, n=6, dim=0)], values((3, 5), dtype, seed=1)))


@planned(
    "aten::index_put", dtypes=ALL, samples=_assignments, argument_dtypes={"indices": INDEX_DTYPES}, in_place=True,
)  # fmt: skip
def index_put(
    self: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    """self with values at the places that indices name."""
    if accumulate or values.dtype != self.dtype or values.device != self.device:
        raise Declined(f"accumulate={accumulate}, values are {values.dtype} on {values.device}")
    plan = Plan("self", "indices", "values", "_accumulate", out=None if in_place else out)
    refuse_when_deterministic(plan)
    if out is not None:
        result_buffer(out, self.shape, self.dtype, self.device)
    _walk(self, indices, self.stride())
    target, strides = plan_target(plan, self, out, in_place, torch.empty_like(self, device="meta").stride())
    walk = _walk(self, indices, strides)
    if broadcast_shape([values, torch.empty(walk.shape, device="meta")]) != walk.shape:
        raise Declined(f"values {tuple(values.shape)} for places {walk.shape}: ATen raises")
    dense = torch.empty_strided(values.shape, values.stride(), device="meta").expand(walk.shape).stride()
    plan_indexed(plan, SCATTER, target, Code("values"), walk.indices, walk.shape, walk.table_strides, dense, wraps=True)
    return plan.build(target)
