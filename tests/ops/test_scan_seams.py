"""Where a scan is cut: tiles, carries and parts, forced on rows that a test can afford."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gems_ops.scan import cumulative, engine
from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="forces tiny tiles on CPU tensors")

SCANS = {
    "cumsum": (cumulative.cumsum, torch.cumsum),
    "cumprod": (cumulative.cumprod, torch.cumprod),
    "cummax": (cumulative.cummax, torch.cummax),
    "cummin": (cumulative.cummin, torch.cummin),
    "logcumsumexp": (cumulative.logcumsumexp, torch.logcumsumexp),
}
SHAPES = {"row": ((1, 500), 1), "rows": ((37, 70), 1), "columns": ((150, 5), 0), "middle": ((2, 150, 3), 1), "line": ((257,), 0)}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of 32 elements on a pretended machine of 4 multiprocessors; gives the number of parts of each plan."""
    found = []

    def tiling(rows: engine.Rows, across: bool, processors: int, two_values: bool) -> engine.Tiling:
        t = real(rows, across, 4, two_values)
        found.append(t.parts)
        return t

    real = engine.tiling
    monkeypatch.setattr(engine, "TILE", 32)
    monkeypatch.setattr(engine, "LONGEST", 32)
    monkeypatch.setattr(engine, "ACROSS", (4, 8))
    monkeypatch.setattr(engine, "tiling", tiling)
    return found


def numbers(shape: tuple[int, ...], name: str) -> Tensor:
    """Elements that repeat, with a nan in one row; factors whose products stay in range."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if name == "cumprod":
        return x.abs().clamp(0.7, 1.4)
    x = x.round() if name != "logcumsumexp" else x * 30
    x.view(-1)[-2] = float("nan")
    return x


def check(name: str, x: Tensor, dim: int) -> None:
    ours, aten = SCANS[name]
    torch.testing.assert_close(ours(x, dim), aten(x.double(), dim), equal_nan=True, check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCANS)
def test_carries_and_parts_agree_with_aten(parts: list[int], name: str, shape: str) -> None:
    sizes, dim = SHAPES[shape]
    check(name, numbers(sizes, name), dim)
    if shape != "rows":
        assert max(parts) > 1


@pytest.mark.parametrize("name", SCANS)
def test_parts_of_several_tiles(parts: list[int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(engine, "PROGRAMS_PER_SM", 1)
    check(name, numbers((1, 500), name), 1)
    assert parts == [4]


@pytest.mark.parametrize("size", [31, 32, 33, 63, 64, 65, 127, 129])
def test_sizes_around_tiles(parts: list[int], size: int) -> None:
    for name in SCANS:
        check(name, numbers((3, size), name), 1)


@pytest.mark.parametrize("name", ["cummax", "cummin"])
def test_infinities_and_nans_are_found_across_parts(parts: list[int], name: str) -> None:
    low = -float("inf") if name == "cummax" else float("inf")
    x = torch.full((1, 200), low)
    check(name, x, 1)
    x[0, 70] = x[0, 150] = float("nan")
    check(name, x, 1)


def test_whole_numbers_do_not_round(parts: list[int]) -> None:
    x = torch.full((1, 300), 2**40 + 1)
    assert torch.equal(cumulative.cumsum(x, 1), torch.cumsum(x, 1))
    assert torch.equal(cumulative.cumsum(x.to(torch.int8), 1), torch.cumsum(x.to(torch.int8), 1))
    assert max(parts) > 1


def test_two_runs_give_the_same_bits(parts: list[int]) -> None:
    x = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cumulative.cumsum(x, 1), cumulative.cumsum(x, 1)) and max(parts) > 1


INF = float("inf")
RISING = torch.linspace(-60, 60, 300)


@pytest.mark.parametrize("row", [
    RISING, RISING.flip(0), RISING * 30, RISING / 60, torch.where(RISING < 0, -INF, RISING / 60), torch.full((300,), -INF),
    torch.where(RISING.abs() < 1, INF, 0.0), torch.where(RISING.abs() < 1, float("nan"), 0.0), torch.where(RISING < -59, -30.0, 0.0),
])  # fmt: skip
def test_logcumsumexp_far_from_the_largest_element(parts: list[int], row: Tensor) -> None:
    """Sums of exponentials of distances from one element of a tile would vanish, or have no such element."""
    x = torch.stack([row, torch.zeros(300)])
    got, want = cumulative.logcumsumexp(x, 1), torch.logcumsumexp(x.double(), 1)
    torch.testing.assert_close(got, want.float(), rtol=3e-6, atol=3e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_parts_in_several_groups(parts: list[int], name: str) -> None:
    """Groups are of 32 parts: a tile of 32 elements is one warp's."""
    for size in (32 * 32, 32 * 32 + 1, 32 * 63 + 5, 32 * 64, 3333):
        x = numbers((2, size), name)
        check(name, x.clamp(0.9, 1.1) if name == "cumprod" else x, 1)
    assert min(parts) > 1
