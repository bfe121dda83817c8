"""Choosing between values by a mask."""

import torch
import triton.language as tl
from torch import Tensor

from gems_ops.op import ALL, BOOL
from gems_ops.pointwise.declare import pointwise
from gems_ops.samples import masked, selected
from gems_ops.workloads import Workload, random_like


def _masked(*rest: object) -> tuple[Workload, ...]:
    shape = (8192, 8192)

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, dtype, device), random_like(shape, torch.bool, device), *rest), {}

    return (Workload("8192x8192", make),)


def _where_bench() -> tuple[Workload, ...]:
    shape = (8192, 8192)

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (random_like(shape, torch.bool, device), *(random_like(shape, dtype, device) for _ in "ab")), {}

    return (Workload("8192x8192", make),)


@pointwise(
    "aten::where.self", dtypes=ALL, argument_dtypes={"condition": BOOL}, raw=frozenset({"condition"}),
    samples=selected(), bench=_where_bench(), in_place=False,
)  # fmt: skip
def where(condition, self, other):
    """self where condition, else other"""
    return tl.where(condition, self, other)


def _value_does_not_fit(self: Tensor, mask: Tensor, value: object) -> str | None:
    if isinstance(value, Tensor):
        fits = value.dtype == self.dtype and value.dim() == 0
        return None if fits else f"value is {value.dtype} {tuple(value.shape)}, self {self.dtype}"
    kind = torch.result_type(torch.empty((), dtype=torch.bool), value)
    return None if torch.can_cast(kind, self.dtype) else f"a value of {kind} does not fit {self.dtype}"


_MASKED = dict(
    dtypes=ALL, argument_dtypes={"mask": BOOL, "value": ALL}, raw=frozenset({"mask"}),
    contiguous=True, when=_value_does_not_fit,
)  # fmt: skip


@pointwise("aten::masked_fill.Scalar", samples=masked(number=True), bench=_masked(0.5), **_MASKED)
def masked_fill(self, mask, value):
    """value where mask, else self"""
    return tl.where(mask, value, self)


@pointwise("aten::masked_fill.Tensor", samples=masked(number=False), **_MASKED)
def masked_fill_tensor(self, mask, value):
    """value, a 0-dim tensor, where mask, else self"""
    return tl.where(mask, value, self)
