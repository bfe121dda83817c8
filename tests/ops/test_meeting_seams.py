"""Rows whose parts are held by programs that meet: the same results as whole rows, in whatever order programs run."""

from __future__ import annotations

import pytest
import torch
from meeting_programs import Together, together  # noqa: F401  a fixture
from torch import Tensor

from gems_ops.fused import rms_norm as fused_rms_norm
from gems_ops.fused import skip_norm
from gems_ops.plan import Code, Plan
from gems_ops.rows import meeting, norm, softmax, softmax_backward, weight_norm
from gems_ops.rows.meeting import Share, Shares
from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="pretends a device on CPU tensors")

INF = float("inf")
FUNCTIONS = (
    (softmax.softmax, softmax_backward.softmax_backward), (softmax.log_softmax, softmax_backward.log_softmax_backward),
)  # fmt: skip
SHARES = Shares((Share(64, 8, 4),), (Share(32 * 16, 8, 4),))
WIDE_SHARES = Shares(SHARES.along, (Share(64 * 16, 8, 4, rows=64),))


def seeded(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def short(together: Together, monkeypatch: pytest.MonkeyPatch) -> Together:  # noqa: F811
    """Parts of 64 columns."""
    for module in (softmax, softmax_backward):
        monkeypatch.setattr(module, "_MOST", 32)
        monkeypatch.setattr(module, "_SHARES", SHARES)
        monkeypatch.setattr(module, "_HALF_SHARES", SHARES)
    monkeypatch.setattr(weight_norm, "_ALONE", 64)
    for name, shares in (("", SHARES), ("_GRADIENT", WIDE_SHARES)):
        monkeypatch.setattr(weight_norm, f"{name}_SHARES", shares)
        monkeypatch.setattr(weight_norm, f"_HALF{name}_SHARES", shares)
    monkeypatch.setattr(weight_norm, "_CACHED", 0)
    monkeypatch.setattr(softmax_backward, "_MOST_HALVES", 32)
    monkeypatch.setattr(norm, "WHOLE", 64)
    monkeypatch.setattr(norm, "ALONE", 64)
    for name in ("SHARES", "HALF_SHARES"):
        monkeypatch.setattr(norm, name, Shares((Share(2 * 64, 8, 4, rows=2),)))
    monkeypatch.setattr(norm, "WHOLE_GRADIENT", 64)
    for name in ("GRADIENT_SHARES", "HALF_GRADIENT_SHARES"):
        monkeypatch.setattr(norm, name, (Share(4 * 64, 8, 2, rows=4),))
    return together


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_parts(short: Together, dim: int, log: bool) -> None:
    x = seeded(24, 170) if dim == 1 else seeded(120, 570)
    rows = x if dim == 1 else x.t()
    rows[0, :64] = -INF  # a part of nothing
    rows[1] = -INF
    rows[2, 100], rows[3, 5], rows[4, -1] = float("nan"), INF, -INF
    forward, backward = FUNCTIONS[log]
    y = x.log_softmax(dim) if log else x.softmax(dim)
    torch.testing.assert_close(forward(x, dim, False), y, equal_nan=True)
    assert short.meetings > 64
    grad = seeded(*x.shape, seed=6)
    native = torch.ops.aten._log_softmax_backward_data if log else torch.ops.aten._softmax_backward_data
    torch.testing.assert_close(backward(grad, y, dim, x.dtype), native(grad, y, dim, x.dtype), equal_nan=True)
    torch.testing.assert_close(forward(x, dim, False, out=x), y, equal_nan=True)


@pytest.mark.parametrize("dim", [0, 1])
def test_softmax_of_parts_in_bfloat16(short: Together, dim: int) -> None:
    x, grad = (seeded(*((24, 170) if dim == 1 else (120, 570)), seed=i).bfloat16() for i in (5, 6))
    (x if dim == 1 else x.t())[0, :64] = -INF
    for log in (False, True):
        forward, backward = FUNCTIONS[log]
        y = forward(x, dim, True)
        torch.testing.assert_close(y, x.float().log_softmax(dim) if log else x.float().softmax(dim))
        torch.testing.assert_close(forward(x, dim, False), y.bfloat16())
        native = torch.ops.aten._log_softmax_backward_data if log else torch.ops.aten._softmax_backward_data
        want = native(grad.float(), y.bfloat16().float(), dim, torch.float32).bfloat16()
        torch.testing.assert_close(backward(grad, y.bfloat16(), dim, x.dtype), want, rtol=2e-2, atol=1e-3)
    assert short.meetings > 2 * 64


def _norms(n_rows: int, n: int, center: bool, dtype: torch.dtype, level: float) -> tuple[Tensor, ...]:
    """x near `level`, weight and bias; y, mean and 1 / deviation in float64."""
    x, weight, bias = (seeded(n_rows, n) + level).to(dtype), seeded(n, seed=6).to(dtype), seeded(n, seed=7).to(dtype)
    wide = x.double()
    mean = wide.mean(1, keepdim=True) * center
    rstd = torch.rsqrt((wide - mean).square().mean(1, keepdim=True) + 1e-5)
    return x, weight, bias, (wide - mean) * rstd * weight.double() + bias.double() * center, mean, rstd


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("n", [129, 192])
def test_norm_of_parts(short: Together, center: bool, n: int, dtype: torch.dtype) -> None:
    x, weight, bias, y, mean, rstd = _norms(47, n, center, dtype, 3000.0 if center else 0.0)
    plan = Plan("x", "weight", "bias", "eps")
    ours = [plan.empty("y", x.shape, dtype, x.device)]
    ours += [plan.empty(name, (47, 1), torch.float32, x.device) for name in ("mean", "rstd")]
    rows = norm.Norm(center, x, n, weight=weight, bias=bias if center else None)
    norm.plan_norm(plan, rows, ours[0], mean=ours[1] if center else None, rstd=ours[2])
    got = plan.build("y, mean, rstd")(x, weight, bias, 1e-5)
    assert short.meetings == 24 * 3  # two rows a program
    precision = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(got[0].double(), y, **precision)
    torch.testing.assert_close(got[2].double(), rstd, rtol=1e-5, atol=0)
    if center:
        torch.testing.assert_close(got[1].double(), mean, rtol=1e-6, atol=1e-6)


def test_norm_of_a_sum_of_parts(short: Together) -> None:
    x, residual, weight = seeded(47, 150), seeded(47, 150, seed=8), seeded(150, seed=9)
    want = skip_norm._rms_formula(x, residual, weight)
    got = skip_norm._plan_rms(x, residual, weight, 1e-5)(x, residual, weight, 1e-5)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    skip_norm._plan_rms_in_place(x, residual, weight, 1e-5)(x, residual, weight, 1e-5)
    torch.testing.assert_close((x, residual), want, rtol=1e-5, atol=1e-5)
    assert short.meetings == 2 * 24 * 3


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("n_rows", [3, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_gradient_of_parts(short: Together, center: bool, n_rows: int, dtype: torch.dtype) -> None:
    """90 rows are more than all groups hold at once: programs meet again and again. RMS norms of 16 bits read ahead."""
    n = 150
    x, weight, bias, _, mean, rstd = _norms(n_rows, n, center, dtype, 1.0)
    grad = seeded(n_rows, n, seed=8).to(dtype)
    x_hat = (x.double() - mean) * rstd
    by_weight = grad.double() * weight.double()
    dx = by_weight - x_hat * (by_weight * x_hat).mean(1, keepdim=True)
    dx = (dx - by_weight.mean(1, keepdim=True) if center else dx) * rstd
    plan = Plan("grad", "x", "weight", "bias", "mean", "rstd")
    rows = norm.Norm(center, x, n, weight=weight, bias=bias if center else None)
    norm.plan_gradient(plan, rows, grad, (True, True, center), mean=Code("mean") if center else None, rstd=Code("rstd"))
    got = plan.build("dx, dweight, dbias")(grad, x, weight, bias, mean.float(), rstd.float())
    assert short.meetings == 3 * -(-n_rows // 4)
    want = (dx, (grad.double() * x_hat).sum(0), grad.double().sum(0))
    for ours, truth in zip(got[: 2 + center], want, strict=False):
        bound = 1e-4 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(ours.double(), truth, rtol=bound, atol=bound)


def test_rms_norm_gradient_of_parts_finds_its_own_statistics(short: Together) -> None:
    """Without eps too, where the rows that fill the last program's are 0."""
    x, grad, dsum, weight = (seeded(*shape, seed=i) for i, shape in enumerate(((90, 150), (90, 150), (90, 150), (150,))))
    want = fused_rms_norm._backward_formula(grad, x, weight, 0.0)
    got = fused_rms_norm._plan_backward(grad, x, weight, 0.0)(grad, x, weight, 0.0)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    want = skip_norm._rms_backward_formula(grad, dsum, x, weight, 1e-5)
    got = skip_norm._plan_rms_backward(grad, dsum, x, weight, 1e-5)(grad, dsum, x, weight, 1e-5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert short.meetings == 2 * 3 * 23


@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_of_parts(short: Together, dim: int) -> None:
    shape = (30, 170) if dim == 0 else (120, 570)
    v, grad = seeded(*shape), seeded(*shape, seed=6)
    g = seeded(*((30, 1) if dim == 0 else (1, 570)), seed=7)
    want = torch._weight_norm_interface(v, g, dim)
    torch.testing.assert_close(weight_norm.weight_norm_interface(v, g, dim)(v, g, dim), want)
    arguments = (grad, v, g, want[1], dim)
    got = weight_norm.weight_norm_interface_backward(*arguments)(*arguments)
    torch.testing.assert_close(got, torch.ops.aten._weight_norm_interface_backward(*arguments))
    assert short.meetings == (2 * 30 * 3 if dim == 0 else (18 + 9) * 8)


def test_no_row_has_more_parts_than_an_eighth_of_what_the_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_may_wait", lambda: True)
    monkeypatch.setattr(meeting, "sm_count", lambda: 132)
    shares = Shares((Share(8192, 8, 4), Share(16384, 16, 2)))

    def parts(n: int, dtype: torch.dtype = torch.float32) -> int | None:
        found = meeting.meeting(meeting.Rows(1024, n, 1), (n, 0, 1), dtype, shares)
        return found and found.parts

    assert [parts(n) for n in (8192, 8193, 66 * 8192, 66 * 8192 + 1)] == [None, 2, 66, None]
    assert parts(20000, torch.float64) is None
    assert all(s.options["maxnreg"] * 32 * s.num_warps * s.resident <= 65536 for s in shares.along)
