"""Result dtype and strides of element-by-element operators, as ATen's TensorIterator decides them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import (
    ELEMENTWISE_TYPE_PROMOTION_KIND as Promotion,
)
from torch._prims_common import (
    compute_elementwise_output_strides,
    elementwise_dtypes,
)

from gems_ops.op import Declined

__all__ = ["Promotion", "elementwise_strides", "opmath", "promoted"]

_OPMATH = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def opmath(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic on `dtype` runs in."""
    return _OPMATH.get(dtype, dtype)


def promoted(operands: Sequence[object], kind: Promotion) -> tuple[torch.dtype, torch.dtype]:
    """(compute dtype, result dtype) of tensors and Python numbers together."""
    return elementwise_dtypes(*operands, type_promotion_kind=kind)


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
    return compute_elementwise_output_strides(*expanded) if expanded else _contiguous(shape)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()
