"""Gradients of the norms, softmax, logit and the losses in float64: gradcheck, gradgradcheck, and the same bits on every run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import flag_gems
from gems_ops.fused.rms_norm import rms_norm
from gems_ops.fused.skip_norm import add_rms_norm, fused_add_rms_norm, skip_layer_norm
from gems_ops.loss.cross_entropy import cross_entropy_loss
from gems_ops.register import counters, reset_counters
from gems_runtime import device


def leaf(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(device.torch_device()).requires_grad_()


def classes(*shape: int, n: int) -> Tensor:
    return (torch.arange(torch.Size(shape).numel(), device=device.torch_device()).reshape(shape) * 7) % n


ROWS = (leaf(2, 6), leaf(6, seed=1), leaf(6, seed=2))
RESIDUAL = leaf(2, 6, seed=3)
# not the inputs themselves, which gradcheck moves
WEIGHT, PROBABILITIES = ROWS[1].detach().abs(), RESIDUAL.detach().softmax(1)
CASES: dict[str, tuple[Callable[..., object], tuple[Tensor, ...]]] = {
    "softmax": (lambda x: x.softmax(0), ROWS[:1]),
    "log_softmax": (lambda x: x.log_softmax(1), ROWS[:1]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (6,), w, b), ROWS),
    "rms_norm": (lambda x, w: rms_norm(x, (6,), w), ROWS[:2]),
    "skip_layer_norm": (lambda x, r, w, b: skip_layer_norm(x, r, (6,), w, b), (ROWS[0], RESIDUAL, *ROWS[1:])),
    "add_rms_norm": (lambda x, r, w: add_rms_norm(x, r, w), (ROWS[0], RESIDUAL, ROWS[1])),
    "fused_add_rms_norm": (lambda x, r, w: fused_add_rms_norm(x * 1, r * 1, (6,), w), (ROWS[0], RESIDUAL, ROWS[1])),
    "group_norm": (lambda x, w, b: F.group_norm(x, 3, w, b), (leaf(2, 6, 3, seed=4), *ROWS[1:])),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (leaf(2, 6, 3, seed=4), *ROWS[1:])),
    "instance_norm": (lambda x, w, b: flag_gems.instance_norm(x, w, b), (leaf(2, 6, 3, seed=4), *ROWS[1:])),
    "weight_norm": (lambda v, g: flag_gems.weight_norm(v, g), (ROWS[0], leaf(2, 1, seed=6))),
    "logit": (lambda x: torch.logit(x.sigmoid(), eps=0.3), ROWS[:1]),
    "mse_loss": (F.mse_loss, (ROWS[0], RESIDUAL)),
    "huber_loss": (lambda x, t: F.huber_loss(x, t, reduction="sum", delta=0.5), (ROWS[0], RESIDUAL)),
    "smooth_l1_loss": (lambda x, t: F.smooth_l1_loss(x, t, reduction="none", beta=0.5), (ROWS[0], RESIDUAL)),
    "binary_cross_entropy": (lambda x: F.binary_cross_entropy(x.sigmoid(), PROBABILITIES), ROWS[:1]),
    "nll_loss": (lambda x: F.nll_loss(x, classes(2, n=6)), ROWS[:1]),
    "nll_loss2d": (lambda x: F.nll_loss(x, classes(1, 2, 3, n=4), reduction="none"), (leaf(1, 4, 2, 3),)),
    "cross_entropy": (lambda x: F.cross_entropy(x, classes(2, n=6)), ROWS[:1]),
    "cross_entropy_loss": (lambda x: cross_entropy_loss(x, classes(2, n=6), WEIGHT, label_smoothing=0.1), ROWS[:1]),
    "cross_entropy_loss of images": (
        lambda x: cross_entropy_loss(x, classes(1, 2, 3, n=4), None, "none", 1), (leaf(1, 4, 2, 3),)
    ),
    "reflection_pad1d": (lambda x: F.pad(x, (2, 1), mode="reflect"), (leaf(2, 3, 4, seed=7),)),
    "reflection_pad3d": (lambda x: F.pad(x, (1, 0, 0, 2, 1, 1), mode="reflect"), (leaf(1, 2, 2, 3, 3, seed=7),)),
    "replication_pad2d": (lambda x: F.pad(x, (5, 1, 0, 2), mode="replicate"), (leaf(1, 2, 3, 1, seed=7),)),
    "cross_entropy_loss of probabilities": (lambda x: cross_entropy_loss(x, PROBABILITIES, None, "sum"), ROWS[:1]),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_their_gradients(name: str) -> None:
    function, inputs = CASES[name]
    reset_counters()
    with flag_gems.use_gems():
        assert gradcheck(function, inputs, fast_mode=True)
        served = counters()
        # ATen's second derivative of weight_norm does not pass gradgradcheck itself (torch 2.13)
        assert name == "weight_norm" or gradgradcheck(function, inputs, fast_mode=True)
    declined = {n: c.reasons for n, c in served.items() if n.endswith("backward") and not c.served}
    assert any("backward" in n for n in served) and not declined, served


MANY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # of 700 rows: several programs share every sum
    "layer_norm": lambda x, w, b: F.layer_norm(x, (40,), w, b),
    "rms_norm": lambda x, w, b: rms_norm(x, (40,), w) + b,
    "cross_entropy": lambda x, w, b: cross_entropy_loss(x * w + b, classes(700, n=40)),
}


@pytest.mark.parametrize("name", MANY)
def test_the_same_bits_on_every_run(name: str) -> None:
    def run() -> list[Tensor]:
        leaves = [leaf(*shape, seed=5).detach().float().requires_grad_() for shape in ((700, 40), (40,), (40,))]
        result = MANY[name](*leaves)
        return [result, *torch.autograd.grad(result.square().sum(), leaves)]

    with flag_gems.use_gems():
        assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))
