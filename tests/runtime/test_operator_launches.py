"""Enabled operators, warm: no plan, no miss, one launch each on the fast tier. On the stand-in driver, so without values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import launch_zoo as zoo
import pytest
import torch

import flag_gems
from gems_ops import register
from gems_ops.fused import custom
from gems_runtime import entry, settings, stats
from tools.fake_cuda import FakeCuda

X, WEIGHT = torch.ones(64, 64, dtype=torch.float16), torch.ones(64, dtype=torch.float16)
INDICES = torch.zeros(8, dtype=torch.int64)
STATISTICS = torch.ones(64), torch.ones(64)
LOSS = torch.ones((), dtype=torch.float16)
CALLS: dict[str, Callable[[], object]] = {
    "mm": lambda: torch.mm(X, X),
    "mm of float32": lambda: torch.mm(X.view(torch.float32), X.view(torch.float32).t()),
    "mm of one row": lambda: torch.mm(X[:1], X),
    "mm.out": lambda: torch.mm(X, X, out=torch.empty_strided((64, 64), (64, 1), dtype=X.dtype)),
    "addmm": lambda: torch.addmm(WEIGHT, X, X, alpha=2),
    "bmm": lambda: torch.bmm(X[None], X[None]),
    "softmax": lambda: torch.softmax(X, -1),
    "log_softmax": lambda: torch.log_softmax(X, 0),
    "softmax backward": lambda: torch.ops.aten._softmax_backward_data(X, X, -1, X.dtype),
    "sum": lambda: torch.sum(X),
    "mean": lambda: torch.mean(X, -1, keepdim=True),
    "amax": lambda: torch.amax(X, 0),
    "max": lambda: torch.max(X, 1),
    "argmax": lambda: torch.argmax(X),
    "var_mean": lambda: torch.var_mean(X, 0),
    "vector norm": lambda: torch.linalg.vector_norm(X),
    "logsumexp": lambda: torch.logsumexp(X, 1),
    "cumsum": lambda: torch.cumsum(X, 0),
    "cummax": lambda: torch.cummax(X, 1),
    "cat": lambda: torch.cat([X, X], 1),
    "median of columns": lambda: torch.median(X, 0),
    "topk of columns": lambda: torch.topk(X, 3, 0),
    "sort of columns": lambda: torch.sort(X, dim=0, stable=True),
    "scatter_add": lambda: torch.scatter_add(X, 0, INDICES[:, None], X),
    "index_add": lambda: torch.index_add(X, 0, INDICES, X[:8]),
    "glu": lambda: torch.ops.aten.glu(X),
    "addr": lambda: torch.addr(X, WEIGHT, WEIGHT),
    "batch_norm backward": lambda: torch.ops.aten.native_batch_norm_backward(
        X, X, WEIGHT, None, None, *STATISTICS, True, 1e-5, [True, True, True]
    ),
    "embedding": lambda: torch.embedding(X, INDICES),
    "nll_loss": lambda: torch.ops.aten.nll_loss_forward(X[:8], INDICES, None, 1, -100),
    "nll_loss backward": lambda: torch.ops.aten.nll_loss_backward(LOSS, X[:8], INDICES, None, 1, -100, LOSS),
    "rms_norm": lambda: flag_gems.rms_norm(X, (64,), WEIGHT),
    "silu_and_mul": lambda: flag_gems.silu_and_mul(X, X),
    "apply_rotary_pos_emb": lambda: flag_gems.apply_rotary_pos_emb(
        X.view(1, 8, 8, 64), X.view(1, 8, 8, 64), X[:, :32], X[:, :32], INDICES[None]
    ),
}  # fmt: skip


@pytest.fixture
def enabled(fake_cuda: FakeCuda) -> Iterator[FakeCuda]:
    """Operators on, untuned, for CPU tensors, which the stand-in driver takes."""
    with settings.override(tune=settings.Mode.OFF), torch.no_grad(), flag_gems.use_gems():
        yield fake_cuda


@pytest.mark.parametrize("name", CALLS)
def test_a_warm_call_only_launches(name: str, enabled: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for module, function in ((register, "plan_call"), (custom, "on_device_of")):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, original=original: plans.append(a) or original(*a))
    call = CALLS[name]
    call()
    assert len(plans) <= 1, "planned more than once, or more than one operator"
    call()
    before, tiers, launches = stats.snapshot(), fast_launches(), enabled.launch_count
    del plans[:]
    call()
    assert not plans
    assert stats.snapshot() == before, "a launch went to stock Triton or was a miss"
    assert enabled.launch_count == launches + 1
    assert fast_launches() == tiers + 1


def fast_launches() -> int:
    """Launches by the fast tier of all kernels."""
    return sum(e.stats()[zoo.fast_tier()] for e in list(entry._entries))
