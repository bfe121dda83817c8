"""Sorts on a device, where tiles are sorted in shared memory and wait for each other: rows of the sizes that are served."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gems_ops.order import sorting
from gems_ops.plan import call

pytestmark = pytest.mark.gpu

SHAPES = [(700, 700), (300, 4096), (300, 4097), (40, 128256), (1, 4_000_001), (9000, 5000)]


def inputs(shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows by what is hard about them."""
    g = torch.Generator("cuda").manual_seed(sum(shape))
    n = shape[1]
    up = torch.arange(n, device="cuda").to(dtype).expand(shape)
    any_bits = torch.randint(-128, 128, (*shape, dtype.itemsize), dtype=torch.int8, device="cuda", generator=g).view(dtype).view(shape)
    if dtype.is_floating_point:
        # Of nans only one kind: where ATen's CUDA kernels sort by digits, those with a sign come first. Ours are compared with
        # its CPU kernel in tests/ops/test_radix_seams.py.
        any_bits = torch.where(any_bits.isnan(), torch.nan, any_bits)
    few = torch.randint(0, 3, shape, device="cuda", generator=g).to(dtype)
    return {"any bits": any_bits, "few values": few, "all equal": torch.ones_like(any_bits), "in order": up.contiguous(), "reversed": up.flip(1)}


def check(x: Tensor, descending: bool) -> None:
    values, indices = call(sorting.sort, x, True, -1, descending)
    expected = x.sort(stable=True, descending=descending)
    assert torch.equal(indices, expected.indices)
    assert torch.equal(values.view(torch.int8), expected.values.view(torch.int8)), "not the bits of those elements"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows(shape: tuple[int, int], dtype: torch.dtype) -> None:
    for name, x in inputs(shape, dtype).items():
        for descending in (False, True):
            try:
                check(x, descending)
            except AssertionError as error:
                raise AssertionError(f"{name}, descending {descending}: {error}") from error


def test_two_streams_sort_at_once() -> None:
    """Each waits for tiles of its own only."""
    xs = [torch.randn(3, 1_000_000 + k, device="cuda") for k in range(2)]
    streams = [torch.cuda.Stream() for _ in xs]
    torch.cuda.synchronize()
    for _ in range(10):
        found = []
        for x, stream in zip(xs, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(call(sorting.sort, x, True, -1, False))
        torch.cuda.synchronize()
        for x, (values, indices) in zip(xs, found, strict=True):
            assert torch.equal(x.gather(1, indices), values) and bool((values[:, 1:] >= values[:, :-1]).all())


def test_a_captured_sort_can_be_replayed() -> None:
    """What tiles wait for is cleared by each run."""
    x = torch.randn(2, 300_000, device="cuda")
    run = sorting.sort(x, True, -1, False)
    run(x, True, -1, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values, indices = run(x, True, -1, False)
    for seed in range(4):
        x.copy_(torch.randn(x.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed)))
        graph.replay()
        expected = x.sort(stable=True)
        assert torch.equal(values, expected.values) and torch.equal(indices, expected.indices)
