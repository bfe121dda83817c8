"""What only long reductions and scans show: rounding beside ATen's own, against float64, over three draws; far positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import flag_gems

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="compares how two GPU kernels round")

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(1),
    "sum of columns": lambda x: x.sum(0),
    "mean": lambda x: x.mean(),
    "prod of rows": lambda x: (1 + x / 1000).prod(1),
    "var": lambda x: x.var(),
    "var of rows": lambda x: x.var(1),
    "var of columns": lambda x: x.var(0),
    "var far from zero": lambda x: (x + 1000).var(1),
    "var beside an outlier": lambda x: torch.cat([x[:, :1] + 1000, x[:, 1:]], 1).var(1),
    "std": lambda x: x.std(1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "cumsum of rows": lambda x: x.cumsum(1),
    "cumsum of columns": lambda x: x.cumsum(0),
    "cumsum of all": lambda x: x.view(-1).cumsum(0),
    "cumprod": lambda x: (1 + x / 1000).cumprod(1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
}


def error(got: Tensor, truth: Tensor) -> float:
    return (got.double() - truth).square().mean().sqrt().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_errors_are_not_above_one_and_a_half_times_atens(name: str, dtype: torch.dtype) -> None:
    call, ours, theirs, size = CALLS[name], 0.0, 0.0, 0.0
    for seed in range(3):
        x = torch.randn(1000, 3001, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)
        truth = call(x.double())
        theirs += error(call(x), truth)
        with flag_gems.use_gems():
            ours += error(call(x), truth)
        size += truth.abs().mean().item()
    # half a unit in the last place is nobody's fault
    assert ours <= max(1.5 * theirs, 0.5 * torch.finfo(dtype).eps * size), f"{ours:.3g}, ATen's own {theirs:.3g}"


@pytest.mark.parametrize("name", CALLS)
def test_two_runs_give_the_same_bits(name: str) -> None:
    x = torch.randn(1000, 3001, generator=torch.Generator().manual_seed(0)).cuda()
    with flag_gems.use_gems():
        assert torch.equal(CALLS[name](x), CALLS[name](x))


def test_positions_that_float32_cannot_count() -> None:
    x = torch.zeros(2**25 + 3, device="cuda")
    x[-2] = 1
    with flag_gems.use_gems():
        assert x.argmax().item() == 2**25 + 1 and x.max(0).indices.item() == 2**25 + 1
        assert x.cummax(0).indices[-1].item() == 2**25 + 1
