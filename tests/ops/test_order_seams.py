"""topk and sort where their parts meet: chunks, cuts, ties, nan, short rows that are many; unique of few elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import flag_gems
from gems_ops.order import nth, sorting
from gems_ops.order.bitonic import lines_of
from gems_ops.register import counters, counts_of
from gems_runtime import device


def place(x: torch.Tensor) -> torch.Tensor:
    return x.to(device.torch_device())


def numbers(*shape: int, dtype: torch.dtype = torch.float32, spread: int = 50) -> torch.Tensor:
    """Integers of a small range: many are equal."""
    g = torch.Generator().manual_seed(sum(shape))
    return place(torch.randint(-spread if dtype.is_signed else 0, spread, shape, generator=g).to(dtype))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("shape, k, dim", [((3, 40), 7, 1), ((40, 3), 7, 0), ((2, 1100), 9, 1), ((2, 1100), 20, 1), ((1, 1700), 600, 1), ((1, 1030), 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_topk_gives_the_first_of_equal_elements(dtype: torch.dtype, shape: tuple, k: int, dim: int, largest: bool) -> None:
    x = numbers(*shape, dtype=dtype)
    if dtype.is_floating_point:
        x.view(-1)[5] = float("nan")
    before = counts_of("aten::topk").served
    with flag_gems.use_gems(include=["topk"]):
        values, indices = torch.topk(x, k, dim, largest)
    assert counts_of("aten::topk").served == before + 1
    # Stable: of equal elements the first comes first. nan counts as the greatest, so it comes last upwards.
    expected, where = torch.sort(x.cpu(), dim=dim, descending=largest, stable=True)
    assert torch.equal(indices.cpu(), where.narrow(dim, 0, k))
    assert torch.equal(values.cpu().nan_to_num(99), expected.narrow(dim, 0, k).nan_to_num(99))


def test_rows_that_only_get_better_are_cut_again_and_again() -> None:
    x = place(torch.arange(4000, dtype=torch.float32).view(1, -1))
    with flag_gems.use_gems(include=["topk"]):
        values, indices = torch.topk(x, 20)
    assert values.tolist() == [list(range(3999, 3979, -1))] == indices.tolist()


@pytest.mark.parametrize("k, planned", [(16, ["plan_few"]), (17, ["_plan_selection"])])
def test_few_are_found_without_a_selection(k: int, planned: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Selecting them costs two launches, and candidates in memory."""
    seen = []
    for name in ("plan_few", "_plan_selection"):
        stock = getattr(sorting, name)
        monkeypatch.setattr(sorting, name, lambda *args, name=name, stock=stock: (seen.append(name), stock(*args)))
    x = numbers(2, 1100)
    values, indices = sorting.topk(x, k)(x, k, -1, True, True)
    assert seen == planned and torch.equal(values, x.gather(1, indices))


@pytest.mark.parametrize("n", [16, 17, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.uint8])
def test_sort_is_stable_in_rows_of_many_lengths(n: int, dtype: torch.dtype) -> None:
    x = numbers(5, n, dtype=dtype)
    for descending in (False, True):
        with flag_gems.use_gems(include=["sort"]):
            got = torch.sort(x, stable=True, descending=descending)
        expected = torch.sort(x.cpu(), stable=True, descending=descending)
        assert torch.equal(got.indices.cpu(), expected.indices) and torch.equal(got.values.cpu(), expected.values)


@pytest.mark.parametrize("n, dtype", [(1, torch.int64), (700, torch.int64), (1500, torch.float32)])
def test_unique_numbers_its_elements(n: int, dtype: torch.dtype) -> None:
    x = numbers(n, dtype=dtype)
    with flag_gems.use_gems(include=["_unique2", "unique_consecutive"]):
        values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
        runs, lengths = torch.unique_consecutive(x, return_counts=True)
    assert torch.equal(values[inverse], x) and int(counts.sum()) == n and torch.equal(values, values.unique())
    assert torch.equal(runs.repeat_interleave(lengths), x)


