"""Gradients of padding where tiles meet, and where one element is repeated many times; many tensors side by side."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import flag_gems
from gems_ops.register import counts_of
from gems_runtime import device

HERE = device.torch_device()

CASES = {
    "reflection_pad1d": ((2, 3, 150), (149, 1), "reflect"),
    "reflection_pad2d": ((2, 3, 9, 40), (1, 39, 8, 0), "reflect"),
    "reflection_pad3d": ((1, 2, 3, 5, 20), (2, 2, 1, 0, 0, 2), "reflect"),
    "replication_pad1d": ((2, 3, 1), (100, 3), "replicate"),
    "replication_pad2d": ((2, 3, 40, 3), (0, 1, 70, 2), "replicate"),
    "replication_pad3d": ((1, 2, 1, 5, 20), (2, 2, 1, 0, 9, 2), "replicate"),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_padding_in_several_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gems_ops.shape import padding_backward

    monkeypatch.setattr(padding_backward, "TILE", 64)
    monkeypatch.setattr(padding_backward, "COLUMNS", 16)
    monkeypatch.setattr(padding_backward, "device", type("Device", (), {"interpreted": staticmethod(lambda: False)}))
    shape, padding, mode = CASES[name]
    # whole numbers, whose sums are exact
    x = torch.zeros(shape, device=HERE).requires_grad_()
    weights = torch.arange(F.pad(x, padding, mode).numel(), device=HERE).remainder(7.0)

    def gradient() -> Tensor:
        padded = F.pad(x, padding, mode)
        return torch.autograd.grad(padded, x, weights.view(padded.shape))[0]

    native, counts = gradient(), counts_of(f"aten::{name}_backward")
    served = counts.served
    with flag_gems.use_gems(include=[f"{name}_backward"]):
        assert torch.equal(gradient(), native)
    assert counts.served == served + 1


@pytest.mark.parametrize("count, launches", [(1, 1), (9, 1), (12, 1), (13, 2), (25, 3)])
@pytest.mark.parametrize("dim", [0, 1])
def test_tensors_are_joined_twelve_at_a_time(count: int, launches: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from gems_ops.shape import joining

    launched = []
    kernel = joining.kernel
    monkeypatch.setattr(joining, "kernel", lambda n: (launched.append(n), kernel(n))[1])
    shapes = [(3, i % 5 + 1) if dim else (i % 5 + 1, 3) for i in range(count)]
    pieces = [torch.arange(100.0 * i, 100.0 * i + a * b, device=HERE).view(a, b) for i, (a, b) in enumerate(shapes)]
    native, served = torch.cat(pieces, dim), counts_of("aten::cat").served
    with flag_gems.use_gems(include=["cat"]):
        assert torch.equal(torch.cat(pieces, dim), native)
    assert counts_of("aten::cat").served == served + 1
    if dim:  # rows of different sizes are launches of their own
        assert launched == [12] * (launches - 1) + [count - 12 * (launches - 1)]
