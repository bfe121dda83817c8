"""Rows whose parts are held by programs that meet: what only a device shows of waiting for each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gems_ops.fused import rms_norm
from gems_ops.rows import layer_norm, norm_meeting, softmax, softmax_backward
from gems_runtime import LibEntry

pytestmark = pytest.mark.gpu


MEETING = (softmax._shared_softmax_kernel, softmax_backward._shared_gradient_kernel)


def launches(kernel: LibEntry) -> int:
    """How often it was launched, by whichever path."""
    return sum(n for what, n in kernel.stats().items() if what != "entries")


def seeded(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
    return torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "dim"), [((1024, 131072), 1), ((200, 33001), 1), ((5001, 2050), 0), ((3, 2001, 2050), 1)])
def test_softmax(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    x, grad = seeded(*shape, dtype=dtype), seeded(*shape, dtype=dtype, seed=6)
    y = softmax.softmax(x, dim, False)
    torch.testing.assert_close(y, x.softmax(dim))
    dx = softmax_backward.softmax_backward(grad, y, dim, dtype)
    torch.testing.assert_close(dx, torch.ops.aten._softmax_backward_data(grad, y, dim, dtype))
    before = [launches(kernel) for kernel in MEETING]
    for _ in range(20):
        assert torch.equal(softmax.softmax(x, dim, False), y), "another run gave other bits"
        assert torch.equal(softmax_backward.softmax_backward(grad, y, dim, dtype), dx)
    assert [launches(kernel) - n for kernel, n in zip(MEETING, before, strict=True)] == [20, 20], "no program met another"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype: torch.dtype) -> None:
    x, weight, bias = seeded(1024, 40001, dtype=dtype) + 3, seeded(40001, dtype=dtype), seeded(40001, dtype=dtype, seed=6)
    arguments = (x, [40001], weight, bias, 1e-5)
    before = [launches(kernel) for kernel in (norm_meeting._shared_norm_kernel, norm_meeting._shared_norm_gradient_kernel)]
    torch.testing.assert_close(layer_norm.layer_norm(*arguments)(*arguments), torch.ops.aten.native_layer_norm(*arguments))
    arguments = (seeded(1024, 40001, dtype=dtype, seed=7), x, weight, 1e-5)
    run = rms_norm._plan_backward(*arguments)
    dx, dweight = run(*arguments)
    torch.testing.assert_close((dx, dweight), rms_norm._backward_formula(*arguments), rtol=2e-2, atol=2e-2)
    for _ in range(20):
        again = run(*arguments)
        assert torch.equal(again[0], dx) and torch.equal(again[1], dweight)
    after = [launches(kernel) for kernel in (norm_meeting._shared_norm_kernel, norm_meeting._shared_norm_gradient_kernel)]
    assert [n - m for n, m in zip(after, before, strict=True)] == [1, 21], "no program met another"


def test_four_streams_meet_at_the_same_time() -> None:
    inputs, streams = [seeded(1024, 131072, seed=i) for i in range(4)], [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    for _ in range(10):
        results = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(softmax.softmax(x, 1, False))
    torch.cuda.synchronize()
    for x, y in zip(inputs, results, strict=True):
        torch.testing.assert_close(y, x.softmax(1))


def test_a_graph_replays_meetings() -> None:
    x = seeded(1024, 131072)
    want = softmax.softmax(x, 1, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = softmax.softmax(x, 1, False)
    for _ in range(3):
        y.zero_()
        graph.replay()
        assert torch.equal(y, want)
