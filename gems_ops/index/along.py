"""Operators with an index for every element (gather, scatter) or for every slice (index_select, index_copy) of one dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gems_ops.index.engine import (
    ADD, ADD_SCALED, FILL, GATHER, SCATTER, Index, Whole, fits_one_program, plan_indexed, plan_target, refuse_when_deterministic,
    without,
)  # fmt: skip
from gems_ops.index.lookup import INDICES
from gems_ops.layout import contiguous_strides
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import Dim, bits_of, plan_walk
from gems_ops.workloads import Workload, random_like

LONG = frozenset({torch.int64})
# Sums are added up in these; the smaller types are widened first.
_ADDED = {
    torch.float16: torch.float32, torch.bfloat16: torch.float32,
    torch.int8: torch.int32, torch.uint8: torch.int32, torch.int16: torch.int32,
}  # fmt: skip
SUMMED = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64})


def indices(*shape: int, n: int, dtype: torch.dtype = torch.int64, seed: int = 0) -> Tensor:
    """Random indices below n."""
    return torch.randint(0, n, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def permuted(*shape: int, n: int, dim: int) -> Tensor:
    """Indices below n, none twice along dim: what is written is then no matter of order."""
    g = torch.Generator().manual_seed(len(shape))
    return torch.rand(*shape[:dim], n, *shape[dim + 1 :], generator=g).argsort(dim).narrow(dim, 0, shape[dim]).contiguous()


def _dim_of(self: Tensor, dim: int) -> int:
    if self.dim() == 0 or not -self.dim() <= dim < self.dim():
        raise Declined(f"dim {dim} of {self.dim()} dimensions")
    return dim % self.dim()


def each_place(self: Tensor, dim: int, index: Tensor, other: Tensor | None) -> tuple[int, Index]:
    """The dimension, and an index that has a place in self for each of its elements."""
    dim = _dim_of(self, dim)
    fits = index.dim() == self.dim() and all(
        i <= n or d == dim for d, (i, n) in enumerate(zip(index.shape, self.shape, strict=True))
    )
    if not fits or other is not None and (other.dim() != index.dim() or any(i > n for i, n in zip(index.shape, other.shape, strict=True))):
        raise Declined(f"indices {tuple(index.shape)} for {tuple(self.shape)}: ATen raises")
    return dim, Index(Code("index"), index.stride(), self.shape[dim], self.stride()[dim])


def _gathers(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample((values((5,), dtype), 0, indices(7, n=5)))
    for dim in (0, 1, -1):
        yield Sample((values((4, 6), dtype), dim, indices(3, 5, n=4)))
    yield Sample((values((2, 3, 4), dtype), 1, indices(2, 7, 3, n=3)))
    for x in layouts((6, 10), dtype):
        yield Sample((x, 1, indices(6, 20, n=10)[:, ::2]))
        yield Sample((x, 0, indices(10, 6, n=6).t()))
    yield Sample((values((300, 9), dtype), 0, indices(1, 9, n=300).expand(40, 9)))


def square(*rest: str) -> tuple[Workload, ...]:
    n = 8192

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        index = torch.randint(0, n, (n, n), device=where)
        return (random_like((n, n), dtype, where), 1, index, *(random_like((n, n), dtype, where) for _ in rest)), {}

    return (Workload("8192x8192 dim 1", make),)


@planned("aten::gather", dtypes=ALL, samples=_gathers, argument_dtypes={"index": LONG}, bench=square())
def gather(self: Tensor, dim: int, index: Tensor, sparse_grad: bool = False, out: Tensor | None = None) -> Planned:
    """self's elements at index along dim, in the shape of index."""
    dim, places = each_place(self, dim, index, None)
    plan = Plan("self", "_dim", "index", "_sparse_grad", out=out)
    strides = contiguous_strides(index.shape) if out is None else result_buffer(out, index.shape, self.dtype, self.device).stride()
    result = plan.result(index.shape, self.dtype, self.device)
    plan_indexed(plan, GATHER, Code("self"), result, [places], index.shape, without(self.stride(), dim), strides)
    return plan.build(result)


