"""Matrix products where samples do not reach: while their kernel is being timed, and what their plans hand to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import flag_gems
from gems_ops.linalg import short, skinny, tiled
from gems_ops.register import counts_of
from gems_runtime import device


class Repeated:
    """A kernel that is launched twice, as a tuner launches it many times, with the same arguments."""

    def __init__(self, kernel: object) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*args: object, **options: object) -> None:
            for _ in range(2):
                self.kernel[grid](*args, **options)

        return launch


@pytest.mark.parametrize("name, shape", [("addmm_", (40, 33)), ("baddbmm_", (2, 40, 33)), ("addbmm_", (40, 33))])
def test_added_in_place_while_the_kernel_is_timed(name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "_tiled_matmul_kernel", Repeated(tiled._tiled_matmul_kernel))
    g, lead = torch.Generator().manual_seed(0), () if name == "addmm_" else (2,)
    x, a, b = (torch.randn(s, generator=g).to(device.torch_device()) for s in (shape, (*lead, 40, 24), (*lead, 24, 33)))
    expected, got = x.clone(), x.clone()
    getattr(expected, name)(a, b, beta=0.5)
    served = counts_of(f"aten::{name}").served
    with flag_gems.use_gems(include=[name.rstrip("_")]):
        getattr(got, name)(a, b, beta=0.5)
    assert counts_of(f"aten::{name}").served > served
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def rounded_to(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device.torch_device())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "m, n, k, along",  # the operand that is streamed lies along K, or along N; whole K in a step, several, a tail, a split
    [(1, 40, 100, True), (1, 40, 128, False), (1, 700, 7, False), (1, 70, 300, True), (1, 20, 1100, False), (3, 2050, 129, True), (1, 1, 1, True)],
)  # fmt: skip
def test_one_row_times_a_matrix(dtype: torch.dtype, m: int, n: int, k: int, along: bool) -> None:
    a, b = rounded_to(dtype, m, 1, k), rounded_to(dtype, m, *((n, k) if along else (k, n)), seed=1)
    b = b.transpose(1, 2) if along else b
    served = counts_of("aten::bmm").served
    with flag_gems.use_gems(include=["bmm"]):
        row, column = torch.bmm(a, b), torch.bmm(b.transpose(1, 2), a.transpose(1, 2))
    assert counts_of("aten::bmm").served == served + 2
    bound = dict(rtol=2**-8, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-4)
    expected = torch.bmm(a.double(), b.double())
    torch.testing.assert_close(row.double(), expected, **bound)
    torch.testing.assert_close(column.double(), expected.transpose(1, 2), **bound)


@pytest.mark.parametrize("along", [True, False])
def test_a_vector_is_read_as_a_row_whose_elements_lie_together(along: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride of 1 between rows, of which there is one, kept Triton from fetching the vector ahead."""
    seen = []
    kernel = skinny._skinny_matmul_kernel

    class Spy:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: (seen.append(args[9:11]), kernel[grid](*args, **options))

    monkeypatch.setattr(skinny, "_skinny_matmul_kernel", Spy())
    a, v = rounded_to(torch.bfloat16, 300, 310), rounded_to(torch.bfloat16, 310, seed=1)
    a = a if along else a.t().contiguous().t()
    with flag_gems.use_gems(include=["mv"]):
        torch.testing.assert_close(torch.mv(a, v).double(), torch.mv(a.double(), v.double()), rtol=2**-7, atol=1e-2)
    assert seen == [(0, 1)]


