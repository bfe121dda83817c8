"""scatter_reduce, and scatter with reduce=: sums and means by atomics, as scatter_add, largest and smallest in any order.

The largest and smallest are found among the orders of numbers, which are integers: the result does not depend on which
thread comes first, and nan wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.create.fill import fill_dense
from gems_ops.create.numbers import block_of
from gems_ops.index.along import LONG, SUMMED, Added, each_place, indices, plan_added, plan_sums, square
from gems_ops.index.engine import ADD, ADD_VALUE, FILL, MAX, MIN, Index, plan_indexed, refuse_when_deterministic, without
from gems_ops.index.total_order import number_of, order_of
from gems_ops.layout import contiguous_strides
from gems_ops.op import NUMBERS, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import bits_of
from gems_ops.workloads import Workload
from gems_runtime import LibEntry


@LibEntry
@triton.jit
def _order_kernel(x_ptr, order_ptr, n, NAN_LAST: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(order_ptr + i, order_of(tl.load(x_ptr + i, mask=i < n, other=0), NAN_LAST), mask=i < n)


@LibEntry
@triton.jit
def _number_kernel(order_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, number_of(tl.load(order_ptr + i, mask=i < n, other=0), out_ptr.dtype.element_ty), mask=i < n)


def _reductions(dtype: torch.dtype) -> Iterator[Sample]:
    hows = ("amax", "amin", "sum", *["mean"] * dtype.is_floating_point)
    for how in hows:
        for include_self in (True, False):
            for shape, chosen, dim in (((5,), (9,), 0), ((4, 6), (3, 5), 0), ((2, 3, 4), (2, 7, 3), -2)):
                index = indices(*chosen, n=shape[dim] - 1)  # to the last place goes nothing
                src = values(chosen, dtype, seed=1)
                yield Sample((values(shape, dtype), dim, index, src, how), {"include_self": include_self})
        for x in layouts((6, 10), dtype):
            yield Sample((x, 1, indices(6, 10, n=10), values((10, 6), dtype, seed=1).t(), how))
    if dtype.is_floating_point:
        x = torch.tensor([0.0, -0.0, float("nan"), float("-inf"), 1.0, 2.0], dtype=dtype)
        for how in ("amax", "amin"):
            yield Sample((x, 0, torch.tensor([5, 4, 3, 2, 1, 0]), x, how))
            yield Sample((x.flip(0), 0, torch.tensor([0, 0, 1, 1, 0, 2]), x, how), {"include_self": False})


def _bench() -> tuple[Workload, ...]:
    (scattering,) = square("src")

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (*scattering.make(dtype, where)[0], "amax"), {}

    return (Workload(f"{scattering.label}, largest", make),)


@planned(
    "aten::scatter_reduce.two", dtypes=NUMBERS, samples=_reductions, argument_dtypes={"index": LONG}, in_place=True,
    bench=_bench(), opinfo=tuple(f"scatter_reduce.{how}" for how in ("sum", "amax", "amin")),
)  # fmt: skip
def scatter_reduce(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool = True, out: Tensor | None = None,
    in_place: bool = False,
) -> Planned:  # fmt: skip
    """What src has for each place along dim, and self unless it is left out: the sum, mean, largest or smallest."""
    dim, _ = each_place(self, dim, index, src)
    if src.dtype != self.dtype:
        raise Declined(f"src is {src.dtype}, self {self.dtype}: ATen raises")
    plan = Plan("self", "_dim", "index", "src", "_reduce", "_include_self", out=None if in_place else out)
    if reduce in ("amax", "amin"):
        return _plan_extremum(plan, self, dim, index, src, reduce == "amax", include_self, out, in_place)
    if reduce not in ("sum", "mean") or reduce == "mean" and not self.is_floating_point():
        raise Declined(f"{reduce} of {self.dtype}")
    refuse_when_deterministic(plan)
    target, strides, end = plan_sums(plan, self, out, in_place)
    places = Index(Code("index"), index.stride(), self.shape[dim], strides[dim])
    walked = (index.shape, without(strides, dim))
    if not include_self:
        plan_indexed(plan, FILL, target, 0, [places], *walked, contiguous_strides(index.shape))
    plan_indexed(plan, ADD, target, Code("src"), [places], *walked, src.stride())
    if reduce == "mean":
        _plan_division(plan, self, dim, index, target, int(include_self))
    return end()


def _plan_division(plan: Plan, self: Tensor, dim: int, index: Tensor, target: Code, first: int) -> None:
    """Divide what was added up by how many there were, `first` and those that index names; by 1 where there were none."""
    counts = plan.empty("counts", self.shape, torch.int32, self.device)
    fill_dense(plan, counts, self.numel(), torch.int32, first)
    strides = contiguous_strides(self.shape)
    places = Index(Code("index"), index.stride(), self.shape[dim], strides[dim])
    dense = contiguous_strides(index.shape)
    plan_indexed(plan, ADD_VALUE, counts, 1, [places], index.shape, without(strides, dim), dense)
    plan.do(f"{target}.div_({counts}.clamp_(min=1))")


def _plan_extremum(
    plan: Plan, self: Tensor, dim: int, index: Tensor, src: Tensor, largest: bool, include_self: bool, out: Tensor | None,
    in_place: bool,
) -> Planned:  # fmt: skip
    """Orders of self's elements, then the largest or smallest of them and those of src, then the numbers again."""
    if out is not None:
        result_buffer(out, self.shape, self.dtype, self.device)
    n = self.numel()
    block = block_of(n)
    grid = (triton.cdiv(n, block),)
    order_dtype = torch.int64 if self.dtype.itemsize == 8 else torch.int32
    orders = plan.empty("orders", self.shape, order_dtype, self.device)
    plan.do("dense = self" + ("" if self.is_contiguous() else ".contiguous()"))
    plan.launch(_order_kernel, grid, Code("dense"), orders, n, largest, block)
    strides = contiguous_strides(self.shape)
    places = Index(Code("index"), index.stride(), self.shape[dim], strides[dim])
    walked = (index.shape, without(strides, dim))
    if not include_self:
        limits = torch.iinfo(order_dtype)
        first = limits.min if largest else limits.max
        plan_indexed(plan, FILL, orders, first, [places], *walked, contiguous_strides(index.shape))
    plan_indexed(plan, MAX if largest else MIN, orders, Code("src"), [places], *walked, src.stride())
    given = Code("self" if in_place else "out0") if in_place or out is not None else None
    direct = given is not None and out.is_contiguous()
    found = given if direct else plan.empty("found", self.shape, self.dtype, self.device)
    plan.launch(_number_kernel, grid, orders, found, n, block)
    return plan.build(f"{given}.copy_(found)" if given and not direct else found)


