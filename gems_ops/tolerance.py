"""How far a result may be from the truth: one function of dtype and reduction length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Relative error of one rounded operation with some slack; the values torch.testing uses.
_RTOL = {torch.float16: 1e-3, torch.bfloat16: 1.6e-2, torch.float32: 1.3e-6, torch.float64: 1e-7}
_ATOL = {torch.float16: 1e-5, torch.bfloat16: 1e-5, torch.float32: 1e-5, torch.float64: 1e-7}


def reduction_length(inputs: list[Tensor], result: Tensor) -> int:
    """Elements that go into one element of the result, at most; 1 for pointwise operators."""
    most = max((t.numel() for t in inputs), default=1)
    return max(1, most // max(1, result.numel()))


def bounds(dtype: torch.dtype, length: int = 1, factor: float = 1.0) -> tuple[float, float]:
    """(rtol, atol) for a result of `dtype` that sums up `length` products. Exact for integers and bool.

    Rounding errors of a sum grow like the square root of its length; the absolute part covers cancellation.
    """
    if not dtype.is_floating_point:
        return 0.0, 0.0
    grow = factor * math.sqrt(length)
    accumulated = _RTOL[torch.float32] * grow  # sums are kept in float32 whatever the dtype
    return _RTOL[dtype] * factor + accumulated, _ATOL[dtype] * grow


def largest_error(got: Tensor, truth: Tensor) -> float:
    """Largest absolute difference where both are finite, in float64."""
    finite = truth.isfinite() & got.isfinite()
    gap = (got.double() - truth.double()).abs()[finite]
    return gap.max().item() if gap.numel() else 0.0
