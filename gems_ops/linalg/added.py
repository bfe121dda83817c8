"""Matrix products added to a tensor: addmv, addmm, baddbmm and addbmm.

With beta = 0 the tensor is not read: what it holds, nan also, does not count. With alpha = 0 ATen's do not read the factors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gems_ops import samples, workloads
from gems_ops.layout import contiguous_strides
from gems_ops.linalg import skinny
from gems_ops.linalg.operands import Product
from gems_ops.linalg.products import SHAPES, batched_product, build, matrix_product, mv_bench, vector_product
from gems_ops.op import FLOATS, Declined, Sample, op
from gems_ops.plan import Code, Plan, Planned, call

_NAN = float("nan")


def _refuse(bias: Tensor, a: Tensor, alpha: float, beta: float) -> None:
    if bias.dtype != a.dtype:
        raise Declined(f"{bias.dtype} is added to a product of {a.dtype}")
    if isinstance(alpha, complex) or isinstance(beta, complex) or alpha == 0:
        raise Declined("alpha = 0 must not read the matrices, and complex factors are ATen's")


def _add(plan: Plan, p: Product, bias: Tensor, beta: float, alpha: float, in_place: bool) -> Planned:
    """The plan of alpha times a product plus beta times `bias`, which the plan calls so and which broadcasts to it."""
    strides = _broadcast_strides(bias, (p.batch, p.m, p.n))
    p.alpha = float(alpha)
    if beta != 0:
        p.beta = float(beta)
        p.bias, p.bias_strides = Code("bias"), strides
        if in_place and not skinny.is_skinny(p.m, p.n, p.k, p.batch):
            # The tuned kernel runs many times while it is timed, and must not read what it wrote.
            p.bias = plan.empty("before", bias.shape, bias.dtype, bias.device)
            p.bias_strides = contiguous_strides((p.batch, p.m, p.n))
            plan.do("before.copy_(bias)")
    return build(plan, p)


def _broadcast_strides(bias: Tensor, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Strides that read `bias` as (batch, m, n): 0 where it repeats."""
    sizes, strides = (1, 1, 1, *bias.shape)[-3:], (0, 0, 0, *bias.stride())[-3:]
    if bias.dim() > 3 or any(size not in (1, whole) for size, whole in zip(sizes, shape, strict=True)):
        raise Declined(f"{tuple(bias.shape)} does not broadcast to {shape}")
    batch, row, col = (0 if size == 1 else stride for size, stride in zip(sizes, strides, strict=True))
    return batch, row, col


