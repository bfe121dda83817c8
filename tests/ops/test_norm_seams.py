"""Norms beyond their samples: running statistics, what modules reach, and statistics far from 0."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import flag_gems
from gems_ops.register import counters, reset_counters
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


def test_rows_past_the_last_spoil_no_gradient_where_eps_is_0() -> None:
    x, grad, weight = random(3, 64), random(3, 64, seed=1), random(64, seed=2)
    want = torch.autograd.functional.vjp(lambda x, w: F.rms_norm(x, (64,), w, 0.0), (x, weight), grad)[1]
    torch.testing.assert_close(torch.ops.gems.rms_norm_backward(grad, x, weight, 0.0), want, rtol=1e-4, atol=1e-5)
