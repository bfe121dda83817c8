"""Tensors of zeros, or copies, with another tensor written into a view of them: the gradients of views, and *_scatter.

Where the view lies is asked of torch itself, with tensors of the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gems_ops.create.fill import fill_dense
from gems_ops.layout import extent
from gems_ops.op import ALL, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.samples import layouts, values
from gems_ops.shape.walk import Dim, plan_walk
from gems_ops.workloads import Workload, random_like

View = Callable[[Tensor], Tensor]


def _view_of(target: Tensor, view: View, source: Tensor) -> Tensor:
    """The view of a meta tensor. Declines arguments that torch refuses, and sources that do not fit."""
    try:
        found = view(torch.empty_strided(target.shape, target.stride(), device="meta"))
    except (IndexError, RuntimeError) as error:
        raise Declined(f"ATen raises: {error}") from None
    if found.shape != source.shape or found.numel() == 0:
        raise Declined(f"{tuple(source.shape)} into a view of {tuple(found.shape)}: empty, or ATen raises")
    return found


def _write(plan: Plan, target: Code, view: Tensor, name: str, source: Tensor) -> Planned:
    dims = [Dim(n, a, b) for n, a, b in zip(source.shape, source.stride(), view.stride(), strict=True)]
    plan_walk(plan, Code(name), target, dims, out_at=view.storage_offset())
    return plan.build(target)


def _into_zeros(name: str, source: Tensor, shape: list[int], view: View, plan: Plan, out: Tensor | None) -> Planned:
    like = torch.empty(shape, dtype=source.dtype, device="meta")
    if out is not None and not result_buffer(out, shape, source.dtype, source.device).is_contiguous():
        raise Declined("out= is not contiguous")
    found = _view_of(like, view, source)
    target = plan.result(shape, source.dtype, source.device)
    fill_dense(plan, target, like.numel(), source.dtype, 0)
    return _write(plan, target, found, name, source)


def _into_copy(self: Tensor, src: Tensor, view: View, plan: Plan, out: Tensor | None) -> Planned:
    if src.dtype != self.dtype or extent(self.shape, self.stride()) != self.numel():
        raise Declined(f"src is {src.dtype}, self {self.dtype}, or self has gaps")
    like = self if out is None else result_buffer(out, self.shape, self.dtype, self.device)
    found = _view_of(like, view, src)
    target = Code("out0") if out is not None else plan.empty("target", self.shape, self.dtype, self.device, self.stride())
    plan_walk(plan, Code("self"), target, [Dim(n, a, b) for n, a, b in zip(self.shape, self.stride(), like.stride(), strict=True)])
    return _write(plan, target, found, "src", src)


def _bench(view: View, *rest: object) -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        x = random_like((8192, 8192), dtype, where)
        return (x, view(x).contiguous(), *rest), {}

    return (Workload("8192x8192", make),)


def _backward_bench(view: View, *rest: object) -> tuple[Workload, ...]:
    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        return (view(random_like((8192, 8192), dtype, where)).contiguous(), (8192, 8192), *rest), {}

    return (Workload("8192x8192", make),)


def _scatters(view: View, *rest: object) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for x in (values((6, 10), dtype), values((6, 10, 3), dtype), *list(layouts((6, 10), dtype))[2:4]):
            yield Sample((x, values(tuple(view(x).shape), dtype, seed=1), *rest))
        x = values((6, 10), dtype)
        yield Sample((x, view(values((10, 6), dtype).t()), *rest))

    return make


def _gradients(view: View, *rest: object) -> Callable[[torch.dtype], Iterator[Sample]]:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for shape in ((6, 10), (6, 10, 3)):
            x = values(shape, dtype)
            yield Sample((view(x), shape, *rest))
            yield Sample((view(x).clone(), shape, *rest))

    return make


@planned(
    "aten::slice_scatter", dtypes=ALL, samples=_scatters(lambda x: x[:, 1:8:2], 1, 1, 8, 2),
    bench=_bench(lambda x: x[:, 1024:2048], 1, 1024, 2048),
)  # fmt: skip
def slice_scatter(
    self: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1, out: Tensor | None = None
) -> Planned:
    """self with src in a slice."""
    plan = Plan("self", "src", "_dim", "_start", "_end", "_step", out=out)
    return _into_copy(self, src, lambda x: torch.ops.aten.slice(x, dim, start, end, step), plan, out)


@planned(
    "aten::select_scatter", dtypes=ALL, samples=_scatters(lambda x: x[:, 3], 1, 3), bench=_bench(lambda x: x[17], 0, 17),
)  # fmt: skip
def select_scatter(self: Tensor, src: Tensor, dim: int, index: int, out: Tensor | None = None) -> Planned:
    """self with src at one index of a dimension."""
    return _into_copy(self, src, lambda x: x.select(dim, index), Plan("self", "src", "_dim", "_index", out=out), out)


@planned(
    "aten::diagonal_scatter", dtypes=ALL, samples=_scatters(lambda x: x.diagonal(1, 1, 0), 1, 1, 0),
    bench=_bench(lambda x: x.diagonal()),
)  # fmt: skip
def diagonal_scatter(
    self: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1, out: Tensor | None = None
) -> Planned:
    """self with src on a diagonal."""
    plan = Plan("self", "src", "_offset", "_dim1", "_dim2", out=out)
    return _into_copy(self, src, lambda x: x.diagonal(offset, dim1, dim2), plan, out)


def _embeddings(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample((values((5,), dtype),))
    yield Sample((values((3, 5), dtype), 2))
    yield Sample((values((3, 5), dtype), -1, 0, 1))
    yield Sample((values((5, 6), dtype).t()[::2], 0, 0, 2))


@planned("aten::diag_embed", dtypes=ALL, samples=_embeddings, bench=(Workload("8192", lambda dtype, where: ((random_like((8192,), dtype, where),), {})),))
def diag_embed(self: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1, out: Tensor | None = None) -> Planned:
    """Zeros with self's last dimension on a diagonal."""
    try:
        shape = torch.diag_embed(torch.empty(self.shape, device="meta"), offset, dim1, dim2).shape
    except (IndexError, RuntimeError) as error:
        raise Declined(f"ATen raises: {error}") from None
    plan = Plan("self", "_offset", "_dim1", "_dim2", out=out)
    return _into_zeros("self", self, shape, lambda x: x.diagonal(offset, dim1, dim2), plan, out)


