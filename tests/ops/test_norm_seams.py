"""Norms beyond their samples: running statistics, what modules reach, and statistics far from 0."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import flag_gems
from gems_ops.register import counters, counts_of, reset_counters
from gems_ops.rows import channels, norm
from gems_runtime import device


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device.torch_device())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_norm_keeps_running_statistics(channels_last: bool, momentum: float | None) -> None:
    modules = [torch.nn.BatchNorm2d(3, momentum=momentum).to(device.torch_device()) for _ in range(2)]
    reset_counters()
    for step in range(3):
        x = random(4, 3, 5, 6, seed=step) * 2 + 1
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        want = modules[0](x)
        with flag_gems.use_gems():
            torch.testing.assert_close(modules[1](x), want)
    torch.testing.assert_close(dict(modules[1].named_buffers()), dict(modules[0].named_buffers()))
    assert any("batch_norm" in name and c.served == 3 for name, c in counters().items())


def test_instance_norm_is_batch_norm_of_every_image() -> None:
    x, weight, bias = random(3, 4, 5, 6), random(4, seed=1), random(4, seed=2)
    mean, var = [torch.zeros(4, device=x.device) for _ in range(2)], [torch.ones(4, device=x.device) for _ in range(2)]
    want = F.instance_norm(x, mean[0], var[0], weight, bias)
    with flag_gems.use_gems():
        torch.testing.assert_close(F.instance_norm(x, mean[1], var[1], weight, bias), want)
    torch.testing.assert_close((mean[1], var[1]), (mean[0], var[0]))


@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "batch_norm"])
def test_a_mean_far_from_0_costs_no_precision(name: str) -> None:
    """Sums of squares would: 1e8 of them leave nothing of a variance of 1 in float32."""
    x = random(4, 6, 3000) + 10000
    function = {
        "layer_norm": lambda t: F.layer_norm(t, (3000,)), "group_norm": lambda t: F.group_norm(t, 2),
        "batch_norm": lambda t: F.batch_norm(t, None, None, training=True),
    }[name]  # fmt: skip
    truth = function(x.cpu().double())
    native = (function(x).cpu() - truth).abs().max()
    with flag_gems.use_gems():
        ours = (function(x).cpu() - truth).abs().max()
    assert ours <= 1.5 * native + 1e-5, (ours, native)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "groups", "groups of one"])
def test_channels_cut_into_many_programs(monkeypatch: pytest.MonkeyPatch, layout: str, train: bool, mask: tuple[bool, ...]) -> None:
    """Splits, blocks of channels and a last short tile, with parameters as wide as the sums and narrower."""
    monkeypatch.setattr(channels, "TILE", 128)
    monkeypatch.setattr(channels, "CHANNELS", 4)
    monkeypatch.setattr(channels, "LEAST_TILES", 1)
    monkeypatch.setattr(channels, "sm_count", lambda: 4)
    for dtype in (torch.float32, torch.bfloat16):
        x, grad, weight, bias = (t.to(dtype) for t in (random(3, 6, 11, 7), random(3, 6, 11, 7, seed=1), random(6, seed=2), random(6, seed=3)))
        if layout == "channels_last":
            x, grad = (t.to(memory_format=torch.channels_last) for t in (x, grad))
        run = partial(group_norm_and_gradient, groups=6 if "one" in layout else 2) if "groups" in layout else batch_norm_and_gradient
        want = run(*(t.float() for t in (x, grad, weight, bias)), train=train, mask=mask)
        names = [f"aten::native_{'group' if 'groups' in layout else 'batch'}_norm{way}" for way in ("", "_backward")]
        before = [(counts_of(name).served, counts_of(name).declined) for name in names]
        with flag_gems.use_gems():
            got = run(x, grad, weight, bias, train=train, mask=mask)
        if layout == "channels_last" and not train and torch.cuda.is_available():
            names.pop()  # of evaluation ATen gives such a gradient another layout, and serves it
        for name, (served, declined) in zip(names, before, strict=False):
            assert counts_of(name).served > served and counts_of(name).declined == declined, (name, counts_of(name).reasons)
        for ours, truth in zip(got, want, strict=True):
            bound = {"rtol": 2e-2, "atol": 4e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
            torch.testing.assert_close(ours, truth, check_dtype=False, **bound)


def group_norm_and_gradient(x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, groups: int, train: bool, mask: tuple) -> list:
    sizes = (3, 6, 77, groups)
    y, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, 1e-5)
    return [y, mean, rstd, *torch.ops.aten.native_group_norm_backward(grad, x, mean, rstd, weight, *sizes, mask)]


def batch_norm_and_gradient(x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, train: bool, mask: tuple) -> list:
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    y, *saved = torch.native_batch_norm(x, weight, bias, mean, var, train, 0.1, 1e-5)
    # what forward saves on a GPU: in evaluation the statistics that it used, which some of ATen's kernels read there
    found = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5)[1:] if train else (mean, (var + 1e-5).rsqrt())
    statistics = (t.float() for t in found)
    grads = torch.ops.aten.native_batch_norm_backward(grad, x, weight, mean, var, *statistics, train, 1e-5, mask)
    # of channels_last ATen's CUDA kernel returns gradients that nobody asked for
    asked = [g for g, wanted in zip(grads, mask, strict=True) if wanted]
    return [y, mean, var, *(saved if train else []), *asked]


def test_rows_past_the_last_spoil_no_gradient_where_eps_is_0() -> None:
    x, grad, weight = random(3, 64), random(3, 64, seed=1), random(64, seed=2)
    want = torch.autograd.functional.vjp(lambda x, w: F.rms_norm(x, (64,), w, 0.0), (x, weight), grad)[1]
    torch.testing.assert_close(torch.ops.gems.rms_norm_backward(grad, x, weight, 0.0), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("n", [64, 300])
def test_one_program_writes_the_gradients_of_weight_and_bias_itself(
    monkeypatch: pytest.MonkeyPatch, n: int, dtype: torch.dtype, alone: bool
) -> None:
    """More than one block of rows, the last one short, with and without a second stage; all masks."""
    launched = []
    monkeypatch.setattr(norm, "ONE", 8192 if alone else 0)
    sums = norm.plan_column_sums
    monkeypatch.setattr(norm, "plan_column_sums", lambda *args: launched.extend(filter(None, args[2])) or sums(*args))
    rows = 61 if n == 64 else 11
    x, grad, weight, bias = random(rows, n), random(rows, n, seed=1), random(n, seed=2), random(n, seed=3)
    x, grad, weight, bias = (t.to(dtype) for t in (x, grad, weight, bias))
    wide = [t.cpu().double() for t in (grad, x, weight, bias)]
    _, *statistics = torch.native_layer_norm(wide[1], (n,), *wide[2:], 1e-5)
    saved = [t.to(x.device, dtype if device.interpreted() or dtype == torch.float64 else torch.float32) for t in statistics]
    # those of the truth are rounded like ours
    seen = [t.cpu().double() for t in saved]
    bound = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 4e-2)
    name = "aten::native_layer_norm_backward"
    for mask in [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)][:-1]:
        want = torch.ops.aten.native_layer_norm_backward(wide[0], wide[1], (n,), *seen, *wide[2:], mask)
        before, served = len(launched), counts_of(name).served
        with flag_gems.use_gems():
            got = torch.ops.aten.native_layer_norm_backward(grad, x, (n,), *saved, weight, bias, mask)
            again = torch.ops.aten.native_layer_norm_backward(grad, x, (n,), *saved, weight, bias, mask)
        assert counts_of(name).served == served + 2, counts_of(name).reasons
        assert (len(launched) > before) == (not alone and any(mask[1:]))
        for ours, twice, truth, wanted in zip(got, again, want, mask, strict=True):
            assert (ours is not None and ours.numel() > 0) == wanted
            if wanted:
                assert ours.dtype == dtype and torch.equal(ours, twice)
                torch.testing.assert_close(ours.cpu().double(), truth, rtol=bound, atol=bound)
