"""mv, mm, addmm and bmm: their shapes checked and described as a Product, then the kernel that suits the shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.layout import contiguous_strides
from gems_ops.linalg import skinny, tiled
from gems_ops.linalg.operands import Product
from gems_ops.op import FLOATS, Declined, Sample, op, result_buffer
from gems_ops.plan import Code, Plan, Planned, call

# (m, k, n): single tiles, masked tails in each direction, several tiles, one row, one column, K long enough to split.
_SHAPES = ((1, 1, 1), (5, 7, 3), (17, 33, 65), (70, 40, 130), (1, 70, 33), (33, 20, 1), (2, 1100, 3), (18, 2050, 20))


def _mm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for m, k, n in _SHAPES:
        yield Sample((samples.values((m, k), dtype, -1, 1), samples.values((k, n), dtype, -1, 1, seed=1)))
    for a in samples.layouts((20, 24), dtype, -1, 1):
        for b in samples.layouts((24, 18), dtype, -1, 1, seed=1):
            yield Sample((a, b))


def _addmm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    a, b = samples.values((20, 24), dtype, -1, 1), samples.values((24, 18), dtype, -1, 1, seed=1)
    for shape in ((18,), (20, 18), (1, 18), (20, 1), (1,), ()):
        yield Sample((samples.values(shape, dtype), a, b))
        yield Sample((samples.values(shape, dtype), a, b), {"beta": 0.5, "alpha": -2})
    for bias in samples.layouts((20, 18), dtype):
        yield Sample((bias, a, b), {"beta": 2})
    yield Sample((torch.full((18,), float("nan"), dtype=dtype), a, b), {"beta": 0})
    for m, k, n in _SHAPES:
        x, y = samples.values((m, k), dtype, -1, 1), samples.values((k, n), dtype, -1, 1, seed=1)
        yield Sample((samples.values((n,), dtype), x, y))
        yield Sample((samples.values((m, n), dtype), x, y), {"beta": 3, "alpha": 0.25})


def _bmm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for batch, m, k, n in ((1, 5, 7, 3), (3, 20, 24, 18), (2, 1, 40, 33), (2, 40, 9, 1), (2, 18, 2050, 20)):
        a, b = samples.values((batch, m, k), dtype, -1, 1), samples.values((batch, k, n), dtype, -1, 1, seed=1)
        yield Sample((a, b))
    for a in samples.layouts((3, 17, 20), dtype, -1, 1):
        yield Sample((a, samples.values((3, 20, 18), dtype, -1, 1, seed=1)))
        yield Sample((a, samples.values((3, 18, 20), dtype, -1, 1, seed=1).transpose(1, 2)))


def _linear(m: int, n: int, k: int) -> workloads.Workload:
    """A row of biases added to (m, k) @ (k, n) whose second factor is a transposed weight, as nn.Linear calls it."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        shapes = ((n,), (m, k), (n, k))
        bias, x, weight = (workloads.random_like(shape, dtype, device) for shape in shapes)
        return (bias, x, weight.t()), {}

    return workloads.Workload(f"linear {m}x{n}x{k}", make, lambda args: 2.0 * m * n * k)


def _build(plan: Plan, p: Product) -> Planned:
    (skinny if skinny.is_skinny(p.m, p.n, p.k, p.batch) else tiled).multiply(plan, p)
    return plan.build(p.out)


def _matrix_product(plan: Plan, a: Tensor, b: Tensor) -> Product:
    """The product of two matrices that fit each other, which the plan calls a and b; declines any others."""
    if a.dim() != 2 or b.dim() != 2 or a.dtype != b.dtype:
        raise Declined("needs two matrices of one dtype")
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2:
        raise Declined(f"inner sizes {k} and {k2} differ")
    out, out_strides = _result(plan, (m, n), a)
    strides = (0, *a.stride()), (0, *b.stride()), (0, *out_strides)
    return Product(Code("a"), Code("b"), out, a.dtype, a.device, m, n, k, 1, *strides)


