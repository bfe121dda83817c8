"""Distributions that need one random number an element: uniform, normal, exponential, Bernoulli."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import libdevice

from gems_ops.layout import extent
from gems_ops.op import ALL, FLOATS, Declined, Sample, planned
from gems_ops.plan import Code, Plan, Planned
from gems_ops.random.philox import plan_reserve, random_bits, threads_for, unit
from gems_ops.samples import layouts, values
from gems_ops.workloads import Workload, stream
from gems_runtime import LibEntry, device

BLOCK = 512  # lanes of a program: 4 for each of 128 threads, and each lane makes 4 elements


@triton.jit
def two_normals(x, y, FAST: tl.constexpr):
    """Box and Muller's two normal numbers of two times 32 random bits, as curand_normal4 (FAST: by the same instructions)."""
    angle = tl.fma(y.to(tl.float32), 1.4629180792671596e-09, 7.314590396335798e-10)
    if FAST:
        length = tl.sqrt_rn(-2.0 * libdevice.log(unit(x)))
        return libdevice.fast_sinf(angle) * length, libdevice.fast_cosf(angle) * length
    else:
        length = tl.sqrt_rn(-2.0 * tl.log(unit(x)))
        return tl.sin(angle) * length, tl.cos(angle) * length


@triton.jit
def _transform(u, a, b, c, like, HOW: tl.constexpr, FAST: tl.constexpr):
    """One number of a distribution in the element type of `like`, from u in (0, 1] or a normal u."""
    if HOW == "uniform":  # [a, c), b wide: c itself, which rounding reaches, counts as a
        x = (u * b + a).to(like)
        return tl.where(x.to(tl.float32) == c, a, x.to(tl.float32)).to(like)
    elif HOW == "normal":
        return (u * b + a).to(like)
    elif HOW == "bernoulli":
        return tl.where(u < a, 1.0, 0.0).to(like)
    else:
        tl.static_assert(HOW == "exponential", "unknown distribution")
        # never 0, also after rounding: for u next to 1 the logarithm is half an epsilon instead
        log = libdevice.fast_logf(u) if FAST else tl.log(u)
        log = tl.where(u >= 0.99999994, -5.9604644775390625e-08, log)
        return (a * log).to(like)


@LibEntry
@triton.jit(do_not_specialize=["seed", "block", "n", "threads", "a", "b", "c"])
def _draw_kernel(out_ptr, seed, block, n, threads, a, b, c, HOW: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr):
    """Axis 0 of the grid runs over ATen's threads, axis 1 over their draws."""
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(1)
    bits0, bits1, bits2, bits3 = random_bits(seed.to(tl.int64), block.to(tl.int64) + k, t.to(tl.int64))
    like: tl.constexpr = out_ptr.dtype.element_ty
    if HOW == "normal":
        u0, u1 = two_normals(bits0, bits1, FAST)
        u2, u3 = two_normals(bits2, bits3, FAST)
    else:
        u0, u1, u2, u3 = unit(bits0), unit(bits1), unit(bits2), unit(bits3)
    i = t + k * 4 * threads
    own = t < threads
    tl.store(out_ptr + i, _transform(u0, a, b, c, like, HOW, FAST), mask=own & (i < n))
    i += threads
    tl.store(out_ptr + i, _transform(u1, a, b, c, like, HOW, FAST), mask=own & (i < n))
    i += threads
    tl.store(out_ptr + i, _transform(u2, a, b, c, like, HOW, FAST), mask=own & (i < n))
    i += threads
    tl.store(out_ptr + i, _transform(u3, a, b, c, like, HOW, FAST), mask=own & (i < n))


def has_fast_instructions() -> bool:
    """True where ATen's own instructions for logarithm, sine and cosine are to be had: the values are then its own."""
    return device.identity().vendor == "nvidia"


def grid_of(n: int) -> tuple[tuple[int, int], int, int]:
    """(grid, threads, lanes of a program) that cover n elements."""
    threads = threads_for(n)
    block = triton.next_power_of_2(threads) if device.interpreted() else BLOCK
    return (triton.cdiv(threads, block), triton.cdiv(n, 4 * threads)), threads, block


def plan_draw(plan: Plan, out: Code, n: int, where: torch.device, numbers: tuple[Code, ...], how: str) -> None:
    """Add a launch that fills the n elements of the dense tensor `out`; `numbers` are a, b, c of the kernel."""
    if n >= 2**31 - 4 * threads_for(n):
        raise Declined(f"{n} elements: ATen draws for them in parts")
    grid, threads, block = grid_of(n)
    seed, first = plan_reserve(plan, n, where)
    plan.launch(_draw_kernel, grid, out, seed, first, n, threads, *numbers, how, has_fast_instructions(), block)


