"""Values for generated launches, by class: all values of one class are, as far as stock Triton tells, of one specialisation.

A kernel is compiled once for each combination of classes and called with many values of each, so a generated call picks
one of a family's combinations first and then the values.
"""

from __future__ import annotations

import enum

import torch
import triton
import triton.language as tl
from hypothesis import strategies as st
from triton.tools.tensor_descriptor import TensorDescriptor

Class = st.SearchStrategy[object]

# Triton may read a tensor's address, never its memory, so all tensors may lie in one place.
_STORAGE = torch.zeros(1 << 14, dtype=torch.uint8)
assert _STORAGE.data_ptr() % 16 == 0
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


class LeftOut(enum.Enum):
    """What stands for an argument that is not passed."""

    LEFT_OUT = 0


LEFT_OUT = LeftOut.LEFT_OUT
left_out = st.just(LEFT_OUT)


@st.composite
def _tensor(draw: st.DrawFn, dtype: torch.dtype, aligned: bool) -> torch.Tensor:
    elements = _STORAGE.view(dtype)
    step = 16 // dtype.itemsize
    start = step * draw(st.integers(0, 40)) + (0 if aligned else draw(st.integers(1, step - 1)))
    # Not without elements: such a tensor has no address, which is its own class.
    tensor = elements[start:][: draw(st.sampled_from((1, 20, 64)))]
    form = draw(st.integers(0, 3))
    if form == 0 and dtype.is_floating_point:
        return torch.nn.Parameter(tensor, requires_grad=False)
    return tensor.view(1, -1).t() if form == 1 else tensor


def aligned(dtype: torch.dtype = torch.float32) -> Class:
    return _tensor(dtype, True)


def shifted(dtype: torch.dtype = torch.float32) -> Class:
    """Tensors that do not begin at a multiple of 16 bytes."""
    return _tensor(dtype, False)


empty = st.sampled_from([torch.empty(0), torch.nn.Parameter(torch.empty(0, 3), requires_grad=False)])
tensors = [aligned(), shifted(), empty, *map(aligned, DTYPES[1:]), *(shifted(d) for d in DTYPES[1:])]


def integers(low: int, high: int, divisible: bool) -> Class:
    """Numbers from low to high of one divisibility by 16, the ends and zero's neighbours often."""
    ends = [n for n in (low, low + 1, high - 1, high, -17, -16, -1, 0, 2, 15, 16, 17) if low <= n <= high]
    if divisible:
        return st.one_of(st.sampled_from([n - n % 16 for n in ends if n - n % 16 >= low]), st.integers(-(-low // 16), high // 16).map(lambda n: 16 * n))
    odd = st.integers(low // 16 + 1, high // 16 - 1).flatmap(lambda n: st.integers(1, 15).map(lambda k: 16 * n + k))
    return st.one_of(st.sampled_from([n for n in ends if n % 16 and n != 1]), odd.filter(lambda n: n != 1))


one = st.just(1)
i32, i32_16 = integers(-(2**31), 2**31 - 1, False), integers(-(2**31), 2**31 - 1, True)
small, small_16 = integers(-99, 5000, False), integers(-96, 4992, True)
i64 = st.one_of(integers(2**31, 2**63 - 1, False), integers(-(2**63), -(2**31) - 1, False))
i64_16 = st.one_of(integers(2**31, 2**63 - 1, True), integers(-(2**63), -(2**31) - 1, True))
u64, u64_16 = integers(2**63, 2**64 - 1, False), integers(2**63, 2**64 - 1, True)
ints = [i32, i32_16, one, i64, i64_16, u64, u64_16]
too_wide = st.sampled_from([2**64, 2**70, -(2**63) - 1])

bools = st.booleans()
none = st.none()
# Finite and not; also what no half or single holds.
floats = st.one_of(st.sampled_from((0.0, -0.0, 1.0, 0.1, float("inf"), float("-inf"), float("nan"), 1e300, 5e-324, 65504.0)), st.floats())
# What a half can hold when rounded: see test_stock_defects for the rest.
halves = st.one_of(st.floats(width=16), st.floats(-65504, 65504))


def each(*values: object) -> list[Class]:
    """One class for each value: what Triton compiles for the value itself."""
    return [st.just(value) for value in values]


@st.composite
def _descriptor(draw: st.DrawFn, dtype: torch.dtype, block: tuple[int, ...], padding: str, wrong: bool) -> TensorDescriptor:
    step = 16 // dtype.itemsize
    base = _STORAGE.view(dtype)[step * draw(st.integers(0, 8)) :]
    shape = [draw(st.integers(1, 100)) for _ in block]
    inner = step * draw(st.integers(1, 9))
    made = TensorDescriptor(base, shape, [4 * inner, inner, 1][-len(block) :], list(block), padding)
    if wrong:
        # Descriptors may be changed after they were checked; then the driver refuses the map.
        made.base = base[1:]
    return made


def descriptors(dtype: torch.dtype, block: tuple[int, ...], padding: str = "zero", wrong: bool = False) -> Class:
    """Descriptors that share a kernel."""
    return _descriptor(dtype, block, padding, wrong)


@triton.jit
def twice(x):
    return 2 * x


@triton.jit
def thrice(x):
    return 3 * x


class Flag(enum.IntEnum):
    """An int that is more than an int."""

    ON = 1
    WIDE = 32


class Number(int):
    """Another."""


class Subclass(torch.Tensor):
    """A tensor class whose tensors only stock Triton may judge."""


constants = each(16, 64, 0, 1, 1.0, True, False, 0.0, -0.0, float("nan"), -1, -2, 2**40, "a", "b", None, (1, 2), (1, 2.0), tl.float32, tl.float16)
constants += each(twice, thrice, tl.constexpr(5), (tl.int8, ("a", None)), ())
odd = each(Flag.ON, Flag.WIDE, Number(1), Number(7), torch.zeros(4).as_subclass(Subclass), "text", [1], 2j, tl.float32, torch.float32, object)
odd += [too_wide]
