"""x[mask] and x[mask] = v, with full slices before and after the mask: its places are found, then slices at them moved.

What is written where a mask is true and does not depend on how often it is, needs no places: it is chosen element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.index.compact import plan_places, plan_selection
from gems_ops.index.engine import INTERPRETER_TILE, TILE, plan_target
from gems_ops.layout import single_stride
from gems_ops.op import Declined, find, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.rows.access import widen
from gems_runtime import LibEntry, device

READ, WRITE, ADD = 0, 1, 2


@LibEntry
@triton.jit(do_not_specialize=["n_rows", "n_places"])
def _slices_kernel(
    table_ptr, place_ptr, dense_ptr, n_rows, n_places, n_cols,
    table_stride_outer, table_stride_place, table_stride_col, dense_stride_outer, dense_stride_place, dense_stride_col,
    ACTION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Slices of a table [outer, n, n_cols] at places, to or from a dense [outer, n_places, n_cols]; no place occurs twice."""
    col_blocks = tl.cdiv(n_cols, BLOCK_COLS)
    # int64: what is found may be as many rows as memory holds
    row = (tl.program_id(0).to(tl.int64) // col_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    col = (tl.program_id(0) % col_blocks * BLOCK_COLS + tl.arange(0, BLOCK_COLS))[None, :]
    inside = (row < n_rows) & (col < n_cols)
    outer, rank = row // n_places, row % n_places
    place = tl.load(place_ptr + rank, mask=row < n_rows, other=0)
    table = table_ptr + outer * table_stride_outer + place * table_stride_place + col.to(tl.int64) * table_stride_col
    dense = dense_ptr + outer * dense_stride_outer + rank * dense_stride_place + col.to(tl.int64) * dense_stride_col
    if ACTION == 0:
        tl.store(dense, tl.load(table, mask=inside), mask=inside)
    elif ACTION == 1:
        tl.store(table, tl.load(dense, mask=inside), mask=inside)
    else:
        old, x = tl.load(table, mask=inside, other=0), tl.load(dense, mask=inside, other=0)
        total = widen(old) + widen(x) if old.dtype.is_floating() else old + x
        tl.store(table, total.to(old.dtype), mask=inside)


@dataclass(frozen=True)
class Masked:
    """Where in a list of indices the only mask stands, and what dimensions it covers of self."""

    mask: Tensor
    at: int  # its position in the list: the full slices before it

    @property
    def end(self) -> int:
        """The first dimension after those that it covers."""
        return self.at + self.mask.dim()

    def split(self, values: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Sizes or strides of self before, under and after the mask."""
        return values[: self.at], values[self.at : self.end], values[self.end :]


def has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(t is not None and t.dtype == torch.bool for t in indices)


def _masked(self: Tensor, indices: Sequence[Tensor | None]) -> Masked:
    """Declines masks beside other indices, and what ATen refuses."""
    (at, *others) = [i for i, t in enumerate(indices) if t is not None]
    found = Masked(indices[at], at)
    if others or not found.mask.dim() or tuple(self.shape[at : found.end]) != tuple(found.mask.shape):
        raise Declined(f"a mask {tuple(found.mask.shape)} of {tuple(self.shape)} beside {len(others)} other indices")
    return found


def _plan_mask(plan: Plan, found: Masked) -> Code:
    """The mask, dense."""
    plan.do(f"mask = indices[{found.at}]" + ("" if found.mask.is_contiguous() else ".contiguous()"))
    return Code("mask")


def _plan_slices(
    plan: Plan, action: int, table: Code, dense: Code, n_outer: int, n_cols: int, table_strides: Sequence[int],
    dense_strides: Sequence[int | Code],
) -> None:  # fmt: skip
    """Add the launch over [outer, the places that `plan_places` found, columns]."""
    tile = INTERPRETER_TILE if device.interpreted() else TILE
    block_cols = min(triton.next_power_of_2(n_cols), tile)
    block_rows = tile // block_cols
    plan.do("n_rows = found * {n_outer}", n_outer=n_outer)
    # numbers are bound, not written, so that masks of other shapes have the same text (see Plan)
    grid = Code(f"(-(-n_rows // {plan.bind(block_rows)}) * {plan.bind(triton.cdiv(n_cols, block_cols))},)")
    plan.launch(
        _slices_kernel, grid, table, Code("places"), dense, Code("n_rows"), Code("found"), n_cols, *table_strides, *dense_strides, action, block_rows, block_cols,
        num_warps=max(1, min(8, block_rows * block_cols // 512)),
    )  # fmt: skip


def plan_masked_index(plan: Plan, self: Tensor, indices: Sequence[Tensor | None]) -> Planned:
    """The plan of index.Tensor of a contiguous self with one mask."""
    found = _masked(self, indices)
    mask = _plan_mask(plan, found)
    if found.mask.dim() == self.dim():
        return plan_selection(plan, self.numel(), self.dtype, self.device)
    before, _, after = found.split(self.shape)
    n_outer, n, n_cols = prod(before), found.mask.numel(), prod(after)
    plan_places(plan, mask, n, self.device)
    plan.do(
        "out = {empty}((*{before}, found, *{after}), dtype={dtype}, device={where})",
        empty=torch.empty, before=tuple(before), after=tuple(after), dtype=self.dtype, where=self.device,
    )  # fmt: skip
    plan.do("if found == 0: return out")
    dense_strides = (Code(f"found * {plan.bind(n_cols)}"), n_cols, 1)
    _plan_slices(plan, READ, Code("self"), Code("out"), n_outer, n_cols, (n * n_cols, n_cols, 1), dense_strides)
    return plan.build("out")


def _refuse_other_counts(found: int, wanted: int) -> None:
    if found != wanted:
        raise Declined(f"values for {wanted} places, the mask has {found}: ATen raises")


def plan_masked_put(
    plan: Plan, self: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool, out: Tensor | None,
    in_place: bool,
) -> Planned:  # fmt: skip
    """The plan of index_put with one mask."""
    found = _masked(self, indices)
    before, _, after = found.split(self.shape)
    at = len(before)
    sizes = (*[1] * (at + 1 + len(after) - values.dim()), *values.shape)
    shape = (*before, sizes[at], *after) if len(sizes) == at + 1 + len(after) else ()
    if any(n not in (1, wanted) for n, wanted in zip(sizes, shape)) or not shape:
        raise Declined(f"values {tuple(values.shape)} for {tuple(before)}, places, {tuple(after)}: ATen raises")
    like = torch.empty_like(self, device="meta") if out is None else result_buffer(out, self.shape, self.dtype, self.device)
    if sizes[at] == 1 and not accumulate:
        return _plan_choice(plan, self, found, values.view(sizes), like, out, in_place)
    if accumulate and self.dtype == torch.bool:
        raise Declined("sums of bool")
    strides = [single_stride(n, s) for n, s in zip(found.split(self.shape), found.split(like.stride()), strict=True)]
    if None in strides:
        raise Declined("dimensions before, under or after the mask that no single stride walks")
    plan_places(plan, _plan_mask(plan, found), found.mask.numel(), self.device)
    if sizes[at] != 1 and self.device.type != "meta":  # compiling for a target with no device: one place is found
        plan.do("{check}(found, {wanted})", check=_refuse_other_counts, wanted=sizes[at])
    dense = _dense_strides(torch.empty_strided(values.shape, values.stride(), device="meta").expand(shape), at)
    if None in dense:
        plan.do("values = values.expand({shape}).contiguous()", shape=shape)
        dense = _dense_strides(torch.empty(shape, device="meta"), at)
    target, _ = plan_target(plan, self, out, in_place, like.stride())
    plan.do(f"if found == 0: return {target}")
    action = ADD if accumulate else WRITE
    _plan_slices(plan, action, target, Code("values"), prod(before), prod(after), strides, dense)
    return plan.build(target)


def _dense_strides(values: Tensor, at: int) -> list[int | None]:
    """How values [before, places, after] are walked; a dimension of places that has 1 is walked as if it had more."""
    shape, strides = values.shape, values.stride()
    step = 0 if shape[at] == 1 else strides[at]
    return [single_stride(shape[:at], strides[:at]), step, single_stride(shape[at + 1 :], strides[at + 1 :])]


def _plan_choice(
    plan: Plan, self: Tensor, found: Masked, values: Tensor, like: Tensor, out: Tensor | None, in_place: bool
) -> Planned:
    """values [before, 1, after] where the mask is true, else self: nobody needs to know how many places there are."""
    before, under, after = found.split(self.shape)
    mask_view = (*[1] * len(before), *under, *[1] * len(after))
    value_view = (*values.shape[: len(before)], *[1] * len(under), *values.shape[len(before) + 1 :])
    (where,) = find("aten::where.self")
    choose = where.plan(found.mask.view(mask_view), values.view(value_view), self, out=like)
    target = Code("self" if in_place else "out0") if in_place or out is not None else plan.empty(
        "target", self.shape, self.dtype, self.device, like.stride()
    )  # fmt: skip
    plan.do(
        f"{{choose}}(indices[{found.at}].view({{mask}}), values.view({{value}}), self, {target})",
        choose=choose, mask=mask_view, value=value_view,
    )  # fmt: skip
    return plan.build(target)
