"""Result dtype and strides of element-by-element operators, as ATen's TensorIterator decides them."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_ops.op import Declined


class Promotion(enum.Enum):
    """ATen's kinds of type promotion, by what becomes of the operands' common dtype (names as in torch._prims_common)."""

    DEFAULT = "arithmetic widens half types, the result has it"
    NO_OPMATH = "arithmetic and result have it"
    INT_TO_FLOAT = "as DEFAULT, in the default dtype where it is no floating point"
    ALWAYS_BOOL = "as DEFAULT, and the result is boolean"
    COMPLEX_TO_FLOAT = "as DEFAULT, and the result of complex numbers is real"
    BOOL_TO_LONG = "as DEFAULT, in int64 for booleans"


_OPMATH = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def opmath(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic on `dtype` runs in."""
    return _OPMATH.get(dtype, dtype)


def promoted(operands: Sequence[object], kind: Promotion) -> tuple[torch.dtype, torch.dtype]:
    """(compute dtype, result dtype) of tensors and Python numbers together.

    Written here although torch._prims_common has it: that imports sympy when first called, 1.9 s on an H200's host
    (torch 2.11, 2026-11-22).
    """
    common = _common_dtype(operands)
    if kind is Promotion.INT_TO_FLOAT and not (common.is_floating_point or common.is_complex):
        common = torch.get_default_dtype()
    if kind is Promotion.BOOL_TO_LONG and common == torch.bool:
        common = torch.int64
    result = common
    if kind is Promotion.ALWAYS_BOOL:
        result = torch.bool
    elif kind is Promotion.COMPLEX_TO_FLOAT and common.is_complex:
        result = common.to_real()
    return common if kind is Promotion.NO_OPMATH else opmath(common), result


def _common_dtype(operands: Sequence[object]) -> torch.dtype:
    """What tensors with dimensions, 0-dim tensors and numbers promote to; a lower rank only lifts the kind of a higher one."""
    ranks: list[torch.dtype | None] = [None, None, None]
    for value in operands:
        if value is None:
            continue
        rank = 2 if not isinstance(value, Tensor) else 0 if value.dim() else 1
        dtype = value.dtype if isinstance(value, Tensor) else _number_dtype(value)
        ranks[rank] = dtype if ranks[rank] is None else torch.promote_types(ranks[rank], dtype)
    common = None
    for dtype in reversed(ranks):
        if dtype is not None:
            common = dtype if common is None else _lifted(dtype, common)
    assert common is not None, "no operand has a type"
    return common


def _number_dtype(number: object) -> torch.dtype:
    if isinstance(number, (bool, int)):
        return torch.bool if isinstance(number, bool) else torch.int64
    return torch.get_default_dtype().to_complex() if isinstance(number, complex) else torch.get_default_dtype()


def _lifted(higher: torch.dtype, lower: torch.dtype) -> torch.dtype:
    """The dtype of a higher rank beside a lower one: its own, unless the lower one is of a kind that it cannot hold."""
    if higher.is_complex:
        return higher
    if higher.is_floating_point:
        return higher.to_complex() if lower.is_complex else higher
    if higher == torch.bool or lower.is_floating_point or lower.is_complex:
        return torch.promote_types(higher, lower)
    return higher


def broadcast_shape(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The shape they broadcast to. Declines shapes that do not; the native kernel says why."""
    try:
        return tuple(torch.broadcast_shapes(*(t.shape for t in tensors)))
    except RuntimeError:
        raise Declined(f"shapes {[tuple(t.shape) for t in tensors]} do not broadcast") from None


def elementwise_strides(tensors: Sequence[Tensor], shape: tuple[int, ...], compute: torch.dtype | None) -> tuple[int, ...]:
    """Strides that ATen gives a new result.

    `compute` is the dtype that ATen's CPU kernels copy operands of other dtypes to before they look at strides, or
    None where operands are never copied, as on a GPU.
    """
    expanded = []
    for t in tensors:
        if t.dim() == 0 and shape:
            continue  # on the CPU or not, it has no order to offer
        if compute is not None and t.dtype != compute:
            t = torch.empty_like(t, device="meta")  # what `.to(dtype)` leaves
        expanded.append(t.expand(shape))
    return _ordered_strides(expanded, shape) if expanded else contiguous_strides(shape)


def _ordered_strides(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dense strides in the order that TensorIterator gives the dimensions of operands expanded to `shape`."""
    if all(t.is_contiguous() for t in tensors):
        return contiguous_strides(shape)
    # Innermost first. Insertion, as ATen's: dimensions that no operand tells apart keep their places.
    order = list(reversed(range(len(shape))))
    every = [t.stride() for t in tensors]
    for i in range(1, len(shape)):
        at = i
        for before in range(i - 1, -1, -1):
            swaps = _compare(order[before], order[at], every, shape)
            if swaps > 0:
                order[before], order[at] = order[at], order[before]
                at = before
            elif swaps < 0:
                break
    strides, step = [0] * len(shape), 1
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def _compare(inner: int, outer: int, every: list[tuple[int, ...]], shape: tuple[int, ...]) -> int:
    """1 if the dimension `inner` belongs outside `outer`, -1 if it does not, 0 if no operand says."""
    for strides in every:
        a, b = strides[inner], strides[outer]
        if a == 0 or b == 0:
            continue
        if a != b:
            return -1 if a < b else 1
        if shape[inner] > shape[outer]:
            return 1
    return 0
