"""nan, infinities, signed zeros and extremes: the same special values, with the same signs, as ATen's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

import flag_gems
from flag_gems.utils import pointwise_dynamic
from gems_ops.pointwise.arithmetic import bfloat16_power, half_power
from gems_ops.register import counters, counts_of, reset_counters
from gems_runtime import device

HERE = device.torch_device()
NAN, INF = float("nan"), float("inf")
NUMBERS = (NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 7.5, 1e30, -1e30)

UNARY = (
    torch.abs, torch.neg, torch.sign, torch.ceil, torch.floor, torch.trunc, torch.round, torch.exp, torch.exp2, torch.expm1,
    torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.tanh, torch.cosh,
    torch.asin, torch.acos, torch.atan, torch.erf, torch.erfc, torch.sigmoid, torch.relu,
    torch.isnan, torch.isinf, torch.isfinite, torch.logical_not, torch.nan_to_num, torch.nn.functional.silu,
    torch.sgn, torch.signbit, torch.logit,
    torch.nn.functional.softplus, torch.nn.functional.elu, torch.nn.functional.hardsigmoid, torch.nn.functional.mish,
)  # fmt: skip
BINARY = (
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.atan2, torch.hypot, torch.maximum, torch.minimum, torch.fmax,
    torch.fmin, torch.floor_divide, torch.remainder, torch.fmod, torch.logaddexp, torch.eq, torch.ne, torch.lt, torch.ge,
    torch.logical_and, torch.logical_xor, torch.clamp_min, torch.clamp_max, torch.isclose,
    torch.copysign, torch.heaviside, torch.xlogy, torch.special.xlog1py,
)  # fmt: skip


def kinds(x: Tensor) -> Tensor:
    """For each element: nan 0, infinite 1, zero 2, else 3; negative ones and -0 with a minus, nan without sign."""
    if x.dtype == torch.bool:
        return x.int()
    kind = torch.where(x.isnan(), 0, torch.where(x.isinf(), 1, torch.where(x == 0, 2, 3)))
    return torch.where(torch.signbit(x) & ~x.isnan(), -kind, kind)


# Which of 0 and -0 is larger, ATen's own kernels answer differently for different dtypes.
ANY_ZERO = frozenset({"relu", "maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", "clamp"})


def compare(function: Callable[..., Tensor], *args: Tensor) -> None:
    expected = function(*args)
    reset_counters()
    with flag_gems.use_gems():
        got = function(*args)
    assert any(c.served for c in counters().values())
    ours, atens = kinds(got), kinds(expected)
    if function.__name__ in ANY_ZERO:
        ours, atens = (torch.where(kind == -2, 2, kind) for kind in (ours, atens))
    wrong = (ours != atens).nonzero().tolist()
    broadcast = torch.broadcast_tensors(*args)
    assert not wrong, [(*(t[tuple(i)].item() for t in broadcast), got[tuple(i)].item(), expected[tuple(i)].item()) for i in wrong[:8]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("function", UNARY, ids=lambda f: f.__name__)
def test_one_operand(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    compare(function, torch.tensor(NUMBERS, dtype=dtype, device=HERE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_two_operands(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x = torch.tensor(NUMBERS, dtype=dtype, device=HERE)
    compare(function, x[:, None].contiguous(), x)


@pytest.mark.parametrize("limits", [(NAN, 1.0), (-1.0, NAN), (INF, 1.0), (2.0, 1.0), (None, 0.0)], ids=str)
def test_clamp(limits: tuple) -> None:
    def clamp(x: Tensor) -> Tensor:
        return torch.clamp(x, *limits)

    compare(clamp, torch.tensor(NUMBERS, device=HERE))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64], ids=lambda d: str(d)[6:])
def test_integers_wrap_around_and_shift_out(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.tensor([limits.min, limits.max, 0, 1, 5], dtype=dtype, device=HERE)
    amounts = torch.tensor([0, 1, 7, 8, 31, 63, 64, 100], device=HERE).to(dtype)
    for function, other in ((torch.add, x), (torch.mul, x), (torch.bitwise_left_shift, amounts), (torch.bitwise_right_shift, amounts),
                            (torch.floor_divide, x.clamp(min=1)), (torch.remainder, x.clamp(min=1)), (torch.pow, x.clamp(0, 5))):  # fmt: skip
        expected = function(x[:, None], other)
        with flag_gems.use_gems():
            got = function(x[:, None], other)
        assert torch.equal(got, expected), (function, got, expected)
    assert torch.equal(torch.abs(x), x.abs())


def test_a_number_is_rounded_to_the_tensors_dtype_before_it_is_compared() -> None:
    x = torch.tensor([0.1], dtype=torch.bfloat16, device=HERE)
    with flag_gems.use_gems():
        assert (x == 0.1).item() and (x >= 0.1).item() and not (x != 0.1).item()


def test_a_number_that_the_dtype_does_not_hold_is_refused_in_atens_words() -> None:
    x = torch.zeros(3, dtype=torch.uint8, device=HERE)
    with flag_gems.use_gems(), pytest.raises(RuntimeError, match="without overflow"):
        torch.fill_(x, 300)


@pytest.mark.parametrize("shape", [(1,), (7,), (64, 64), (300, 300)], ids=str)
def test_allclose_sees_one_element_that_differs_wherever_it_is(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(HERE)
    for place in (0, x.numel() // 2, x.numel() - 1):
        for own in (x, x.t() if x.dim() == 2 else x):
            y = own.clone(memory_format=torch.contiguous_format)
            with flag_gems.use_gems(include=["allclose"]):
                assert torch.allclose(own, y)
                y.view(-1)[place] += 1e-3
                assert not torch.allclose(own, y) and torch.allclose(own, y, atol=1e-2)
    assert counts_of("aten::allclose").served


def refusals() -> dict[str, Callable[[], object]]:
    """Calls that ATen refuses because of a number."""
    whole, x = torch.arange(6, device=HERE), torch.ones(6, device=HERE)
    return {
        "shift by a fraction": lambda: whole << 1.5,
        "shift of a fraction": lambda: torch.bitwise_right_shift(1.5, whole),
        "boolean alpha": lambda: torch.add(x, x, alpha=True),
        "boolean alpha of a difference": lambda: torch.sub(x, x, alpha=True),
        "padding with nan": lambda: torch.constant_pad_nd(whole, (1, 1), NAN),
        "padding with too large a number": lambda: torch.constant_pad_nd(x, (1, 1), 1e300),
        "filling with nan": lambda: torch.index_fill(whole, 0, whole[:2], NAN),
        "scattering nan": lambda: torch.scatter(whole, 0, whole[:2], NAN),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_aten_refuses_is_refused_in_its_words(name: str) -> None:
    def error() -> Exception | None:
        try:
            refusals()[name]()
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as raised:
            return raised
        return None

    expected = error()
    with flag_gems.use_gems():
        got = error()
    assert (type(got), str(got)) == (type(expected), str(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_angles_of_halves_at_both_ends_of_their_range(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    ends = [limits.max, limits.max / 2, limits.tiny, limits.smallest_normal * limits.eps, 1e-4, 1.0, 3.0, 0.0, INF, NAN]
    x = torch.tensor([*ends, *(-v for v in ends)], dtype=dtype, device=HERE)
    compare(torch.atan2, x[:, None].contiguous(), x)
    with flag_gems.use_gems():
        got = torch.atan2(x[:, None].contiguous(), x)
    torch.testing.assert_close(got.cpu(), torch.atan2(x.cpu().double()[:, None], x.cpu().double()).to(dtype), rtol=limits.eps, atol=0, equal_nan=True)


@pointwise_dynamic(promotion_methods=[(0, "DEFAULT")])
@triton.jit
def cube_of_half(x):
    return half_power(x.to(tl.float32), 3)


@pointwise_dynamic(promotion_methods=[(0, "DEFAULT")])
@triton.jit
def cube_of_bfloat16(x):
    return bfloat16_power(x.to(tl.float32), 3)


@pytest.mark.parametrize(("cube", "dtype"), [(cube_of_half, torch.float16), (cube_of_bfloat16, torch.bfloat16)])
def test_cubes_of_16_bits_round_the_square_as_atens_cuda_kernel(cube: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x = torch.linspace(-9, 9, 4001).to(HERE, dtype)
    want = (x.float() * x.float()).to(dtype).float() * x.float()
    assert torch.equal(cube(x), want.to(dtype))
    assert not torch.equal(want.to(dtype), (x.float() ** 3).to(dtype)), "the square's rounding shows"
