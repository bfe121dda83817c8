"""Where a reduction is cut: many small tiles and two stages, forced on shapes that a test can afford."""

from __future__ import annotations

import pytest
import torch

from gems_ops.reduce import engine, geometry, sums
from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="forces tiny tiles on CPU tensors")

CASES = {
    "all": ((500,), None),
    "rows": ((2, 200), [1]),
    "columns": ((100, 3), [0]),
    "middle": ((2, 100, 3), [1]),
    "ends": ((12, 2, 2, 20), [0, 3]),
    "strided": ((6, 2, 8, 1, 4), [0, 2, 4]),
}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of 64 elements on a pretended machine of 4 multiprocessors; gives the number of splits of each plan."""
    splits = []

    def tiling(g: geometry.Geometry, sm_count: int, interpreted: bool) -> geometry.Tiling:
        t = real(g, 4 if sm_count > 1 else 1, interpreted=False)
        splits.append(t.splits)
        return t

    real = geometry.tiling
    monkeypatch.setattr(geometry, "TILE", 64)
    monkeypatch.setattr(geometry, "COLUMNS", 4)
    monkeypatch.setattr(engine, "tiling", tiling)
    monkeypatch.setattr(engine, "sm_count", lambda: 4)
    return splits


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", ["sum", "mean", "amax"])
def test_two_stages_agree_with_aten(small_tiles: list[int], name: str, how: str) -> None:
    shape, dim = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if how == "amax":
        x.view(-1)[7] = float("nan")
        got, want = sums.amax(x, dim or []), torch.amax(x, dim or [])
    else:
        ours, aten = (sums.sum_dim, torch.sum) if how == "sum" else (sums.mean_dim, torch.mean)
        got, want = ours(x, dim), aten(x.double(), dim).float()
    assert max(small_tiles) > 1
    torch.testing.assert_close(got, want, equal_nan=True)


def test_integers_are_summed_exactly_across_splits(small_tiles: list[int]) -> None:
    x = torch.full((500,), 2**40 + 1)
    assert sums.sum(x).item() == 500 * (2**40 + 1)
    assert max(small_tiles) > 1