# The kernel's numbers for the user's. Each declines what ATen refuses, or makes something particular of.
_remembered = lru_cache(maxsize=1024)


@_remembered
def _uniform_numbers(dtype: torch.dtype, low: float, high: float) -> tuple[float, float, float]:
    most = torch.finfo(dtype).max
    if not (-most <= low <= high <= most and high - low <= most):
        raise Declined(f"the interval from {low} to {high}")
    a, c = torch.tensor((low, high), dtype=dtype).tolist()
    return a, torch.tensor(c - a, dtype=dtype).item(), c


def _normal_numbers(dtype: torch.dtype, mean: float, std: float) -> tuple[float, float, float]:
    if not (0 <= std < math.inf and math.isfinite(mean)):
        raise Declined(f"mean {mean}, standard deviation {std}")
    return mean, std, 0.0


@_remembered
def _exponential_numbers(dtype: torch.dtype, rate: float) -> tuple[float, float, float]:
    if not 0 < rate < math.inf:
        raise Declined(f"rate {rate}")
    return (-1.0 / torch.tensor(rate, dtype=torch.float32)).item(), 0.0, 0.0


def _bernoulli_numbers(dtype: torch.dtype, p: float) -> tuple[float, float, float]:
    if not 0 <= p <= 1:
        raise Declined(f"probability {p}")
    return p, 0.0, 0.0


_NUMBERS = {
    "uniform": _uniform_numbers, "normal": _normal_numbers, "exponential": _exponential_numbers, "bernoulli": _bernoulli_numbers,
}  # fmt: skip


def _in_place(self: Tensor, how: str, *parameters: str) -> Planned:
    if extent(self.shape, self.stride()) != self.numel():
        raise Declined("self has gaps")
    plan = Plan("self", *parameters, "generator")
    plan.do(f"a, b, c = {{numbers}}({{dtype}}, {', '.join(parameters)})", numbers=_NUMBERS[how], dtype=self.dtype)
    plan_draw(plan, Code("self"), self.numel(), self.device, (Code("a"), Code("b"), Code("c")), how)
    return plan.build("self")


def _targets(*calls: tuple) -> object:
    def make(dtype: torch.dtype) -> Iterator[Sample]:
        for numbers in calls:
            for shape in ((), (1,), (7,), (3, 5), (700,), (70, 300)):
                yield Sample((values(shape, dtype), *numbers))
        for x in layouts((6, 10), dtype):
            if 0 not in x.stride():  # expanded: every implementation writes one element many times
                yield Sample((x, *calls[0]))

    return make


@planned("aten::uniform_", dtypes=FLOATS, samples=_targets((), (-1.5, 2.25)), random=True, bench=stream(1))
def uniform_(
    self: Tensor, from_: float = 0.0, to: float = 1.0, generator: torch.Generator | None = None, *, out: Tensor, in_place: bool
) -> Planned:
    """Numbers spread evenly over [from, to)."""
    return _in_place(self, "uniform", "from_", "to")


@planned("aten::normal_", dtypes=FLOATS, samples=_targets((), (-1.5, 2.25)), random=True, bench=stream(1))
def normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None, *, out: Tensor, in_place: bool
) -> Planned:
    """Normal numbers."""
    return _in_place(self, "normal", "mean", "std")


@planned("aten::exponential_", dtypes=FLOATS, samples=_targets((), (1.7,)), random=True, bench=stream(1))
def exponential_(
    self: Tensor, lambd: float = 1.0, generator: torch.Generator | None = None, *, out: Tensor, in_place: bool
) -> Planned:
    """Waiting times at the rate lambd: above 0, never infinite in float32."""
    return _in_place(self, "exponential", "lambd")


# torch.testing's "bernoulli" draws with a tensor of probabilities, which is another kernel.
@planned("aten::bernoulli_.float", dtypes=ALL - {torch.float64}, samples=_targets((), (0.3,)), random=True, bench=stream(1), opinfo=("bernoulli_",))
def bernoulli_(
    self: Tensor, p: float = 0.5, generator: torch.Generator | None = None, *, out: Tensor, in_place: bool
) -> Planned:
    """1 with probability p, else 0."""
    return _in_place(self, "bernoulli", "p")