@pytest.mark.parametrize("n", [16, 17, 40])
def test_distinct_slices_of_several_blocks(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the interpreter all slices are one block; here they are several, as on a GPU, which gives a contiguous result."""
    from gems_ops.order import unique_rows

    monkeypatch.setattr(unique_rows, "BLOCK", 16)
    monkeypatch.setattr(unique_rows, "device", type("Device", (), {"interpreted": staticmethod(lambda: False)}))
    x = numbers(3, n, spread=2)
    native = torch.unique(x, dim=1, return_inverse=True, return_counts=True)
    served = counts_of("aten::unique_dim").served
    with flag_gems.use_gems(include=["unique_dim"]):
        ours = torch.unique(x, dim=1, return_inverse=True, return_counts=True)
    assert counts_of("aten::unique_dim").served == served + 1
    assert all(map(torch.equal, ours, native)) and ours[0].is_contiguous()


def test_many_slices_are_left_to_aten() -> None:
    declined = counts_of("aten::unique_dim").declined
    with flag_gems.use_gems(include=["unique_dim"]):
        torch.unique(numbers(4097, 1), dim=0)
    assert counts_of("aten::unique_dim").declined == declined + 1


def test_topk_is_differentiable() -> None:
    x = place(torch.randperm(60, generator=torch.Generator().manual_seed(0)).float().view(3, 20)).requires_grad_()
    with flag_gems.use_gems(include=["topk"]):
        values, indices = torch.topk(x, 4)
        values.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x).scatter(1, indices, 1.0))


@pytest.mark.parametrize("shape, dim", [((5, 16), 1), ((5, 17), 1), ((300, 3), 0), ((2, 3, 1024), -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
def test_an_element_by_its_rank_in_rows_of_many_lengths(dtype: torch.dtype, shape: tuple, dim: int) -> None:
    """Many are equal: the values are ATen's, and stand where the indices say."""
    x = numbers(*shape, dtype=dtype, spread=9)
    if dtype.is_floating_point:
        x.view(-1)[3] = float("nan")
    calls = {"aten::kthvalue": lambda: x.kthvalue(3, dim, True), "aten::median.dim": lambda: x.median(dim, True)}
    for name, call in calls.items():
        native, served = call(), counts_of(name).served
        with flag_gems.use_gems(include=[name]):
            values, indices = call()
        assert counts_of(name).served == served + 1
        assert torch.equal(values.nan_to_num(99), native.values.nan_to_num(99)), name
        assert torch.equal(x.gather(dim, indices).nan_to_num(99), values.nan_to_num(99)), name


def test_longer_rows_have_atens_median() -> None:
    declined = counts_of("aten::median.dim").declined
    with flag_gems.use_gems(include=["median"]):
        numbers(1, 1025).median(1)
    assert counts_of("aten::median.dim").declined == declined + 1


@pytest.mark.parametrize("name", ["kthvalue", "median"])
def test_gradients_go_where_the_indices_say(name: str) -> None:
    x = numbers(3, 20, spread=4).requires_grad_()
    with flag_gems.use_gems(include=[name]):
        found = x.kthvalue(4, 1) if name == "kthvalue" else x.median(1)
        found.values.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x).scatter(1, found.indices[:, None], 1.0))


