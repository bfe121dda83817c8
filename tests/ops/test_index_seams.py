"""Indexing where a table of samples cannot say it: places beside the end, sources that are the target, many blocks."""

from __future__ import annotations

import pytest
import torch
from outside import OUTSIDE, at, table
from torch import Tensor

import flag_gems
from gems_ops.register import counts_of
from gems_runtime import device

HERE = device.torch_device()
ON_GPU = HERE.type == "cuda"


@pytest.mark.skipif(ON_GPU, reason="on a GPU it is an assert on the device, which ends the process: tests/gpu/test_outside.py")
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", [4, -5])
def test_a_place_outside_raises_atens_error(name: str, place: int) -> None:
    def error() -> Exception:
        with pytest.raises((IndexError, RuntimeError)) as found:
            OUTSIDE[name](at(0, place))
        return found.value

    native = error()
    with flag_gems.use_gems():
        ours = error()
    assert (type(ours), str(ours)) == (type(native), str(native))


@pytest.mark.parametrize("place", [-1, -4])
def test_places_count_from_the_end_where_aten_counts_so(place: int) -> None:
    native = table()[at(place)], table().index_fill(0, at(place), 7.0)
    with flag_gems.use_gems(include=["index", "index_fill"]):
        ours = table()[at(place)], table().index_fill(0, at(place), 7.0)
    assert all(map(torch.equal, ours, native))


def test_a_source_that_is_the_target_is_atens() -> None:
    """Reading and writing the same elements in no order would be a race: ATen refuses it."""
    declined = counts_of("aten::scatter_.src").declined
    x = table()
    with flag_gems.use_gems(include=["aten::scatter.src"]), pytest.raises(RuntimeError, match="clone"):
        x.scatter_(0, at(3, 2, 1, 0)[:, None].expand(4, 6), x)
    assert counts_of("aten::scatter_.src").declined == declined + 1


