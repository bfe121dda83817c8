"""x[...] and x[...] = v with tensors of integers, or with a mask (see masks)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gems_ops.index.adding import Walk, plan_added
from gems_ops.index.along import indices, permuted
from gems_ops.index.engine import GATHER, SCATTER, Index, plan_indexed, plan_target, refuse_when_deterministic
from gems_ops.index.masks import has_mask, plan_masked_index, plan_masked_put
from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import broadcast_shape
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like

INDEX_DTYPES = frozenset({torch.int64, torch.int32, torch.bool})


def _walk(self: Tensor, given: Sequence[Tensor | None], strides: Sequence[int]) -> Walk:
    """Declines what ATen refuses. `strides` are self's, or those of a copy that is written."""
    if len(given) > self.dim():
        raise Declined("more indices than dimensions: ATen raises")
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
    return Walk(shape, table, tuple(walks), len(before), len(common))


def _mask(*shape: int) -> Tensor:
    mask = values(shape, torch.bool, seed=1)
    mask.view(-1)[0] = True  # one of few may have none
    return mask


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
    for shape, at, masked in (((4, 6), 0, 1), ((4, 6), 1, 1), ((4, 5, 6), 0, 2), ((4, 5, 6), 1, 1), ((3, 70, 90), 1, 2)):
        yield Sample((values(shape, dtype), [*[None] * at, _mask(*shape[at : at + masked])]))
    yield Sample((values((4, 6, 3), dtype), [values((6, 4), torch.bool, seed=1).t(), None]))
    yield Sample((values((4, 6), dtype), [torch.zeros(4, dtype=torch.bool)]))


def _bench() -> tuple[Workload, ...]:
    n = 8192

    def rows(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n, n), dtype, where), [torch.randperm(n, device=where)]), {}

    def points(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n, n), dtype, where), [torch.randint(0, n, (n, 512), device=where) for _ in "ab"]), {}

    return Workload("rows of 8192x8192", rows), Workload("8192x512 points of 8192x8192", points)


@planned(
    "aten::index.Tensor", dtypes=ALL, samples=_indexings, argument_dtypes={"indices": INDEX_DTYPES}, bench=_bench(),
    opinfo=("__getitem__",),
)  # fmt: skip
def index(self: Tensor, indices: list[Tensor | None]) -> Planned:
    """self[indices]: elements at places that tensors name in some dimensions, all of the others."""
    if not self.is_contiguous():
        raise Declined("self is not contiguous: the result's layout would follow it")
    plan = Plan("self", "indices")
    if has_mask(indices):
        return plan_masked_index(plan, self, indices)
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
    yield from _masked_assignments(dtype, False)


def _sums(dtype: torch.dtype) -> Iterator[Sample]:
    """Rows to few places: none, some and many at one, so that some runs hold whole chunks and some do not."""
    width = 40
    if dtype.is_floating_point:
        few = torch.where(torch.arange(48) % 6 != 0, 1, torch.arange(48) % 4)
        for index, shape, given in (
            ([few], (4, width), (48, width)), ([few], (4, width), (width,)), ([few - 4], (4, width), (48, 1)),
            ([few.view(6, 8)], (5, 3, width), (6, 8, 3, width)), ([None, few], (3, 4, width), (3, 48, width)),
            ([few, None, few.flip(0).int()], (4, width, 5), (48, width)), ([few[:9], few[9:18]], (4, 6, width), (9, width)),
            ([None, torch.tensor(2)], (3, 4, width), (3, width)),
        ):  # fmt: skip
            yield Sample((values(shape, dtype), index, values(given, dtype, seed=1), True))
        yield Sample((values((width, 4), dtype).t(), [few], values((width, 48), dtype, seed=1).t(), True))
    yield from _masked_assignments(dtype, dtype != torch.bool)


