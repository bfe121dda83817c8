"""Result dtype, shape and strides: asked of ATen itself, by running the overload on meta tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from gems_ops.op import Declined

_OPMATH = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def opmath(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic on `dtype` runs in."""
    return _OPMATH.get(dtype, dtype)


def to_meta(value: object) -> object:
    """The same tensor without data (also inside lists); anything else as it is."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, (list, tuple)):
        return [to_meta(v) for v in value]
    return value


def meta_result(overload: torch._ops.OpOverload, args: tuple) -> Tensor:
    """What ATen would return for these arguments (in schema order), as a meta tensor.

    Costs about 20 us, once per plan. Declines a call that ATen refuses: the native kernel raises its error.
    """
    arguments = overload._schema.arguments
    positional = [to_meta(v) for a, v in zip(arguments, args, strict=True) if not a.kwarg_only]
    named = {a.name: to_meta(v) for a, v in zip(arguments, args, strict=True) if a.kwarg_only}
    try:
        return overload(*positional, **named)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Declined(f"ATen refuses the call: {str(error).splitlines()[0]}") from None


def common_dtype(operands: list[object]) -> torch.dtype:
    """The dtype that tensors and Python numbers promote to together."""
    tensors = [t for t in operands if isinstance(t, Tensor)]
    dimensioned = [t for t in tensors if t.dim()]
    result = None
    for t in operands:
        left = torch.empty((1,) if dimensioned else (), dtype=result, device="meta") if result else None
        right = to_meta(t)
        if left is None:
            result = right.dtype if isinstance(right, Tensor) else None
        else:
            result = torch.result_type(left, right)
    return result