def _scatters(*rest: str) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape, chosen, dim in (((5,), (3,), 0), ((4, 6), (3, 5), 0), ((4, 6), (3, 5), 1), ((2, 3, 4), (2, 2, 3), 1)):
            index = permuted(*chosen, n=shape[dim], dim=dim)
            yield Sample((values(shape, dtype), dim, index, values(chosen, dtype, seed=1) if rest else 1))
        for x in layouts((6, 10), dtype):
            yield Sample((x, 1, permuted(6, 10, n=10, dim=1), values((10, 6), dtype, seed=1).t() if rest else 1))

    return make


def _plan_scatter(
    self: Tensor, dim: int, index: Tensor, src: Tensor | None, bits: Code | None, action: str, plan: Plan, out: Tensor | None, in_place: bool
) -> Planned:
    """`src` or the bits of a number go to index along dim of self."""
    dim, _ = each_place(self, dim, index, src)
    if src is not None and src.dtype != self.dtype:
        raise Declined(f"src is {src.dtype}, self {self.dtype}: ATen raises")
    refuse_when_deterministic(plan)
    target, strides = plan_target(plan, self, out, in_place)
    places = Index(Code("index"), index.stride(), self.shape[dim], strides[dim])
    plan_indexed(
        plan, action, target, Code("src") if bits is None else bits, [places], index.shape, without(strides, dim),
        contiguous_strides(index.shape) if src is None else src.stride(),
    )  # fmt: skip
    return plan.build(target)


