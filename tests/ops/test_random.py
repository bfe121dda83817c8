"""Random numbers: their distributions (fixed seeds), their edges, whose generator they come from."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

import flag_gems
from gems_ops.random.distributions import _transform, has_fast_instructions
from gems_ops.random.philox import advance_for, unit
from gems_ops.register import counts_of
from gems_runtime import device

HERE = device.torch_device()
ON_GPU = HERE.type == "cuda"
N = 200_000
CRITICAL = 1.95  # of the Kolmogorov-Smirnov statistic times the root of N, at a level of 0.001

# name of the overload, a draw of N numbers, the cumulative distribution
Draw = tuple[str, Callable[[], Tensor], Callable[[Tensor], Tensor]]


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def new(dtype: torch.dtype = torch.float32, n: int = N) -> Tensor:
    return torch.empty(n, dtype=dtype, device=HERE)


DRAWS: list[Draw] = [
    ("aten::rand", lambda: torch.rand(N, device=HERE), lambda x: x),
    ("aten::rand_like", lambda: torch.rand_like(new()), lambda x: x),
    ("aten::uniform_", lambda: new().uniform_(-1.5, 2.5), lambda x: (x + 1.5) / 4),
    ("aten::randn", lambda: torch.randn(N, device=HERE), normal_cdf),
    ("aten::randn_like", lambda: torch.randn_like(new()), normal_cdf),
    ("aten::normal_", lambda: new().normal_(3.0, 2.0), lambda x: normal_cdf((x - 3) / 2)),
    ("aten::exponential_", lambda: new().exponential_(1.7), lambda x: 1 - torch.exp(-1.7 * x)),
    ("aten::normal.Tensor_Tensor", lambda: torch.normal(new().fill_(3.0), new().fill_(2.0)), lambda x: normal_cdf((x - 3) / 2)),
    ("aten::normal.Tensor_float", lambda: torch.normal(new().fill_(3.0), 2.0), lambda x: normal_cdf((x - 3) / 2)),
    ("aten::normal.float_Tensor", lambda: torch.normal(3.0, new().fill_(2.0)), lambda x: normal_cdf((x - 3) / 2)),
]
IDS = [name for name, _, _ in DRAWS]


def ours(name: str, draw: Callable[[], Tensor], seed: int = 0) -> Tensor:
    """What our kernel draws from a seed."""
    served = counts_of(name).served
    torch.manual_seed(seed)
    with flag_gems.use_gems(include=[name]):
        result = draw()
    assert counts_of(name).served > served, counts_of(name)
    return result


@pytest.mark.parametrize("name, draw, cdf", DRAWS, ids=IDS)
def test_numbers_follow_their_distribution(name: str, draw: Callable, cdf: Callable) -> None:
    x = ours(name, draw).cpu().double().sort().values
    place = torch.arange(N, dtype=torch.float64)
    expected = cdf(x)
    gap = max((expected - place / N).max().item(), ((place + 1) / N - expected).max().item())
    assert gap * math.sqrt(N) < CRITICAL


@pytest.mark.parametrize("name, draw, cdf", DRAWS, ids=IDS)
def test_neighbours_are_independent(name: str, draw: Callable, cdf: Callable) -> None:
    """Neighbours, and numbers that one call of the bit generator makes, which are a whole number of blocks apart."""
    x = cdf(ours(name, draw).cpu().double()) - 0.5
    for distance in (1, 256, 4096):
        correlation = (x[:-distance] * x[distance:]).mean().item() * 12
        assert abs(correlation) * math.sqrt(N) < 4, distance


@pytest.mark.parametrize("name, draw, cdf", DRAWS, ids=IDS)
def test_a_seed_decides_and_calls_differ(name: str, draw: Callable, cdf: Callable) -> None:
    torch.manual_seed(5)
    with flag_gems.use_gems(include=[name]):
        first, second = draw(), draw()
    assert torch.equal(first, ours(name, draw, seed=5))
    assert (first == second).float().mean() < 0.01


def test_a_given_generator_is_used_and_the_default_one_left_alone() -> None:
    with flag_gems.use_gems(include=["uniform_"]):
        before = state()
        drawn = [new(n=100).uniform_(generator=torch.Generator(HERE).manual_seed(7)) for _ in range(2)]
        assert torch.equal(*drawn)
        assert before == state()
        generator = torch.Generator(HERE).manual_seed(7)
        again = new(n=100).uniform_(generator=generator)
        assert torch.equal(again, drawn[0])
        assert not torch.equal(again, new(n=100).uniform_(generator=generator))


def state() -> list[int]:
    return device.default_generator(HERE).get_state().tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_uniform_reaches_its_lower_bound_and_never_the_upper(dtype: torch.dtype) -> None:
    x = ours("aten::uniform_", lambda: new(dtype).uniform_(2.0, 3.0))
    assert x.min() >= 2
    assert x.max() < 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_exponential_is_positive_and_finite(dtype: torch.dtype) -> None:
    x = ours("aten::exponential_", lambda: new(dtype).exponential_())
    assert x.min() > 0
    assert x.max() < math.inf


@triton.jit
def _last_exponentials_kernel(out_ptr, FAST: tl.constexpr):
    u = unit((tl.arange(0, 16) - 16).to(tl.uint32))
    tl.store(out_ptr + tl.arange(0, 16), _transform(u, -1.0, 0.0, 0.0, tl.float32, "exponential", FAST))


def test_the_logarithm_of_one_gives_no_zero() -> None:
    """The largest 32 random bits make u = 1: rare, so the kernel's own function is asked."""
    out = new(n=16)
    _last_exponentials_kernel[(1,)](out, has_fast_instructions())
    assert (out > 0).all()


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_bernoulli_meets_its_probability(p: float) -> None:
    ones = ours("aten::bernoulli_.float", lambda: new(torch.bool).bernoulli_(p)).sum().item()
    assert abs(ones - p * N) <= 4 * math.sqrt(N * p * (1 - p))


