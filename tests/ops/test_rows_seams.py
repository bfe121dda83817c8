"""softmax beyond its samples: half_to_float, one program to a long row, layouts that do not fold."""

from __future__ import annotations

import pytest
import torch

from gems_ops.rows import softmax, softmax_backward, tiling
from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="calls implementations with CPU tensors")

INF = float("inf")


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def unshared_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended machine on which one program is enough, so that no row is split."""
    monkeypatch.setattr(tiling, "_MULTIPROCESSORS", 0)
    tiling._tiling.cache_clear()
    yield
    tiling._tiling.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_half_to_float_computes_and_returns_float32(dtype: torch.dtype, dim: int) -> None:
    x = seeded(5, 70).to(dtype)
    torch.testing.assert_close(softmax.softmax(x, dim, True), x.float().softmax(dim))
    torch.testing.assert_close(softmax.log_softmax(x, dim, True), x.float().log_softmax(dim))


def test_gradient_narrows_to_the_input_dtype() -> None:
    grad, y = seeded(5, 70), seeded(5, 70).softmax(1)
    got = softmax_backward.softmax_backward(grad, y, 1, torch.float16)
    want = torch.ops.aten._softmax_backward_data(grad, y, 1, torch.float32)
    torch.testing.assert_close(got, want.half(), rtol=1e-3, atol=1e-4)


def test_one_program_reads_a_long_row_twice(unshared_rows: None) -> None:
    x = seeded(3, 40000)
    x[0, :9000] = -INF  # a whole block of nothing before the first number
    x[1] = -INF
    t = tiling.tiling(tiling.rows_of(x.shape, 1), (40000, 0, 1), 32768)
    assert not t.whole and t.splits == 1
    torch.testing.assert_close(softmax.softmax(x, 1, False), x.softmax(1), equal_nan=True)
    torch.testing.assert_close(softmax.log_softmax(x, 1, False), x.log_softmax(1), equal_nan=True)
    y = seeded(3, 40000).softmax(1)
    want = torch.ops.aten._softmax_backward_data(x[2:], y[2:], 1, torch.float32)
    torch.testing.assert_close(softmax_backward.softmax_backward(x[2:], y[2:], 1, torch.float32), want)


@pytest.mark.parametrize("dim", range(4))
def test_layouts_that_do_not_fold_are_copied_as_aten_copies_them(dim: int) -> None:
    x = seeded(2, 3, 4, 5).permute(2, 0, 3, 1)
    got, want = softmax.softmax(x, dim, False), x.softmax(dim)
    torch.testing.assert_close(got, want)
    assert got.stride() == want.stride()
    out = torch.full((3, 5, 2, 4), float("nan")).permute(3, 2, 1, 0)
    assert softmax.softmax(x, dim, False, out=out) is out
    torch.testing.assert_close(out, want)