@pytest.mark.parametrize("name", ["mm", "bmm"])
@pytest.mark.parametrize("precision, copied", [("ieee", True), ("tf32", False)])
def test_a_transposed_operand_is_turned_where_products_are_exact(
    name: str, precision: str, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "_ROWS_TO_TURN", 1)
    monkeypatch.setattr(tiled, "_COLUMNS_TO_TURN", 1)
    monkeypatch.setattr(tiled, "float32_precision", lambda: precision)
    seen = []
    kernel = tiled._tiled_matmul_kernel

    class Spy:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **options: (seen.append((args[9:11], args[12:14], args[22])), kernel[grid](*args, **options))

    monkeypatch.setattr(tiled, "_tiled_matmul_kernel", Spy())
    lead = (3,) if name == "bmm" else ()
    a, b = rounded_to(torch.float32, *lead, 37, 29), rounded_to(torch.float32, *lead, 35, 29, seed=1).mT
    with flag_gems.use_gems(include=[name]):
        for _ in range(2):
            got = getattr(torch, name)(a, b)
            torch.testing.assert_close(got, (a.double() @ b.double()).float(), rtol=1e-5, atol=1e-5)
    # the strides of both operands, and which of them lie along K
    assert seen == [((1, 37), (35, 1), 0) if copied else ((29, 1), (1, 29), 3)] * 2


@pytest.mark.skipif(device.interpreted(), reason="the interpreter adds in an order of its own")
def test_long_sums_of_few_rows_are_kept_in_short_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chain of 16384 additions errs by 3e-4, chains of 64 by a seventh of it (root mean square; emulated in numpy)."""
    monkeypatch.setattr(skinny, "_ENOUGH_PROGRAMS", 1)  # no splits
    skinny._split.cache_clear()
    a, b = rounded_to(torch.float32, 15, 16384), rounded_to(torch.float32, 16384, 17, seed=1)
    served = counts_of("aten::mm").served
    with flag_gems.use_gems(include=["mm"]):
        got = torch.mm(a, b)
    assert counts_of("aten::mm").served == served + 1
    skinny._split.cache_clear()
    assert (got.double() - a.double() @ b.double()).square().mean().sqrt() < 1e-4


def _candidates(m: int, n: int, k: int, batch: int, dtype: torch.dtype = torch.bfloat16) -> list:
    sizes = dict(M=m, N=n, K=k, n_batch=batch, a_ptr=torch.empty(1, dtype=dtype), INPUT_PRECISION="ieee")
    return tiled._prune([*tiled._CONFIGS, *tiled._EXACT_CONFIGS], sizes)


def test_few_stages_are_tried_for_a_short_k_only() -> None:
    assert all(c.num_stages >= 3 for c in _candidates(512, 512, 512, 128))
    short = _candidates(512, 512, 128, 128)
    assert {1, 2} <= {c.num_stages for c in short}
    assert all(c.num_stages <= max(3, 128 // c.kwargs["BLOCK_K"] + 1) for c in short)


@pytest.mark.parametrize("k, along, alpha", [(64, False, 1.0), (128, True, -0.5)])
def test_batches_with_a_short_k_go_down_the_rows(k: int, along: bool, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "FEWEST_PROGRAMS", 6)
    m, n = 4 * short.BLOCKS[0], 2 * short.BLOCKS[1]
    a, b = rounded_to(torch.bfloat16, 3, m, k), rounded_to(torch.bfloat16, 3, *((n, k) if along else (k, n)), seed=1)
    b = b.transpose(1, 2) if along else b
    x, monitored = rounded_to(torch.bfloat16, 3, m, n, seed=2), []
    monkeypatch.setattr(short, "multiply", lambda plan, p, stock=short.multiply: (monitored.append(p), stock(plan, p)))
    with flag_gems.use_gems(include=["bmm", "baddbmm"]):
        product, total = torch.bmm(a, b), torch.baddbmm(x, a, b, beta=2.0, alpha=alpha)
    truth = a.double() @ b.double()
    assert len(monitored) == 2
    torch.testing.assert_close(product.double(), truth, rtol=2**-8, atol=1e-2)
    torch.testing.assert_close(total.double(), 2.0 * x.double() + alpha * truth, rtol=2**-8, atol=1e-2)


def test_small_exact_products_take_blocks_that_fit_them() -> None:
    """The configurations for products without tensor cores are bound by the same limits as all."""
    blocks = [(c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"]) for c in _candidates(64, 64, 64, 1, torch.float32)]
    assert blocks and max(max(b) for b in blocks) == 64
    assert not set(map(id, tiled._EXACT_CONFIGS)) & set(map(id, _candidates(4096, 4096, 4096, 1)))
