"""mv, mm and bmm: their shapes checked and described as a Product, then the kernel that suits the shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.layout import contiguous_strides
from gems_ops.linalg import short, skinny, tiled
from gems_ops.linalg.operands import Product
from gems_ops.op import FLOATS, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call

# (m, k, n): single tiles, masked tails in each direction, several tiles, one row, one column, K long enough to split.
SHAPES = ((1, 1, 1), (5, 7, 3), (17, 33, 65), (70, 40, 130), (1, 70, 33), (33, 20, 1), (2, 1100, 3), (18, 2050, 20))


def _mm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for m, k, n in SHAPES:
        yield Sample((samples.values((m, k), dtype, -1, 1), samples.values((k, n), dtype, -1, 1, seed=1)))
    for a in samples.layouts((20, 24), dtype, -1, 1):
        for b in samples.layouts((24, 18), dtype, -1, 1, seed=1):
            yield Sample((a, b))


def _bmm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for batch, m, k, n in ((1, 5, 7, 3), (3, 20, 24, 18), (2, 1, 40, 33), (2, 40, 9, 1), (2, 18, 2050, 20)):
        a, b = samples.values((batch, m, k), dtype, -1, 1), samples.values((batch, k, n), dtype, -1, 1, seed=1)
        yield Sample((a, b))
    for a in samples.layouts((3, 17, 20), dtype, -1, 1):
        yield Sample((a, samples.values((3, 20, 18), dtype, -1, 1, seed=1)))
        yield Sample((a, samples.values((3, 18, 20), dtype, -1, 1, seed=1).transpose(1, 2)))


def build(plan: Plan, p: Product) -> Planned:
    (skinny if skinny.is_skinny(p.m, p.n, p.k, p.batch) else short if short.is_short(p) else tiled).multiply(plan, p)
    return plan.build(p.out)


def matrix_product(plan: Plan, a: Tensor, b: Tensor, into: Tensor | None = None) -> Product:
    """The product of two matrices that fit each other, which the plan calls a and b; declines any others.

    It is written to the plan's out= tensor, to `into`, which the plan calls bias, or to a new one.
    """
    if a.dim() != 2 or b.dim() != 2 or a.dtype != b.dtype:
        raise Declined("needs two matrices of one dtype")
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2:
        raise Declined(f"inner sizes {k} and {k2} differ")
    out, out_strides = result_of(plan, (m, n), a, into)
    strides = (0, *a.stride()), (0, *b.stride()), (0, *out_strides)
    return Product(Code("a"), Code("b"), out, a.dtype, a.device, m, n, k, 1, *strides)


def result_of(plan: Plan, shape: tuple[int, ...], like: Tensor, into: Tensor | None = None) -> tuple[Code, tuple[int, ...]]:
    """The tensor that a product is written to (see `matrix_product`), and its strides."""
    if into is not None:
        return Code("bias"), result_buffer(into, shape, like.dtype, like.device).stride()
    for out in plan.outs:
        result_buffer(out, shape, like.dtype, like.device)
    strides = plan.outs[0].stride() if plan.outs else contiguous_strides(shape)
    return plan.result(shape, like.dtype, like.device), strides


def _plan_mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Planned:
    plan = Plan("a", "b", out=out)
    return build(plan, matrix_product(plan, a, b))


def batched_product(plan: Plan, a: Tensor, b: Tensor, into: Tensor | None = None) -> Product:
    """As `matrix_product`, for two batches of matrices."""
    if a.dim() != 3 or b.dim() != 3 or a.dtype != b.dtype:
        raise Declined("needs two batches of matrices of one dtype")
    (batch, m, k), (batch2, k2, n) = a.shape, b.shape
    if batch != batch2 or k != k2:
        raise Declined(f"{tuple(a.shape)} and {tuple(b.shape)} do not fit each other")
    out, out_strides = result_of(plan, (batch, m, n), a, into)
    return Product(Code("a"), Code("b"), out, a.dtype, a.device, m, n, k, batch, a.stride(), b.stride(), out_strides)


def _plan_bmm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Planned:
    plan = Plan("a", "b", out=out)
    return build(plan, batched_product(plan, a, b))


def vector_product(plan: Plan, a: Tensor, v: Tensor, into: Tensor | None = None) -> Product:
    """As `matrix_product`, for a matrix and a vector, which the plan calls v."""
    if a.dim() != 2 or v.dim() != 1 or a.dtype != v.dtype or a.shape[1] != v.shape[0]:
        raise Declined(f"{tuple(a.shape)} and {tuple(v.shape)} are no matrix and vector of one dtype that fit each other")
    m, k = a.shape
    out, (step,) = result_of(plan, (m,), a, into)
    strides = (0, *a.stride()), (0, v.stride(0), 1), (0, step, 1)
    return Product(Code("a"), Code("v"), out, a.dtype, a.device, m, 1, k, 1, *strides)


def _plan_mv(a: Tensor, v: Tensor, out: Tensor | None = None) -> Planned:
    plan = Plan("a", "v", out=out)
    return build(plan, vector_product(plan, a, v))


def _mv_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for m, k, _ in SHAPES:
        yield Sample((samples.values((m, k), dtype, -1, 1), samples.values((k,), dtype, -1, 1, seed=1)))
    for a in samples.layouts((20, 24), dtype, -1, 1):
        for v in samples.layouts((24,), dtype, -1, 1, seed=1):
            yield Sample((a, v))


def mv_bench(m: int, k: int) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (workloads.random_like((m, k), dtype, device), workloads.random_like((k,), dtype, device)), {}

    return workloads.Workload(f"{m}x{k}", make)


@op("aten::mv", dtypes=FLOATS, samples=_mv_samples, bench=(mv_bench(8192, 8192),), plan=_plan_mv, wide=True)
def mv(self: Tensor, vec: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of a matrix (m, k) and a vector (k)."""
    return call(_plan_mv, self, vec, out=out)


@op(
    "aten::mm",
    dtypes=FLOATS,
    samples=_mm_samples,
    bench=(
        workloads.matmul(4096, 4096, 4096),
        workloads.matmul(8192, 8192, 8192),
        workloads.matmul(1, 4096, 4096),
        workloads.matmul(16, 4096, 4096),
        workloads.matmul(512, 4096, 11008),
    ),
    plan=_plan_mm,
    wide=True,
)
def mm(self: Tensor, mat2: Tensor, out: Tensor | None = None) -> Tensor:
    """Matrix product of (m, k) and (k, n)."""
    return call(_plan_mm, self, mat2, out=out)


@op(
    "aten::bmm",
    dtypes=FLOATS,
    samples=_bmm_samples,
    bench=(workloads.matmul(512, 512, 128, batch=128), workloads.matmul(1, 1024, 128, batch=128)),
    plan=_plan_bmm,
    wide=True,
)
def bmm(self: Tensor, mat2: Tensor, out: Tensor | None = None) -> Tensor:
    """Matrix products of (b, m, k) and (b, k, n)."""
    return call(_plan_bmm, self, mat2, out=out)