@pytest.mark.parametrize("shape, dim", [((5, 40), -1), ((40, 5), 0), ((3, 40, 5), 1)])
@pytest.mark.parametrize("name", ["topk", "sort", "kthvalue", "median"])
def test_short_rows_take_one_launch_and_what_it_fills(name: str, shape: tuple, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's time of a small call: topk of 64 x 64 took 32 us before it was planned, ATen 11 (H200, Python 3.12, 2026-11-26)."""
    from gems_ops import plan

    texts, compiled = [], plan._compiled
    monkeypatch.setattr(plan, "_compiled", lambda text: (texts.append(text), compiled(text))[1])
    x = numbers(*shape)
    {
        "topk": lambda: sorting.topk(x, 3, dim), "sort": lambda: sorting.sort(x, True, dim),
        "kthvalue": lambda: nth.kthvalue(x, 3, dim), "median": lambda: nth.median_dim(x, dim),
    }[name]()  # fmt: skip
    (text,) = texts
    lines = [line.strip() for line in text.splitlines()[2:-1]]
    assert len(lines) == 4 and [line.split(" = ")[0] for line in lines[:2]] == ["out0", "out1"] and lines[2].startswith("_")


@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("name", ["topk", "sort", "kthvalue", "median"])
def test_rows_of_any_layout(name: str, other: int, dim: int) -> None:
    """Where one stride walks the dimensions on each side, rows are read as they lie; transposed, that is so along dim 1 only."""
    x = place(torch.randperm(3 * 4 * 5 * 6, generator=torch.Generator().manual_seed(dim)).float().view(3, 4, 5, 6)).transpose(0, other)
    calls = {
        "topk": lambda: torch.topk(x, 2, dim), "sort": lambda: torch.sort(x, stable=True, dim=dim),
        "kthvalue": lambda: torch.kthvalue(x, 2, dim), "median": lambda: torch.median(x, dim),
    }  # fmt: skip
    served = lambda: sum(c.served for n, c in counters().items() if name in n)  # noqa: E731
    native, before = calls[name](), served()
    with flag_gems.use_gems(include=[name]):
        ours = calls[name]()
    assert served() == before + 1
    for a, b in zip(ours, native, strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


@pytest.mark.parametrize("name", ["topk", "sort"])
def test_results_in_tensors_of_other_layouts(name: str) -> None:
    x = numbers(6, 7, 8).transpose(0, 2)
    for dim in range(3):
        shape = [5 if d == dim and name == "topk" else n for d, n in enumerate(x.shape)]
        outs = tuple(torch.empty_strided(shape, [1, shape[0], shape[0] * shape[1]], dtype=d, device=x.device) for d in (x.dtype, torch.int64))
        counts = counts_of("aten::topk.values" if name == "topk" else "aten::sort.values_stable")
        served = counts.served
        with flag_gems.use_gems(include=[name]):
            if name == "topk":
                torch.topk(x, 5, dim, out=outs)
            else:
                torch.sort(x, stable=True, dim=dim, descending=True, out=outs)
        assert counts.served == served + 1, counts.reasons
        values, indices = torch.sort(x.cpu(), stable=True, dim=dim, descending=True)
        n = shape[dim]
        assert torch.equal(outs[0].cpu(), values.narrow(dim, 0, n)) and torch.equal(outs[1].cpu(), indices.narrow(dim, 0, n))


@pytest.mark.parametrize("call", [torch.median, lambda x: torch.median(x, -1), lambda x: torch.kthvalue(x, 1)], ids=["median", "dim", "kthvalue"])
def test_more_dimensions_than_atens_cuda_kernels_have_are_left_to_them(call: Callable[[torch.Tensor], object]) -> None:
    names = ("aten::median", "aten::median.dim", "aten::kthvalue")
    before = [(counts_of(n).served, counts_of(n).declined) for n in names]
    with flag_gems.use_gems(include=["median", "kthvalue"]):
        call(torch.ones((1,) * 24, device=device.torch_device()))
        served = [(counts_of(n).served, counts_of(n).declined) for n in names]
        try:
            call(torch.ones((1,) * 25, device=device.torch_device()))
        except RuntimeError as error:  # ATen's, on a GPU
            assert "25 dimensions" in str(error)
    assert sum(a - b for (a, _), (b, _) in zip(served, before, strict=True)) == 1
    assert [counts_of(n).served for n in names] == [a for a, _ in served], "25 were served"


def test_lines_that_lie_apart_are_copied_where_they_are_many() -> None:
    """A small call saves a launch; of 512 x 8192 along dim 0 the copies were faster (H100)."""
    assert lines_of((64, 64), (64, 1), 0) is not None
    assert lines_of((512, 8192), (8192, 1), 0) is None
    assert lines_of((8192, 512), (1024, 1), 1) is not None
