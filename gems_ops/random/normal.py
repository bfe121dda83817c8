"""normal with a mean and a standard deviation for each element, rounded where ATen's three kernels round."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gems_ops.op import FLOATS, Declined, Sample, planned, result_buffer
from gems_ops.plan import Code, Plan, Planned
from gems_ops.promote import broadcast_shape
from gems_ops.random.distributions import grid_of, has_fast_instructions, two_normals
from gems_ops.random.philox import plan_reserve, random_bits, threads_for
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, random_like
from gems_runtime import LibEntry


@triton.jit
def _store_normal(out_ptr, z, i, mask, mean_ptr, std_ptr, mean, std):
    like: tl.constexpr = out_ptr.dtype.element_ty
    if std_ptr is None:
        x = (z * std).to(like).to(tl.float32)
    else:
        x = (z.to(like).to(tl.float32) * tl.load(std_ptr + i, mask=mask, other=0).to(tl.float32)).to(like).to(tl.float32)
    if mean_ptr is None:
        x += mean
    else:
        x += tl.load(mean_ptr + i, mask=mask, other=0).to(tl.float32)
    tl.store(out_ptr + i, x.to(like), mask=mask)


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "n", "threads", "mean", "std"])
def _normal_kernel(
    out_ptr, mean_ptr, std_ptr, mean, std, seed, block, n, threads, FAST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """As the kernel of normal_, with tensors of means and deviations, or numbers where those are None."""
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1)
    bits0, bits1, bits2, bits3 = random_bits(seed.to(tl.int64), block.to(tl.int64) + k, t.to(tl.int64))
    z0, z1 = two_normals(bits0, bits1, FAST)
    z2, z3 = two_normals(bits2, bits3, FAST)
    i = t + k * 4 * threads
    own = t < threads
    _store_normal(out_ptr, z0, i, own & (i < n), mean_ptr, std_ptr, mean, std)
    i += threads
    _store_normal(out_ptr, z1, i, own & (i < n), mean_ptr, std_ptr, mean, std)
    i += threads
    _store_normal(out_ptr, z2, i, own & (i < n), mean_ptr, std_ptr, mean, std)
    i += threads
    _store_normal(out_ptr, z3, i, own & (i < n), mean_ptr, std_ptr, mean, std)


def _check_deviations(std: Tensor) -> None:
    """Waits for the device, as ATen's own check does."""
    if not std.min().item() >= 0:
        raise Declined("a standard deviation is below 0: ATen raises")


def _check_deviation(std: float) -> None:
    if not 0 <= std < math.inf:
        raise Declined(f"standard deviation {std}")


def _plan(mean: Tensor | float, std: Tensor | float, out: Tensor | None) -> Planned:
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    shape, dtype = broadcast_shape(tensors), tensors[0].dtype
    n = math.prod(shape)
    if any(t.dtype != dtype for t in tensors) or n >= 2**31 - 4 * threads_for(n):
        raise Declined("mixed dtypes or 2**31 elements")
    if out is not None and not result_buffer(out, shape, dtype, out.device).is_contiguous():
        raise Declined("out= is not contiguous")
    plan = Plan("mean", "std", "generator", out=out)
    if not isinstance(std, Tensor):
        plan.do("{check}(std)", check=_check_deviation)
    elif std.device.type != "meta":  # which is for compiling only
        plan.do("{check}(std)", check=_check_deviations)
    operands = []
    for name, given in (("mean", mean), ("std", std)):
        if isinstance(given, Tensor) and (tuple(given.shape) != shape or not given.is_contiguous()):
            plan.do(name + " = " + name + ".expand({shape}).contiguous()", shape=shape)
        operands.append(Code(name) if isinstance(given, Tensor) else None)
    numbers = [Code(0.0) if isinstance(given, Tensor) else Code(name) for name, given in (("mean", mean), ("std", std))]
    result = plan.result(shape, dtype, tensors[0].device)
    grid, threads, block = grid_of(n)
    seed, first = plan_reserve(plan, n, tensors[0].device)
    plan.launch(
        _normal_kernel, grid, result, *operands, *numbers, seed, first, n, threads, has_fast_instructions(), block,
        enable_fp_fusion=False,  # ATen multiplies and adds in two kernels
    )  # fmt: skip
    return plan.build(result)


def _tensors(dtype: torch.dtype) -> Iterator[Sample]:
    for a, b in (((), ()), ((3, 5), (3, 5)), ((3, 1), (5,)), ((700,), (700,))):
        yield Sample((values(a, dtype), values(b, dtype, 0.1, 2.0)))
    for x in layouts((6, 10), dtype):
        yield Sample((x, values((6, 10), dtype, 0.0, 2.0)))


def _first(number: float) -> object:
    return lambda dtype: (Sample((s.args[0], number)) for s in _tensors(dtype))


def _second(number: float) -> object:
    return lambda dtype: (Sample((number, s.args[1])) for s in _tensors(dtype))


def _bench(means: bool, stds: bool) -> tuple[Workload, ...]:
    shape = (8192, 8192)

    def make(dtype: torch.dtype, where: torch.device) -> tuple[tuple, dict]:
        mean = random_like(shape, dtype, where) if means else 0.5
        return (mean, random_like(shape, dtype, where).abs() if stds else 1.5), {}

    return (Workload("8192x8192", make),)


@planned("aten::normal.Tensor_float", dtypes=FLOATS, samples=_first(1.5), random=True, bench=_bench(True, False))
def normal_tensor_float(mean: Tensor, std: float = 1.0, generator: torch.Generator | None = None, out: Tensor | None = None) -> Planned:
    """Normal numbers around each element of mean."""
    return _plan(mean, std, out)


# No figures: the check of the deviations waits for the device, which a graph cannot.
@planned("aten::normal.float_Tensor", dtypes=FLOATS, samples=_second(0.5), random=True)
def normal_float_tensor(mean: float, std: Tensor, generator: torch.Generator | None = None, out: Tensor | None = None) -> Planned:
    """Normal numbers with each element of std as their standard deviation."""
    return _plan(mean, std, out)


@planned("aten::normal.Tensor_Tensor", dtypes=FLOATS, samples=_tensors, random=True)
def normal_tensor_tensor(mean: Tensor, std: Tensor, generator: torch.Generator | None = None, out: Tensor | None = None) -> Planned:
    """Normal numbers with each element's own mean and standard deviation."""
    return _plan(mean, std, out)
