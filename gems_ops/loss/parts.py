"""The second stage of a reduced loss: partial sums in float32 or float64 become one number, in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gems_ops.plan import Code, Plan
from gems_runtime import LibEntry

NONE, MEAN, SUM = range(3)  # at::Reduction
_BLOCK = 1024


@LibEntry
@triton.jit
def _add_parts_kernel(
    loss_parts_ptr, weight_parts_ptr, loss_ptr, total_ptr, n_parts, count, MEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The loss, over the total weight (over `count` where there are no weights) for a mean. The mean of nothing is nan."""
    DTYPE: tl.constexpr = loss_parts_ptr.dtype.element_ty
    losses, weights = tl.zeros((BLOCK,), DTYPE), tl.zeros((BLOCK,), DTYPE)
    for first in range(0, n_parts, BLOCK):
        parts = first + tl.arange(0, BLOCK)
        losses += tl.load(loss_parts_ptr + parts, mask=parts < n_parts, other=0.0)
        if weight_parts_ptr is not None:
            weights += tl.load(weight_parts_ptr + parts, mask=parts < n_parts, other=0.0)
    loss = tl.sum(losses, axis=0)
    if weight_parts_ptr is not None:
        weight = tl.sum(weights, axis=0)
        tl.store(total_ptr, weight.to(total_ptr.dtype.element_ty))
        if MEAN:
            loss = loss / weight
    elif MEAN:
        loss = loss / count
    tl.store(loss_ptr, loss.to(loss_ptr.dtype.element_ty))


def empty_parts(plan: Plan, names: tuple[str, ...], programs: int, dtype: torch.dtype, where: torch.device) -> list[Code]:
    """One partial sum a program under each name."""
    return [plan.empty(name, (programs,), dtype, where) for name in names]


def plan_sum(
    plan: Plan, parts: Code, weight_parts: Code | None, loss: Code, total: Code | None, n_parts: int, reduction: int,
    count: int = 0,
) -> None:  # fmt: skip
    """Plan to add partial sums up to the loss, and to the total weight where there is one."""
    block = min(_BLOCK, triton.next_power_of_2(n_parts))
    plan.launch(_add_parts_kernel, (1,), parts, weight_parts, loss, total, n_parts, count, reduction == MEAN, block)