@planned(
    "aten::scatter.src", dtypes=ALL, samples=_scatters("src"), argument_dtypes={"index": LONG}, in_place=True,
)  # fmt: skip
def scatter(self: Tensor, dim: int, index: Tensor, src: Tensor, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self with src's elements at index along dim."""
    plan = Plan("self", "_dim", "index", "src", out=None if in_place else out)
    return _plan_scatter(self, dim, index, src, None, SCATTER, plan, out, in_place)


@planned(
    "aten::scatter.value", dtypes=ALL, samples=_scatters(), argument_dtypes={"index": LONG}, in_place=True,
)  # fmt: skip
def scatter_value(self: Tensor, dim: int, index: Tensor, value: float, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self with one number at index along dim."""
    plan = Plan("self", "_dim", "index", "value", out=None if in_place else out)
    bits_of(value, self.dtype)
    plan.do("bits = {bits_of}(value, {dtype})", bits_of=bits_of, dtype=self.dtype)
    return _plan_scatter(self, dim, index, None, Code("bits"), FILL, plan, out, in_place)


def plan_sums(
    plan: Plan, self: Tensor, out: Tensor | None, in_place: bool
) -> tuple[Code, tuple[int, ...], Callable[[], Planned]]:
    """(what is added to, its strides, how the plan ends): a wider copy of self where its dtype is small.

    Both copies are launches of ours: bfloat16 with copy_ and to took the host 39 us, float32 without 23 (H200, 2026-11-26).
    """
    wide = _ADDED.get(self.dtype)
    if wide is None:
        target, strides = plan_target(plan, self, out, in_place)
        return target, strides, lambda: plan.build(target)
    if out is not None:
        result_buffer(out, self.shape, self.dtype, self.device)
    target = plan.empty("target", self.shape, wide, self.device)
    strides = contiguous_strides(self.shape)
    plan_walk(plan, Code("self"), target, [Dim(*d) for d in zip(self.shape, self.stride(), strides, strict=True)])

    def end() -> Planned:
        given = self if in_place else out
        code = Code("self" if in_place else "out0") if given is not None else plan.empty("result", self.shape, self.dtype, self.device)
        layout = strides if given is None else given.stride()
        plan_walk(plan, target, code, [Dim(*d) for d in zip(self.shape, strides, layout, strict=True)])
        return plan.build(code)

    return target, strides, end


@dataclass(frozen=True)
class Added:
    """What is added to a tensor: elements of a source, at places along dim that the plan's `index` names."""

    dim: int
    shape: tuple[int, ...]  # of the walk
    walk: tuple[int, ...]  # the index' strides
    source: Code
    strides: tuple[int, ...]
    alpha: int | float = 1


def plan_added(plan: Plan, self: Tensor, added: Added, out: Tensor | None, in_place: bool) -> Planned:
    """The plan of self with something added; one launch where one program holds all of it.

    64 x 64 of bfloat16 were three launches: the host took 32.9 us, ATen 23.5 (H100, 2026-11-27).
    """
    refuse_when_deterministic(plan)
    wide, new = _ADDED.get(self.dtype), not in_place and out is None
    whole = None
    if (
        self.is_contiguous() and (new or out.is_contiguous()) and not (in_place and wide is None)
        and fits_one_program((self.numel(),)) and fits_one_program(added.shape)
    ):  # fmt: skip
        if not new:
            result_buffer(out, self.shape, self.dtype, self.device)
        plan.has("self", self)
        result = Code("self" if in_place else "out0") if not new else plan.empty("result", self.shape, self.dtype, self.device)
        target = result if wide is None else plan.empty("target", self.shape, wide, self.device)
        strides, end = contiguous_strides(self.shape), lambda: plan.build(result)
        whole = Whole(self.numel(), Code("self"), None if wide is None else result)
    else:
        target, strides, end = plan_sums(plan, self, out, in_place)
    places = Index(Code("index"), added.walk, self.shape[added.dim], strides[added.dim])
    plan_indexed(
        plan, ADD if added.alpha == 1 else ADD_SCALED, target, added.source, [places], added.shape, without(strides, added.dim),
        added.strides, alpha=None if added.alpha == 1 else added.alpha, whole=whole,
    )  # fmt: skip
    return end()


@planned(
    "aten::scatter_add", dtypes=SUMMED, samples=_scatters("src"), argument_dtypes={"index": LONG}, in_place=True,
    bench=square("src"),
)  # fmt: skip
def scatter_add(self: Tensor, dim: int, index: Tensor, src: Tensor, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self plus src's elements at index along dim; those at one place in no fixed order, as ATen."""
    dim, _ = each_place(self, dim, index, src)
    if src.dtype != self.dtype:
        raise Declined(f"src is {src.dtype}, self {self.dtype}: ATen raises")
    plan = Plan("self", "_dim", "index", "src", out=None if in_place else out)
    return plan_added(plan, self, Added(dim, index.shape, index.stride(), Code("src"), src.stride()), out, in_place)


def _slices(self: Tensor, dim: int, index: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """(dimension, how many slices, strides of the index along the walk) of an index for slices of self."""
    dim = _dim_of(self, dim)
    if index.dim() > 1:
        raise Declined(f"an index of {index.dim()} dimensions: ATen raises")
    step = index.stride()[0] if index.dim() else 0
    return dim, index.numel(), tuple(step if d == dim else 0 for d in range(self.dim()))


def _selections(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample((values((5,), dtype), 0, indices(7, n=5)))
    for dim in (0, 1, -1):
        yield Sample((values((4, 6), dtype), dim, indices(5, n=4)))
    yield Sample((values((2, 3, 4), dtype), 1, indices(9, n=3, dtype=torch.int32)))
    yield Sample((values((2, 3, 4), dtype), 2, torch.tensor(3)))
    for x in layouts((6, 10), dtype):
        yield Sample((x, 1, indices(14, n=10)[::2]))
        yield Sample((x, 0, indices(9, n=6)))
    yield Sample((values((40, 700), dtype), 0, indices(50, n=40)))


def _selecting(dim: int, *sources: str) -> Workload:
    n = 8192

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        index = torch.randperm(n, device=where)
        return (random_like((n, n), dtype, where), dim, index, *(random_like((n, n), dtype, where) for _ in sources)), {}

    return Workload(f"8192x8192 dim {dim}", make)


@planned(
    "aten::index_select", dtypes=ALL, samples=_selections, argument_dtypes={"index": INDICES}, bench=(_selecting(0), _selecting(1)),
)  # fmt: skip
def index_select(self: Tensor, dim: int, index: Tensor, out: Tensor | None = None) -> Planned:
    """self's slices at index along dim."""
    dim, n, walk = _slices(self, dim, index)
    shape = [n if d == dim else size for d, size in enumerate(self.shape)]
    plan = Plan("self", "_dim", "index", out=out)
    strides = contiguous_strides(shape) if out is None else result_buffer(out, shape, self.dtype, self.device).stride()
    result = plan.result(shape, self.dtype, self.device)
    places = Index(Code("index"), walk, self.shape[dim], self.stride()[dim])
    plan_indexed(plan, GATHER, Code("self"), result, [places], shape, without(self.stride(), dim), strides)
    return plan.build(result)


def _copies(number: bool, dtype_of_index: torch.dtype = torch.int64) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape, dim, n in (((5,), 0, 3), ((4, 6), 0, 3), ((4, 6), 1, 5), ((2, 3, 4), 1, 2)):
            source = values([n if d == dim else size for d, size in enumerate(shape)], dtype, seed=1)
            yield Sample((values(shape, dtype), dim, permuted(n, n=shape[dim], dim=0), 1 if number else source))
        for x in layouts((6, 10), dtype):
            yield Sample((x, 1, permuted(10, n=10, dim=0).to(dtype_of_index), 1 if number else values((10, 6), dtype, seed=1).t()))

    return make


def _source(self: Tensor, dim: int, n: int, source: Tensor) -> None:
    shape = tuple(n if d == dim else size for d, size in enumerate(self.shape))
    if tuple(source.shape) != shape or source.dtype != self.dtype:
        raise Declined(f"source {source.dtype} {tuple(source.shape)} for slices {self.dtype} {shape}")


@planned(
    "aten::index_copy", dtypes=ALL, samples=_copies(False), argument_dtypes={"index": LONG}, in_place=True,
    bench=(_selecting(0, "source"),),
)  # fmt: skip
def index_copy(self: Tensor, dim: int, index: Tensor, source: Tensor, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self with source's slices at index along dim."""
    dim, n, walk = _slices(self, dim, index)
    _source(self, dim, n, source)
    plan = Plan("self", "_dim", "index", "source", out=None if in_place else out)
    refuse_when_deterministic(plan)
    target, strides = plan_target(plan, self, out, in_place)
    places = Index(Code("index"), walk, self.shape[dim], strides[dim])
    plan_indexed(plan, SCATTER, target, Code("source"), [places], source.shape, without(strides, dim), source.stride())
    return plan.build(target)


@planned(
    "aten::index_fill.int_Scalar", dtypes=ALL, samples=_copies(True), argument_dtypes={"index": LONG}, in_place=True,
)  # fmt: skip
def index_fill(self: Tensor, dim: int, index: Tensor, value: float, out: Tensor | None = None, in_place: bool = False) -> Planned:
    """self with a number in the slices at index along dim."""
    dim, n, walk = _slices(self, dim, index)
    shape = tuple(n if d == dim else size for d, size in enumerate(self.shape))
    plan = Plan("self", "_dim", "index", "value", out=None if in_place else out)
    bits_of(value, self.dtype)
    plan.do("bits = {bits_of}(value, {dtype})", bits_of=bits_of, dtype=self.dtype)
    target, strides = plan_target(plan, self, out, in_place, torch.empty_like(self, device="meta").stride())
    places = Index(Code("index"), walk, self.shape[dim], strides[dim])
    plan_indexed(plan, FILL, target, Code("bits"), [places], shape, without(strides, dim), contiguous_strides(shape), wraps=True)
    return plan.build(target)


@planned(
    "aten::index_add", dtypes=SUMMED, samples=_copies(False, torch.int32), argument_dtypes={"index": INDICES}, in_place=True,
    keyed=frozenset({"alpha"}), bench=(_selecting(0, "source"),),
)  # fmt: skip
def index_add(
    self: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float = 1, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    """self plus alpha times source's slices at index along dim; those at one place in no fixed order, as ATen."""
    dim, n, walk = _slices(self, dim, index)
    _source(self, dim, n, source)
    if not isinstance(alpha, (float if self.dtype.is_floating_point else int, int)) or abs(alpha) > 2**24 or alpha * 2**8 % 1:
        raise Declined(f"alpha {alpha} for {self.dtype}: float32 may not hold it")
    plan = Plan("self", "_dim", "index", "source", "_alpha", out=None if in_place else out)
    number = float(alpha) if self.dtype.is_floating_point else alpha
    return plan_added(plan, self, Added(dim, source.shape, walk, Code("source"), source.stride(), number), out, in_place)