@planned(
    "aten::diagonal_backward", dtypes=ALL, samples=_gradients(lambda x: x.diagonal(1, 1, 0), 1, 1, 0),
    bench=_backward_bench(lambda x: x.diagonal(), 0, 0, 1),
)  # fmt: skip
def diagonal_backward(
    grad_output: Tensor, input_sizes: list[int], offset: int, dim1: int, dim2: int, out: Tensor | None = None
) -> Planned:
    """Zeros with grad_output on a diagonal."""
    plan = Plan("grad", "_input_sizes", "_offset", "_dim1", "_dim2", out=out)
    return _into_zeros("grad", grad_output, input_sizes, lambda x: x.diagonal(offset, dim1, dim2), plan, out)


@planned(
    "aten::select_backward", dtypes=ALL, samples=_gradients(lambda x: x[:, 3], 1, 3), bench=_backward_bench(lambda x: x[17], 0, 17),
)  # fmt: skip
def select_backward(grad_output: Tensor, input_sizes: list[int], dim: int, index: int, out: Tensor | None = None) -> Planned:
    """Zeros with grad_output at one index of a dimension."""
    plan = Plan("grad", "_input_sizes", "_dim", "_index", out=out)
    return _into_zeros("grad", grad_output, input_sizes, lambda x: x.select(dim, index), plan, out)


@planned(
    "aten::slice_backward", dtypes=ALL, samples=_gradients(lambda x: x[:, 1:8:2], 1, 1, 8, 2),
    bench=_backward_bench(lambda x: x[:, 1024:5120], 1, 1024, 5120, 1),
)  # fmt: skip
def slice_backward(
    grad_output: Tensor, input_sizes: list[int], dim: int, start: int, end: int, step: int, out: Tensor | None = None
) -> Planned:
    """Zeros with grad_output in a slice."""
    plan = Plan("grad", "_input_sizes", "_dim", "_start", "_end", "_step", out=out)
    return _into_zeros("grad", grad_output, input_sizes, lambda x: torch.ops.aten.slice(x, dim, start, end, step), plan, out)