@pytest.mark.parametrize("n", [4095, 4096, 4097, 3 * 4096 + 1])
def test_compaction_across_blocks(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the interpreter a tensor is one block; here it is several, as on a GPU, and their counts are added up in parts."""
    from gems_ops.index import compact

    monkeypatch.setattr(compact, "SUMMED", 2)
    monkeypatch.setattr(compact, "device", type("Device", (), {"interpreted": staticmethod(lambda: False)}))
    x = (torch.arange(n, device=HERE) % 7 > 2).to(torch.int32)
    values = torch.arange(n, device=HERE)
    native = x.nonzero(), values.masked_select(x.bool()), values.masked_scatter(x.bool(), values), values[x.bool()]
    with flag_gems.use_gems(include=["nonzero", "masked_select", "masked_scatter", "index"]):
        ours = x.nonzero(), values.masked_select(x.bool()), values.masked_scatter(x.bool(), values), values[x.bool()]
    assert all(map(torch.equal, ours, native))


@pytest.mark.parametrize("shape", [(4097,), (37, 331), (5, 7, 11, 3, 13)])
@pytest.mark.parametrize("every", [1, 2, 15, 17, 1000, 10**6])
@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16])
def test_nonzero_of_dense_and_of_sparse_tensors(shape: tuple, every: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than one in 16: their places come from bits. Several blocks, chunks of places, and the highest bit of a word."""
    from gems_ops.index import compact

    monkeypatch.setattr(compact, "_KEPT_AS_BITS", 1)
    monkeypatch.setattr(compact, "CHUNK", 16)
    monkeypatch.setattr(compact, "device", type("Device", (), {"interpreted": staticmethod(lambda: False)}))
    launched = []
    for name in ("_places_kernel", "_few_places_kernel"):
        kernel = getattr(compact, name)
        spy = type("Spy", (), {"__getitem__": lambda self, grid, k=kernel, n=name: (launched.append(n), k[grid])[1]})
        monkeypatch.setattr(compact, name, spy())
    n = torch.Size(shape).numel()
    x = ((torch.arange(n, device=HERE) % every == every - 1) | (torch.arange(n, device=HERE) == 31)).view(shape).to(dtype)
    native = x.nonzero()
    with flag_gems.use_gems(include=["nonzero"]):
        ours = x.nonzero()
    assert torch.equal(ours, native) and ours.stride() == native.stride()
    assert launched == ["_places_kernel" if len(native) * 16 >= n else "_few_places_kernel"]


@pytest.mark.parametrize("tile", [(2, 4), (16, 16), (64, 8)])
@pytest.mark.parametrize("repeats", [[70], [0, 0, 33, 0, 1, 0], [1] * 130, [3, 0, 100, 0, 0, 2], [0, 5] * 40, [0, 1, 2, 3] * 9])
def test_repeats_in_several_blocks(tile: tuple[int, int], repeats: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs longer than a tile, tiles of several runs, empty ones between, and blocks of empty ones alone."""
    from gems_ops.index import searching

    monkeypatch.setattr(searching, "INTERPRETER_OWNERS" if device.interpreted() else "OWNERS", (*tile, 1))
    x, counts = torch.tensor(repeats, device=HERE), counts_of("aten::repeat_interleave.Tensor")
    served = counts.served
    with flag_gems.use_gems(include=["repeat_interleave"]):
        ours = torch.repeat_interleave(x), torch.repeat_interleave(x, output_size=sum(repeats))
    assert counts.served == served + 2
    assert all(torch.equal(t, torch.repeat_interleave(x)) for t in ours)


REFUSED = {
    "masked_scatter": lambda: table().masked_scatter_(table() > 3, at(1, 2).float()),
    "repeat_interleave": lambda: torch.repeat_interleave(at(2, -1, 3)),
    "repeat_interleave of another size": lambda: torch.repeat_interleave(at(2, 1), output_size=4),
}


@pytest.mark.skipif(ON_GPU, reason="some are asserts on the device, which end the process")
@pytest.mark.parametrize("name", REFUSED)
def test_sources_and_counts_that_do_not_fit_raise_atens_error(name: str) -> None:
    def error() -> str:
        with pytest.raises(RuntimeError) as found:
            REFUSED[name]()
        return str(found.value)

    native = error()
    with flag_gems.use_gems(include=[name.split()[0]]):
        assert error() == native



def test_sums_of_one_place() -> None:
    """All of a column to one place: every addition meets another."""
    with flag_gems.use_gems(include=["scatter_add", "index_add"]):
        scattered = table().scatter_add(0, torch.full((4, 6), 2, device=HERE), table())
        added = table().index_add(0, at(1, 1, 1, 1), table(), alpha=2)
    assert torch.equal(scattered[2], table()[2] + table().sum(0))
    assert torch.equal(added[1], table()[1] + 2 * table().sum(0))


def test_orders_of_numbers_are_theirs() -> None:
    """Every kind of number goes to an integer and back, and the integers are in the numbers' order; nan is at an end."""
    inf, nan = float("inf"), float("nan")
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tiny = torch.finfo(dtype).tiny
        x = torch.tensor([-inf, -2.5, -tiny, -0.0, 0.0, tiny, 2.5, inf, nan], dtype=dtype, device=HERE)
        for how, end in (("amax", 0), ("amin", 7)):
            served = counts_of("aten::scatter_reduce.two").served
            places = torch.arange(9, device=HERE)
            with flag_gems.use_gems(include=["scatter_reduce"]):
                alone = x.scatter_reduce(0, places, x, how)
                beside = x.scatter_reduce(0, places, x[end].expand(9).contiguous(), how)
                last = x[8:].scatter_reduce(0, places[:1], x[end : end + 1], how)
            assert counts_of("aten::scatter_reduce.two").served == served + 3
            # as bits: -0.0 is below 0.0
            assert all(torch.equal(found[:8].view(torch.uint8), x[:8].view(torch.uint8)) for found in (alone, beside))
            assert last.isnan().all() and beside[8].isnan()


@pytest.mark.parametrize("how", ["sum", "mean", "amax"])
def test_reductions_into_a_tensor_with_gaps(how: str) -> None:
    index = torch.arange(48, device=HERE).remainder(3).view(8, 6)

    def result() -> Tensor:
        whole = torch.zeros(9, 40, device=HERE)
        whole[1:, ::7].scatter_reduce_(0, index, torch.arange(48.0, device=HERE).view(8, 6), how)
        return whole

    native, served = result(), counts_of("aten::scatter_reduce_.two").served
    with flag_gems.use_gems(include=["scatter_reduce"]):
        assert torch.equal(result(), native)
    assert counts_of("aten::scatter_reduce_.two").served == served + 1


def test_deterministic_algorithms_are_atens() -> None:
    declined = counts_of("aten::scatter_add").declined
    torch.use_deterministic_algorithms(True)
    try:
        with flag_gems.use_gems(include=["scatter_add"]):
            table().scatter_add(0, torch.full((4, 6), 2, device=HERE), table())
    finally:
        torch.use_deterministic_algorithms(False)
    assert counts_of("aten::scatter_add").declined == declined + 1


GRADIENTS = {
    "rows": lambda x: x[at(1, 1, -3, 1)],
    "rows named in two dimensions": lambda x: x[at(0, 3, 3), at(1, 2, -1)],
    "the middle": lambda x: x[:, at(2, 0, 2)],
    "a mask of rows": lambda x: x[at(1, 0, 1, 1).bool()],
    "a mask of the middle": lambda x: x[:, at(1, 1, 0).bool()],
    "a mask of all": lambda x: x[x > 20],
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_indexing_are_ours(name: str) -> None:
    def gradient() -> Tensor:
        x = torch.arange(4.0 * 3 * 40, device=HERE).view(4, 3, 40).requires_grad_()
        return torch.autograd.grad(GRADIENTS[name](x).square().sum(), x)[0]

    native, before = gradient(), counts_of("aten::_index_put_impl_").served
    with flag_gems.use_gems(include=["aten::_index_put_impl"]):
        assert torch.equal(gradient(), native)
    assert counts_of("aten::_index_put_impl_").served == before + 1


@pytest.mark.parametrize("width", [40, 1030])
def test_sums_by_index_are_the_same_on_every_run(width: int) -> None:
    """Also where a deterministic algorithm is asked for: this is one. Long runs hold chunks, and begin and end in others."""
    g = torch.Generator().manual_seed(0)
    places = torch.randint(0, 3, (700,), generator=g).to(HERE)
    values = torch.randn(700, width, generator=g).to(HERE)
    served = counts_of("aten::index_put_").served
    torch.use_deterministic_algorithms(True)
    try:
        with flag_gems.use_gems(include=["aten::index_put"]):
            first, second = (torch.zeros(5, width, device=HERE).index_put_((places,), values, accumulate=True) for _ in "ab")
    finally:
        torch.use_deterministic_algorithms(False)
    assert counts_of("aten::index_put_").served == served + 2
    exact = torch.zeros(5, width, dtype=torch.float64).index_add_(0, places.cpu(), values.cpu().double())
    assert torch.equal(first, second) and torch.allclose(first.cpu().double(), exact, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 9), (3, 40, 9), (3, 40), (2, 40, 70)])
def test_masks_of_several_tiles(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from gems_ops.index import masks

    monkeypatch.setattr(masks, "INTERPRETER_TILE", 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(HERE)
    place = [*[None] * (shape[0] != 40), torch.arange(40, device=HERE) % 3 != 1]

    def results() -> list[Tensor]:
        chosen = torch.ops.aten.index(x, place)
        return [chosen, *(torch.ops.aten.index_put(x, place, chosen.flip(0), added) for added in (False, True))]

    native, served = results(), counts_of("aten::index.Tensor").served
    with flag_gems.use_gems(include=["index", "index_put"]):
        assert all(map(torch.equal, results(), native))
    assert counts_of("aten::index.Tensor").served == served + 1


@pytest.mark.parametrize("count", [2, 4])
def test_values_for_another_number_of_places_raise_atens_error(count: int) -> None:
    mask = at(1, 0, 1, 1).bool()

    def error() -> str:
        x = table()
        with pytest.raises(RuntimeError, match="shape mismatch") as found:
            x[mask] = torch.zeros(count, 6, device=HERE)
        assert torch.equal(x, table())
        return str(found.value)

    native = error()
    with flag_gems.use_gems(include=["aten::index_put"]):
        assert error() == native


def test_a_mask_beside_indices_is_atens() -> None:
    declined = counts_of("aten::index.Tensor").declined
    with flag_gems.use_gems(include=["aten::index.Tensor"]):
        assert table()[at(1, 0, 1, 0).bool(), at(5, 4)].tolist() == [5.0, 16.0]
    assert counts_of("aten::index.Tensor").declined == declined + 1


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.parametrize("how", ["new", "out", "in place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_sums_that_one_program_holds_and_those_that_it_does_not(dtype: torch.dtype, how: str, n: int) -> None:
    """64 x 64 are one program's, which copies and adds. Many are added at one place, and none at others."""
    g = torch.Generator().manual_seed(n)
    x, source = (torch.randint(-3, 4, (n, 64), generator=g).to(HERE, dtype) for _ in range(2))
    index = torch.randint(0, 5, (n, 64), generator=g).to(HERE)
    calls = {
        "aten::scatter_add": lambda t: (t.scatter_add_ if how == "in place" else t.scatter_add)(0, index, source),
        "aten::index_add": lambda t: (t.index_add_ if how == "in place" else t.index_add)(0, index[:, 0].contiguous(), source, alpha=2),
    }
    if how == "out":
        calls["aten::scatter_add"] = lambda t: torch.scatter_add(t, 0, index, source, out=torch.empty_like(t))
        calls["aten::index_add"] = lambda t: torch.index_add(t, 0, index[:, 0].contiguous(), source, alpha=2, out=torch.empty_like(t))
    for name, call in calls.items():
        expected, own = call(x.clone()), x.clone()
        with flag_gems.use_gems(include=[name]):
            got = call(own)
        assert torch.equal(got, expected), name
        assert (got is own) == (how == "in place") and (how == "in place" or torch.equal(own, x))