def _result(plan: Plan, shape: tuple[int, ...], like: Tensor) -> tuple[Code, tuple[int, ...]]:
    """The tensor that the product is written to, and its strides."""
    for out in plan.outs:
        result_buffer(out, shape, like.dtype, like.device)
    strides = plan.outs[0].stride() if plan.outs else contiguous_strides(shape)
    return plan.result(shape, like.dtype, like.device), strides


def _plan_mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Planned:
    plan = Plan("a", "b", out=out)
    return _build(plan, _matrix_product(plan, a, b))


def _plan_addmm(bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor | None = None) -> Planned:
    if bias.dtype != a.dtype or bias.dim() > 2:
        raise Declined("the added tensor does not fit the product")
    if isinstance(alpha, complex) or isinstance(beta, complex) or alpha == 0:
        raise Declined("alpha = 0 must not read the matrices, and complex factors are ATen's")
    plan = Plan("bias", "a", "b", "_beta", "_alpha", out=out)
    p = _matrix_product(plan, a, b)
    p.alpha = float(alpha)
    if beta != 0:
        p.beta = float(beta)
        p.bias = Code("bias")
        p.bias_strides = _broadcast_strides(bias, p.m, p.n)
    return _build(plan, p)


def _broadcast_strides(bias: Tensor, m: int, n: int) -> tuple[int, int]:
    """Row and column strides that read `bias` as an (m, n) matrix: 0 where it repeats."""
    sizes, strides = (1, 1, *bias.shape)[-2:], (0, 0, *bias.stride())[-2:]
    if sizes[0] not in (1, m) or sizes[1] not in (1, n):
        raise Declined(f"{tuple(bias.shape)} does not broadcast to {(m, n)}")
    return tuple(0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=True))


def _plan_bmm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Planned:
    if a.dim() != 3 or b.dim() != 3 or a.dtype != b.dtype:
        raise Declined("needs two batches of matrices of one dtype")
    (batch, m, k), (batch2, k2, n) = a.shape, b.shape
    if batch != batch2 or k != k2:
        raise Declined(f"{tuple(a.shape)} and {tuple(b.shape)} do not fit each other")
    plan = Plan("a", "b", out=out)
    result, out_strides = _result(plan, (batch, m, n), a)
    p = Product(Code("a"), Code("b"), result, a.dtype, a.device, m, n, k, batch, a.stride(), b.stride(), out_strides)
    return _build(plan, p)


def _plan_mv(a: Tensor, v: Tensor, out: Tensor | None = None) -> Planned:
    if a.dim() != 2 or v.dim() != 1 or a.dtype != v.dtype or a.shape[1] != v.shape[0]:
        raise Declined(f"{tuple(a.shape)} and {tuple(v.shape)} are no matrix and vector of one dtype that fit each other")
    plan = Plan("a", "v", out=out)
    m, k = a.shape
    result, (step,) = _result(plan, (m,), a)
    strides = (0, *a.stride()), (0, v.stride(0), 1), (0, step, 1)
    return _build(plan, Product(Code("a"), Code("v"), result, a.dtype, a.device, m, 1, k, 1, *strides))


def _mv_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for m, k, _ in _SHAPES:
        yield Sample((samples.values((m, k), dtype, -1, 1), samples.values((k,), dtype, -1, 1, seed=1)))
    for a in samples.layouts((20, 24), dtype, -1, 1):
        for v in samples.layouts((24,), dtype, -1, 1, seed=1):
            yield Sample((a, v))


def _mv_bench(m: int, k: int) -> workloads.Workload:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        return (workloads.random_like((m, k), dtype, device), workloads.random_like((k,), dtype, device)), {}

    return workloads.Workload(f"{m}x{k}", make)


@op("aten::mv", dtypes=FLOATS, samples=_mv_samples, bench=(_mv_bench(8192, 8192),), plan=_plan_mv, wide=True)
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
    "aten::addmm",
    dtypes=FLOATS,
    samples=_addmm_samples,
    bench=(_linear(4096, 4096, 4096), _linear(1, 4096, 4096)),
    plan=_plan_addmm,
    keyed=frozenset({"alpha", "beta"}),
    wide=True,
)
def addmm(
    self: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * self + alpha * (mat1 @ mat2), with self broadcast to the product's shape."""
    return call(_plan_addmm, self, mat1, mat2, beta, alpha, out=out)


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