def _plan_addmm(
    bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    _refuse(bias, a, alpha, beta)
    if bias.dim() > 2:
        raise Declined(f"{bias.dim()} dimensions are added to a matrix")
    plan = Plan("bias", "a", "b", "_beta", "_alpha", out=None if in_place else out)
    return _add(plan, matrix_product(plan, a, b, bias if in_place else None), bias, beta, alpha, in_place)


def _plan_addmv(
    bias: Tensor, a: Tensor, v: Tensor, beta: float, alpha: float, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    _refuse(bias, a, alpha, beta)
    if bias.dim() > 1:
        raise Declined(f"{bias.dim()} dimensions are added to a vector")
    plan = Plan("bias", "a", "v", "_beta", "_alpha", out=None if in_place else out)
    p = vector_product(plan, a, v, bias if in_place else None)
    return _add(plan, p, bias.unsqueeze(-1), beta, alpha, in_place)


def _plan_baddbmm(
    bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    _refuse(bias, a, alpha, beta)
    plan = Plan("bias", "a", "b", "_beta", "_alpha", out=None if in_place else out)
    return _add(plan, batched_product(plan, a, b, bias if in_place else None), bias, beta, alpha, in_place)


def _plan_addbmm(
    bias: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor | None = None, in_place: bool = False
) -> Planned:
    """One product whose K runs over the batch: beside it, a factor that must be copied to lie so costs little."""
    _refuse(bias, a, alpha, beta)
    if bias.dim() > 2 or a.dim() != 3 or b.dim() != 3 or (a.shape[0], a.shape[2]) != tuple(b.shape[:2]):
        raise Declined(f"{tuple(bias.shape)}, {tuple(a.shape)} and {tuple(b.shape)} do not fit each other")
    batch, m, k = a.shape
    plan = Plan("bias", "a", "b", "_beta", "_alpha", out=None if in_place else out)
    wide = a.permute(1, 0, 2).reshape(m, batch * k)
    plan.do("a = a.permute(1, 0, 2).reshape({shape})", shape=tuple(wide.shape))
    tall = b.reshape(batch * k, b.shape[2])
    plan.do("b = b.reshape({shape})", shape=tuple(tall.shape))
    return _add(plan, matrix_product(plan, wide, tall, bias if in_place else None), bias, beta, alpha, in_place)


def _addmm_samples(dtype: torch.dtype) -> Iterator[Sample]:
    a, b = samples.values((20, 24), dtype, -1, 1), samples.values((24, 18), dtype, -1, 1, seed=1)
    for shape in ((18,), (20, 18), (1, 18), (20, 1), (1,), ()):
        yield Sample((samples.values(shape, dtype), a, b))
        yield Sample((samples.values(shape, dtype), a, b), {"beta": 0.5, "alpha": -2})
    for bias in samples.layouts((20, 18), dtype):
        yield Sample((bias, a, b), {"beta": 2})
    yield Sample((torch.full((18,), _NAN, dtype=dtype), a, b), {"beta": 0})
    for m, k, n in SHAPES:
        x, y = samples.values((m, k), dtype, -1, 1), samples.values((k, n), dtype, -1, 1, seed=1)
        yield Sample((samples.values((n,), dtype), x, y))
        yield Sample((samples.values((m, n), dtype), x, y), {"beta": 3, "alpha": 0.25})


def _addmv_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for m, k, _ in SHAPES:
        a, v = samples.values((m, k), dtype, -1, 1), samples.values((k,), dtype, -1, 1, seed=1)
        yield Sample((samples.values((m,), dtype), a, v))
        yield Sample((samples.values((1,), dtype), a, v), {"beta": 3, "alpha": 0.25})
    for a in samples.layouts((20, 24), dtype, -1, 1):
        for v in samples.layouts((24,), dtype, -1, 1, seed=1):
            yield Sample((samples.values((), dtype), a, v))
    for bias in samples.layouts((20,), dtype):
        yield Sample((bias, a, v), {"beta": -0.5})
    yield Sample((torch.full((20,), _NAN, dtype=dtype), a, v), {"beta": 0})


def _batches(shapes: tuple, reduced: bool) -> samples.Samples:
    """Batches of factors with tensors that broadcast to their products, or to the sum of these."""

    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for batch, m, k, n in ((1, 5, 7, 3), (3, 20, 24, 18), (2, 1, 40, 33), (2, 40, 9, 1), (2, 18, 2050, 20), (2, 70, 40, 33)):
            a, b = samples.values((batch, m, k), dtype, -1, 1), samples.values((batch, k, n), dtype, -1, 1, seed=1)
            whole = (m, n) if reduced else (batch, m, n)
            yield Sample((samples.values(whole, dtype), a, b))
            yield Sample((samples.values(whole, dtype), a, b), {"beta": 3, "alpha": 0.25})
        a, b = samples.values((3, 20, 24), dtype, -1, 1), samples.values((3, 24, 18), dtype, -1, 1, seed=1)
        for shape in shapes:
            yield Sample((samples.values(shape, dtype), a, b), {"beta": 0.5, "alpha": -2})
        for bias in samples.layouts((20, 18) if reduced else (3, 20, 18), dtype):
            yield Sample((bias, a, b))
        for x in samples.layouts((3, 20, 24), dtype, -1, 1):
            yield Sample((samples.values((18,), dtype), x, b))
            yield Sample((samples.values((18,), dtype), x, samples.values((3, 18, 24), dtype, -1, 1, seed=1).transpose(1, 2)))
        yield Sample((torch.full((20, 18) if reduced else (3, 20, 18), _NAN, dtype=dtype), a, b), {"beta": 0})

    return make


def _linear(m: int, n: int, k: int) -> workloads.Workload:
    """A row of biases added to (m, k) @ (k, n) whose second factor is a transposed weight, as nn.Linear calls it."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        shapes = ((n,), (m, k), (n, k))
        bias, x, weight = (workloads.random_like(shape, dtype, device) for shape in shapes)
        return (bias, x, weight.t()), {}

    return workloads.Workload(f"linear {m}x{n}x{k}", make, lambda args: 2.0 * m * n * k)


def _with_bias(shape: tuple[int, ...], product: workloads.Workload) -> tuple[workloads.Workload, ...]:
    """A tensor of this shape added to a product that is timed without it, too."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[tuple, dict]:
        factors, _ = product.make(dtype, device)
        return (workloads.random_like(shape, dtype, device), *factors), {}

    return (workloads.Workload(product.label, make, product.flops),)


_FIELDS = dict(dtypes=FLOATS, keyed=frozenset({"alpha", "beta"}), wide=True, in_place=True)


@op(
    "aten::addmm", samples=_addmm_samples, bench=(_linear(4096, 4096, 4096), _linear(1, 4096, 4096)), plan=_plan_addmm, **_FIELDS
)  # fmt: skip
def addmm(self: Tensor, mat1: Tensor, mat2: Tensor, beta: float = 1, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """beta * self + alpha * (mat1 @ mat2), with self broadcast to the product's shape."""
    return call(_plan_addmm, self, mat1, mat2, beta, alpha, out=out)


@op("aten::addmv", samples=_addmv_samples, bench=_with_bias((8192,), mv_bench(8192, 8192)), plan=_plan_addmv, **_FIELDS)
def addmv(self: Tensor, mat: Tensor, vec: Tensor, beta: float = 1, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """beta * self + alpha * (mat @ vec), with self broadcast to the product's length."""
    return call(_plan_addmv, self, mat, vec, beta, alpha, out=out)


_MORE = ((18,), (1, 18), (20, 1), (1,), ())


@op(
    "aten::baddbmm", samples=_batches(((20, 18), (3, 1, 18), (1, 20, 1), *_MORE), reduced=False), plan=_plan_baddbmm,
    bench=_with_bias((128, 512, 512), workloads.matmul(512, 512, 128, batch=128)), **_FIELDS,
)  # fmt: skip
def baddbmm(self: Tensor, batch1: Tensor, batch2: Tensor, beta: float = 1, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """beta * self + alpha * (batch1 @ batch2), with self broadcast to the products' shape."""
    return call(_plan_baddbmm, self, batch1, batch2, beta, alpha, out=out)


@op(
    "aten::addbmm", samples=_batches(_MORE, reduced=True), plan=_plan_addbmm,
    bench=_with_bias((512, 512), workloads.matmul(512, 512, 128, batch=128)), **_FIELDS,
)  # fmt: skip
def addbmm(self: Tensor, batch1: Tensor, batch2: Tensor, beta: float = 1, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """beta * self + alpha * the sum of all batch1 @ batch2, with self broadcast to its shape; 16-bit sums are rounded once."""
    return call(_plan_addbmm, self, batch1, batch2, beta, alpha, out=out)