WRONG = {
    "uniform_": lambda: new(n=4).uniform_(2, 1),
    "normal_": lambda: new(n=4).normal_(0, -1),
    "exponential_": lambda: new(n=4).exponential_(-1),
    "bernoulli_.float": lambda: new(n=4).bernoulli_(1.5),
    "normal.Tensor_Tensor": lambda: torch.normal(new(n=4).fill_(0), new(n=4).fill_(-1)),
    "normal.Tensor_float": lambda: torch.normal(new(n=4).fill_(0), -1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_atens(name: str) -> None:
    with pytest.raises(RuntimeError) as native:
        WRONG[name]()
    with flag_gems.use_gems(include=[f"aten::{name}"]), pytest.raises(RuntimeError) as error:
        WRONG[name]()
    assert str(error.value) == str(native.value)


@pytest.mark.skipif(not ON_GPU, reason="the interpreter stands beside the CPU's generator, which has no offset")
@pytest.mark.parametrize("n", [1, 1000, 270_336, 1_081_361, 3_000_001])
@pytest.mark.parametrize("name, draw, cdf", DRAWS, ids=IDS)
def test_the_generator_goes_on_as_atens(n: int, name: str, draw: Callable, cdf: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "N", n)
    torch.manual_seed(3)
    native, after = draw(), state()
    assert torch.equal(ours(name, draw, seed=3), native)
    assert state() == after


@pytest.mark.skipif(not ON_GPU, reason="only a GPU captures graphs")
def test_a_captured_graph_draws_anew_in_each_replay() -> None:
    x = new(n=1000)
    with flag_gems.use_gems(include=["uniform_"]):
        x.uniform_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.uniform_()
        graph.replay()
        first = x.clone()
        graph.replay()
    assert not torch.equal(first, x)


def test_the_offset_counts_whole_draws_of_four() -> None:
    threads = device.resident_threads()
    assert advance_for(1) == advance_for(4 * threads) == 4
    assert advance_for(4 * threads + 1) == 8
