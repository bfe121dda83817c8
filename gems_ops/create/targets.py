"""What creation functions make: a tensor of the meta device that says shape, strides and dtype of the result."""

from __future__ import annotations

import torch
from torch import Tensor

from gems_ops.layout import extent
from gems_ops.op import Declined
from gems_ops.plan import Plan

# Parameters of a plan that are looked at once.
OPTIONS = ("_dtype", "_layout", "_device", "_pin_memory")
LIKE_OPTIONS = (*OPTIONS, "_memory_format")


def sized(
    plan: Plan, size: list[int], dtype: torch.dtype | None, layout: torch.layout | None, pin_memory: bool | None
) -> Tensor:
    """A contiguous result; the default dtype, if it decides, is looked at in each call."""
    _refuse(layout, pin_memory)
    if dtype is None:
        dtype = torch.get_default_dtype()
        plan.do(
            "if {now}() is not {default}: raise {declined}('the default dtype has changed')",
            now=torch.get_default_dtype, default=dtype, declined=Declined,
        )  # fmt: skip
    return _checked(torch.empty(size, dtype=dtype, device="meta"))


def alike(
    x: Tensor, dtype: torch.dtype | None, layout: torch.layout | None, pin_memory: bool | None, memory_format: torch.memory_format | None
) -> Tensor:
    """A result in the layout of x."""
    _refuse(layout, pin_memory)
    asked = {"memory_format": memory_format} if memory_format is not None else {}
    return _checked(torch.empty_like(x, dtype=dtype, device="meta", **asked))


def _refuse(layout: torch.layout | None, pin_memory: bool | None) -> None:
    if pin_memory or layout not in (None, torch.strided):
        raise Declined("pinned memory or a layout other than strided")


def _checked(made: Tensor) -> Tensor:
    if made.numel() == 0 or extent(made.shape, made.stride()) != made.numel():
        raise Declined(f"a result {tuple(made.shape)} of strides {made.stride()}: empty or with gaps")
    return made
