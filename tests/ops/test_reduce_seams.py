"""Where a reduction is cut: many small tiles and two stages, forced on shapes that a test can afford."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gems_ops.reduce import engine, extrema, geometry, moments, norms, products, sums
from gems_runtime import device

pytestmark = pytest.mark.skipif(not device.interpreted(), reason="forces tiny tiles on CPU tensors")

SHAPES = {
    "all": ((500,), None),
    "rows": ((2, 200), [1]),
    "columns": ((100, 3), [0]),
    "middle": ((2, 100, 3), [1]),
    "ends": ((12, 2, 2, 20), [0, 3]),
    "strided": ((6, 2, 8, 1, 4), [0, 2, 4]),
}
EVERY_DIM = {
    "sum": (sums.sum_dim, torch.sum),
    "mean": (sums.mean_dim, torch.mean),
    "nansum": (sums.nansum, torch.nansum),
    "count_nonzero": (sums.count_nonzero_dims, torch.count_nonzero),
    "amax": (extrema.amax, torch.amax),
    "amin": (extrema.amin, torch.amin),
    "all": (extrema.all_dims, torch.all),
    "any": (extrema.any_dims, torch.any),
    "var": (moments.var, torch.var),
    "std_mean": (moments.std_mean, torch.std_mean),
    "logsumexp": (norms.logsumexp, torch.logsumexp),
}
ONE_DIM = {
    "prod": (sums.prod_dim, torch.prod),
    "max": (extrema.max_dim, torch.max),
    "min": (extrema.min_dim, torch.min),
    "argmax": (extrema.argmax, torch.argmax),
    "argmin": (extrema.argmin, torch.argmin),
}
ORDERS = (0, 1, 2, 3, -1, float("inf"), float("-inf"))


def force_small_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tiles of 64 elements on a pretended machine of 4 multiprocessors; gives the number of splits of each plan."""
    splits = []

    def tiling(g: geometry.Geometry, sm_count: int, interpreted: bool, itemsize: int, states: int = 1) -> geometry.Tiling:
        t = real(g, 4 if sm_count > 1 else 1, False, 4, states)
        splits.append(t.splits)
        return t

    real = geometry.tiling
    monkeypatch.setattr(geometry, "TILE", 64)
    monkeypatch.setattr(geometry, "COLUMNS", 4)
    monkeypatch.setattr(geometry, "LATER_COLUMNS", 4)
    monkeypatch.setattr(geometry, "WHOLE_ROW", 64)
    monkeypatch.setattr(engine, "tiling", tiling)
    monkeypatch.setattr(engine, "sm_count", lambda: 4)
    return splits


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return force_small_tiles(monkeypatch)


def numbers(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def same(got: object, want: object) -> None:
    torch.testing.assert_close(got, want, equal_nan=True, check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EVERY_DIM)
def test_two_stages_agree_with_aten(small_tiles: list[int], name: str, shape: str) -> None:
    ours, aten = EVERY_DIM[name]
    sizes, dim = SHAPES[shape]
    dim = dim or list(range(len(sizes)))
    x = numbers(sizes)
    if name in ("amax", "amin", "nansum", "sum", "logsumexp"):
        x.view(-1)[7] = float("nan")
    if name in ("any", "all", "count_nonzero"):
        x = (x > 2) if name == "any" else (x > -2) if name == "all" else x.round()
    want = aten(x.double() if x.is_floating_point() else x, dim)
    same(ours(x, dim), want)
    assert max(small_tiles) > 1


@pytest.mark.parametrize("shape", ["rows", "columns", "middle"])
@pytest.mark.parametrize("name", ONE_DIM)
def test_two_stages_over_one_dimension(small_tiles: list[int], name: str, shape: str) -> None:
    """Elements repeat, so that the first of equals has to be found among splits; one row or column has two nans."""
    ours, aten = ONE_DIM[name]
    sizes, (dim,) = SHAPES[shape]
    x = numbers(sizes).round() if name != "prod" else numbers(sizes).abs().clamp(0.7, 1.4)
    for place in (17, 90):
        x.movedim(dim, 0)[(place, *[0] * (x.dim() - 1))] = float("nan")
    want = aten(x.double(), dim) if name == "prod" else first_positions(x, dim, name)
    got = ours(x, dim=dim) if name.startswith("arg") else ours(x, dim)
    same(got, want)
    assert max(small_tiles) > 1


def first_positions(x: Tensor, dim: int, name: str) -> object:
    """What ATen does on a GPU: the first nan, else the first of equals."""
    values = x.amax(dim) if "max" in name else x.amin(dim)
    hit = (x == values.unsqueeze(dim)) | x.isnan()
    indices = hit.to(torch.int8).argmax(dim)
    return indices if name.startswith("arg") else (values, indices)


@pytest.mark.parametrize("order", ORDERS)
def test_norms_in_two_stages(small_tiles: list[int], order: float) -> None:
    x = numbers((2, 200))
    same(norms.vector_norm(x, order, [1]), torch.linalg.vector_norm(x.double(), order, [1]))
    assert max(small_tiles) > 1


def test_whole_tensors_in_two_stages(small_tiles: list[int]) -> None:
    x = numbers((20, 30))
    x[3, 3] = x[4, 4] = 5
    same(extrema.aminmax(x), torch.aminmax(x))
    assert extrema.argmax(x).item() == 93 and extrema.argmax(x.t()).item() == 63
    assert extrema.argmax(torch.full((500,), -float("inf"))).item() == 0
    same(products.dot(x.view(-1), x.t().reshape(-1)), torch.dot(x.double().view(-1), x.double().t().reshape(-1)))
    same(products.trace(numbers((300, 400))), numbers((300, 400)).double().trace())
    assert max(small_tiles) > 1


def test_integers_are_summed_exactly_across_splits(small_tiles: list[int]) -> None:
    x = torch.full((500,), 2**40 + 1)
    assert sums.sum(x).item() == 500 * (2**40 + 1)
    assert max(small_tiles) > 1


@pytest.mark.parametrize("size", [3, 7, 500])
def test_equal_elements_have_no_variance(small_tiles: list[int], size: int) -> None:
    got, mean = moments.var_mean(torch.full((size,), 1234.567))
    assert got.item() == 0 and mean.item() == torch.tensor(1234.567).item()


@pytest.mark.parametrize("run", [lambda x: moments.var(x, [1]), lambda x: sums.sum_dim(x, [1]), lambda x: norms.logsumexp(x, [1])])
def test_two_runs_give_the_same_bits(small_tiles: list[int], run: Callable[[Tensor], Tensor]) -> None:
    x = numbers((2, 500))
    assert torch.equal(run(x), run(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_variance_far_from_zero(small_tiles: list[int], shape: str) -> None:
    """Sums of squares would leave nothing of it in float32, nor would distances from an outlier."""
    sizes, dim = SHAPES[shape]
    dim = dim or list(range(len(sizes)))
    x = numbers(sizes) + 3000
    torch.testing.assert_close(moments.var(x, dim).double(), x.double().var(dim), rtol=1e-4, atol=0)
    x.view(-1)[0] = -1e6
    torch.testing.assert_close(moments.var(x, dim).double(), x.double().var(dim), rtol=1e-4, atol=0)
    assert max(small_tiles) > 1


def test_infinite_elements_leave_no_mean(small_tiles: list[int]) -> None:
    x = numbers((3, 500))
    x[1, 3], x[2, 400] = float("inf"), float("-inf")
    got = moments.var_mean(x, [1])
    for t in got:
        assert t[0].isfinite() and t[1:].isnan().all()