def _masked_assignments(dtype: torch.dtype, accumulate: bool) -> Iterator[Sample]:
    """Values for every place, or fewer that are broadcast, under one mask with slices on every side of it."""
    cases = (((7,), 0, 1), ((4, 6), 0, 2), ((4, 6), 0, 1), ((4, 6), 1, 1), ((3, 5, 4), 1, 1), ((2, 3, 5, 4), 1, 2))
    for shape, at, masked in cases:
        mask = _mask(*shape[at : at + masked])
        before, after, n = shape[:at], shape[at + masked :], int(mask.sum())
        for given in ((*before, n, *after), (), after, (*before, 1, *after), (n, *[1] * len(after))):
            yield Sample((values(shape, dtype), [*[None] * at, mask], values(given, dtype, seed=1), accumulate))
    mask = values((6, 4), torch.bool, seed=1).t()
    for x in layouts((4, 6), dtype):
        yield Sample((x, [mask], values((), dtype, seed=1), accumulate))
        yield Sample((x, [mask[:, 2]], values((6, int(mask[:, 2].sum())), dtype, seed=1).t(), accumulate))
    yield Sample((values((4, 6), dtype), [mask & False], values((1,), dtype), accumulate))


def _put_bench() -> tuple[Workload, ...]:
    n = 8192

    def rows(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x, source = (random_like((n, n), dtype, where) for _ in "ab")
        return (x, [torch.randperm(n, device=where)], source), {}

    def masked(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (random_like((n, n), dtype, where), [random_like((n, n), torch.bool, where)], random_like((), dtype, where)), {}

    def added(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        index = torch.randint(0, 32000, (16384,), device=where)
        return (random_like((32000, 4096), dtype, where), [index], random_like((16384, 4096), dtype, where), True), {}

    return (
        Workload("rows of 8192x8192", rows), Workload("a number, half of 8192x8192", masked),
        Workload("16384 added into 32000x4096", added),
    )  # fmt: skip


@planned(
    "aten::index_put", dtypes=ALL, samples=_assignments, argument_dtypes={"indices": INDEX_DTYPES}, in_place=True,
    bench=_put_bench(),
)  # fmt: skip
def index_put(
    self: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False, out: Tensor | None = None,
    in_place: bool = False,
) -> Planned:  # fmt: skip
    """self with values at the places that indices name, or added up there in an order that is the same on every run."""
    plan = Plan("self", "indices", "values", "_accumulate", out=None if in_place else out)
    return _plan_put(plan, self, indices, values, accumulate, out, in_place)


@planned(
    "aten::_index_put_impl", dtypes=ALL, samples=_sums, argument_dtypes={"indices": INDEX_DTYPES}, in_place=True,
    opinfo=("__getitem__", "index_put"),
)  # fmt: skip
def _index_put_impl(
    self: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False, unsafe: bool = False,
    out: Tensor | None = None, in_place: bool = False,
) -> Planned:  # fmt: skip
    """index_put as the gradient of indexing calls it, in place."""
    plan = Plan("self", "indices", "values", "_accumulate", "_unsafe", out=None if in_place else out)
    return _plan_put(plan, self, indices, values, accumulate, out, in_place)


def _plan_put(
    plan: Plan, self: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool, out: Tensor | None, in_place: bool
) -> Planned:
    """The plan of index_put in all its forms."""
    if values.dtype != self.dtype or values.device != self.device:
        raise Declined(f"values are {values.dtype} on {values.device}")
    if has_mask(indices):
        return plan_masked_put(plan, self, indices, values, accumulate, out, in_place)
    if out is not None:
        result_buffer(out, self.shape, self.dtype, self.device)
    layout = self.stride() if in_place else out.stride() if out is not None else torch.empty_like(self, device="meta").stride()
    walk = _walk(self, indices, layout)
    if broadcast_shape([values, torch.empty(walk.shape, device="meta")]) != walk.shape:
        raise Declined(f"values {tuple(values.shape)} for places {walk.shape}: ATen raises")
    if accumulate:
        return plan_added(plan, self, walk, layout, values, out, in_place)
    refuse_when_deterministic(plan)
    target, _ = plan_target(plan, self, out, in_place, layout)
    dense = torch.empty_strided(values.shape, values.stride(), device="meta").expand(walk.shape).stride()
    plan_indexed(plan, SCATTER, target, Code("values"), walk.indices, walk.shape, walk.table_strides, dense, wraps=True)
    return plan.build(target)