def _sums(value: bool) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape, chosen, dim in (((5,), (9,), 0), ((4, 6), (3, 5), 0), ((2, 3, 4), (2, 7, 3), -2)):
            index = indices(*chosen, n=shape[dim] - 1)
            yield Sample((values(shape, dtype), dim, index, 3 if value else values(chosen, dtype, seed=1)), {"reduce": "add"})
        for x in layouts((6, 10), dtype):
            # a number of this dtype: ATen rounds it to that before it adds
            number = torch.tensor(0.3, dtype=dtype).item() if dtype.is_floating_point else -2
            src = number if value else values((10, 6), dtype, seed=1).t()
            yield Sample((x, 1, indices(6, 10, n=10), src), {"reduce": "add"})

    return make


@planned(
    "aten::scatter.reduce", dtypes=SUMMED, samples=_sums(False), argument_dtypes={"index": LONG}, in_place=True,
    opinfo=("scatter",),
)  # fmt: skip
def scatter_with(
    self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    """self plus src's elements at index along dim; products are left to ATen."""
    dim, _ = each_place(self, dim, index, src)
    if src.dtype != self.dtype or reduce != "add":
        raise Declined(f"{reduce}, src is {src.dtype}, self {self.dtype}")
    plan = Plan("self", "_dim", "index", "src", "_reduce", out=None if in_place else out)
    return plan_added(plan, self, Added(dim, index.shape, index.stride(), Code("src"), src.stride()), out, in_place)


@planned(
    "aten::scatter.value_reduce", dtypes=SUMMED, samples=_sums(True), argument_dtypes={"index": LONG}, in_place=True,
    opinfo=("scatter",),
)  # fmt: skip
def scatter_value_with(
    self: Tensor, dim: int, index: Tensor, value: float, reduce: str, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    """self plus one number at index along dim, as often as index names a place; products are left to ATen."""
    dim, _ = each_place(self, dim, index, None)
    if reduce != "add" or not isinstance(value, (bool, int, float)):
        raise Declined(f"{reduce} of a {type(value).__name__}")
    plan = Plan("self", "_dim", "index", "value", "_reduce", out=None if in_place else out)
    refuse_when_deterministic(plan)
    convert = _bits_for_sums(self.dtype)
    convert(value)
    plan.do("bits = {convert}(value)", convert=convert)
    target, strides, end = plan_sums(plan, self, out, in_place)
    places = Index(Code("index"), index.stride(), self.shape[dim], strides[dim])
    plan_indexed(
        plan, ADD_VALUE, target, Code("bits"), [places], index.shape, without(strides, dim), contiguous_strides(index.shape)
    )  # fmt: skip
    return end()


def _bits_for_sums(dtype: torch.dtype) -> Callable[[bool | int | float], int]:
    """The bits that are added for a number, which ATen rounds to self's dtype; sums may be kept in a wider one."""

    def convert(value: bool | int | float) -> int:
        bits_of(value, dtype)
        return bits_of(torch.tensor(value, dtype=dtype).item(), torch.float32 if dtype.itemsize == 2 else dtype)

    return convert
