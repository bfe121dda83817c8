"""Dropout, with ATen's own numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.layout import extent, has_overlap
from gems_ops.op import Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.random.philox import plan_reserve, random_bits, threads_for, unit
from gems_ops.samples import values
from gems_ops.workloads import stream
from gems_runtime import LibEntry, device

GROUPS = 256  # of a program: 4 elements each, by one call of the bit generator


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "keep"])
def _dropout_kernel(x_ptr, out_ptr, mask_ptr, seed, block, keep, n, threads, GROUPS: tl.constexpr):
    """ATen's vectorised kernel gives the four numbers of a draw to four neighbours: group g belongs to thread g % threads."""
    g = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    a, b, c, d = random_bits(seed.to(tl.int64), block.to(tl.int64) + g // threads, (g % threads).to(tl.int64))
    kept = unit(tl.interleave(tl.interleave(a, c), tl.interleave(b, d))) < keep
    i = tl.program_id(0) * 4 * GROUPS + tl.arange(0, 4 * GROUPS)
    inside = i < n
    x = tl.load(x_ptr + i, mask=inside).to(tl.float32)
    # as a product, so that what is dropped from nan or infinity is nan, as in ATen
    y = x * kept.to(tl.float32) * tl.div_rn(1.0, keep + tl.zeros_like(x))
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(mask_ptr + i, kept, mask=inside)


def _refuse(x: Tensor, p: float, train: bool | None) -> None:
    if train is False or not 0.0 < p < 1.0:
        raise Declined(f"p is {p}, train {train}: nothing is drawn")
    n = x.numel()
    if n % 4 or extent(x.shape, x.stride()) != n or has_overlap(x.shape, x.stride()):
        raise Declined("no whole groups of 4 dense elements: ATen draws in another order")
    if n >= 2**31 - 8 * GROUPS:
        raise Declined(f"{n} elements: ATen draws for them in parts")


def _samples(dtype: torch.dtype) -> Iterator[Sample]:
    for x in (values((6, 10), dtype), values((10, 6), dtype).t(), values((2, 3, 40), dtype), values((7,), dtype)):
        yield Sample((x, 0.3, True))


# Of half types ATen draws in another order, which differs by version (bfloat16 on an H200, torch 2.11).
@planned(
    "aten::native_dropout", dtypes=frozenset({torch.float32}), samples=_samples, random=True,
    keyed=frozenset({"p"}), bench=stream(1, (8192, 8192), 0.3, True),
)  # fmt: skip
def native_dropout(input: Tensor, p: float, train: bool | None) -> Planned:
    """(input with a share p of its elements 0 and the others divided by 1 - p, which were kept)"""
    _refuse(input, p, train)
    n = input.numel()
    plan = Plan("input", "p", "train")
    plan.do(
        "if input.data_ptr() % {width}: raise {declined}('input is not aligned for 4 elements: ATen draws in another order')",
        width=4 * input.element_size(), declined=Declined,
    )  # fmt: skip
    plan.do("generator = None")
    seed, block = plan_reserve(plan, n, input.device)
    plan.do("result = {like}(input)", like=torch.empty_like)
    plan.do("mask = {like}(input, dtype={bool})", like=torch.empty_like, bool=torch.bool)
    groups = min(triton.next_power_of_2(n // 4), 1 << 14) if device.interpreted() else GROUPS
    grid = (triton.cdiv(n, 4 * groups),)
    keep = 1.0 - p
    plan.launch(_dropout_kernel, grid, *map(Code, ("input", "result", "mask")), seed, block, keep, n, threads_for(n), groups)
    return plan.build("(result, mask)")
