"""Rows that programs hold together and wait for each other over: values, many at once, captured graphs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import flag_gems

pytestmark = pytest.mark.gpu  # interpreted programs run in turn and cannot wait

SHAPES = (((3, 16385), 1), ((200, 65536), 1), ((2, 262144), 1), ((8192, 300), 0), ((3, 5000, 70), 1))


def results(x: Tensor, dim: int) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    outputs = [leaf.softmax(dim), leaf.log_softmax(dim)]
    if dim == x.dim() - 1:
        outputs += [F.layer_norm(leaf, x.shape[-1:])]
    return [*outputs, *(torch.autograd.grad(y, leaf, y.detach().square())[0] for y in outputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, dim", SHAPES)
def test_values_are_atens(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    x = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).to(dtype)
    x[..., : min(9000, shape[-1] - 1)] -= 3.0
    want = results(x.double(), dim)
    with flag_gems.use_gems():
        got = results(x, dim)
        again = results(x, dim)
    for g, w, a in zip(got, want, again, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5)
        assert torch.equal(g, a)


def test_many_streams_at_once_come_to_an_end() -> None:
    x = torch.randn(64, 262144, device="cuda")
    want = x.softmax(-1)
    streams = [torch.cuda.Stream() for _ in range(16)]
    torch.cuda.synchronize()
    with flag_gems.use_gems(include=["softmax"]):
        x.softmax(-1)
        found = []
        for _ in range(10):
            for stream in streams:
                with torch.cuda.stream(stream):
                    found.append(x.softmax(-1))
        torch.cuda.synchronize()
    for y in found[-len(streams) :]:
        torch.testing.assert_close(y, want)


def test_a_graph_counts_anew_in_each_replay() -> None:
    x = torch.randn(40, 65536, device="cuda")
    with flag_gems.use_gems(include=["softmax"]):
        x.softmax(-1)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = x.softmax(-1)
    for _ in range(3):
        x.normal_()
        graph.replay()
        torch.testing.assert_close(y, x.softmax(-1))
