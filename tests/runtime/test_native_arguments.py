"""Arguments and launches beyond pointers and scalars: tensor descriptors, hooks of configs, wide clusters, scratch memory."""

from __future__ import annotations

import copy

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime._allocation import NullAllocator
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import LibEntry
from tools.fake_cuda import FakeCuda

X = torch.zeros(64, 64)
Y = torch.zeros(128, 128)


@triton.jit
def _moved(a, b, n, M: tl.constexpr, N: tl.constexpr):
    # Only a descriptor that is used becomes a tensor map.
    b.store([0, n], a.load([n, 0]))


def described(tensor: torch.Tensor, block: tuple[int, ...] = (16, 32), **kwargs: object) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, list(block), **kwargs)


@pytest.fixture
def moved(fake_cuda: FakeCuda) -> LibEntry:
    return LibEntry(_moved)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (X, Y),
        (X[:, :32], X[8:]),
        (X.half(), Y.half()),
        (X.to(torch.int8), Y.to(torch.int8)),
        (X.to(torch.uint8), Y.to(torch.uint8)),
        (X.view(torch.float8_e4m3fn), Y.view(torch.float8_e4m3fn)),
    ],
)
def test_descriptors_become_the_maps_that_stock_triton_makes(fake_cuda: FakeCuda, moved: LibEntry, a: torch.Tensor, b: torch.Tensor) -> None:
    zoo.assert_launches_as_stock(fake_cuda, moved, (2, 3), (described(a), described(b), 7), {"M": 16, "N": 32})
    assert sum(type(p) is bytes for p in fake_cuda.last().params) == 2


def test_a_map_is_made_once_for_what_it_depends_on(fake_cuda: FakeCuda, moved: LibEntry) -> None:
    def maps_made(a: TensorDescriptor, b: TensorDescriptor) -> int:
        moved.fn[(1,)](a, b, 7, 16, 32)
        expected, before = fake_cuda.last(), fake_cuda.map_count
        moved[(1,)](a, b, 7, 16, 32)
        assert fake_cuda.last().params == expected.params
        return fake_cuda.map_count - before

    moved[(1,)](described(X), described(Y), 7, 16, 32)
    rounding = [] if "round_f32_to_tf32" not in TensorDescriptor.__dataclass_fields__ else [described(X, round_f32_to_tf32=True)]
    others = [described(X[4:]), described(X[:, 4:]), described(X[:9]), described(X, padding="nan"), *rounding]
    others += [TensorDescriptor(X, [32, 64], [128, 1], [16, 32]), TensorDescriptor(X, (32, 64), torch.Size((128, 1)), [16, 32])]
    moved[(1,)](described(X), described(Y), 7, 16, 32)
    if zoo.fast_tier() == "N":
        made = [maps_made(other, described(Y)) for other in others]
        # The last two say the same.
        assert made == [1] * (len(others) - 1) + [0]
        assert [maps_made(other, described(Y)) for other in others] == [0] * len(others)
        made = [[maps_made(described(X[row:row + 9]), described(Y)) for row in range(1, 55)] for _ in range(2)]
        assert made == [[1] * 54, [0] * 54]
    assert moved.stats()["entries"] == 1


def test_the_same_descriptor_is_read_at_each_launch(fake_cuda: FakeCuda, moved: LibEntry) -> None:
    a, b = described(X), described(Y)
    for _ in range(3):
        moved[(1,)](a, b, 7, 16, 32)
    a.base, a.shape, a.strides = Y[2:], [5, 128], [128, 1]
    zoo.assert_launches_as_stock(fake_cuda, moved, (1,), (a, b, 7, 16, 32), {})
    a.block_shape = [32, 32]
    b.block_shape = [32, 32]
    zoo.assert_launches_as_stock(fake_cuda, moved, (1,), (a, b, 7, 32, 32), {})


def test_type_and_block_choose_the_kernel(moved: LibEntry) -> None:
    kernels = [moved[(1,)](described(x, block), described(x, block), 7, *block) for x in (X, X.half(), X.int()) for block in ((16, 32), (32, 32))]
    assert len({k.hash for k in kernels}) == 6
    assert moved.stats()["entries"] == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda d: setattr(d, "base", d.base.as_subclass(type("Subclass", (torch.Tensor,), {}))),
        lambda d: setattr(d, "strides", [d.strides[0]]),
        lambda d: setattr(d, "padding", "other"),
        lambda d: setattr(d, "shape", [64.0, 64]),
    ],
    ids=["subclass", "rank", "padding", "shape"],
)
def test_an_odd_descriptor_is_launched_or_refused_as_by_stock_triton(fake_cuda: FakeCuda, moved: LibEntry, change: object) -> None:
    for _ in range(2):
        moved[(1,)](described(X), described(Y), 7, 16, 32)
    odd = described(X)
    change(odd)
    outcomes = []
    for kernel in (moved.fn, moved, moved):
        try:
            kernel[(1,)](odd, described(Y), 7, 16, 32)
            outcomes.append(fake_cuda.last().params)
        except Exception as error:  # whatever stock Triton makes of it
            outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_descriptor_in_place_of_a_tensor_and_back(fake_cuda: FakeCuda, moved: LibEntry) -> None:
    @triton.jit
    def either(a, M: tl.constexpr, MAPPED: tl.constexpr):
        if MAPPED:
            a.store([0, 0], tl.zeros((M, M), tl.float32))
        else:
            tl.store(a, 1.0)

    entry = LibEntry(either)
    for _ in range(3):
        for args in ((described(X, (16, 16)), 16, True), (X, 16, False)):
            zoo.assert_launches_as_stock(fake_cuda, entry, (1,), args, {})


def _fit(named: dict[str, object]) -> None:
    for name in ("a", "b"):
        named[name].block_shape = [named["M"], named["N"]]


def test_descriptors_fitted_by_the_hook_of_a_config(fake_cuda: FakeCuda) -> None:
    configs = [triton.Config({"M": 16, "N": n}, pre_hook=_fit) for n in (32, 64)]
    entry = LibEntry(triton.autotune(configs=configs, key=["n"], do_bench=zoo.first_config)(_moved))
    before = fake_cuda.launch_count
    for _ in range(3):
        for n in (7, 9):
            # A caller that makes its descriptors anew for each call, with no block in mind yet.
            a, b = described(X, (1, 4)), described(Y, (1, 4))
            found = entry[(1,)](a, b, n)
            launch = fake_cuda.last()
            assert a.block_shape == [16, found.src.constants[(4,)]]
            assert entry.fn[(1,)](described(X, (1, 4)), described(Y, (1, 4)), n).hash == found.hash
            assert launch.params == fake_cuda.last().params
    assert entry.stats()[zoo.fast_tier()] == 4 and entry.stats()["miss"] == 2
    assert fake_cuda.launch_count > before


def test_a_hook_that_fits_descriptors_otherwise_leads_to_another_kernel(fake_cuda: FakeCuda) -> None:
    blocks = [16, 32]

    def fit(named: dict[str, object]) -> None:
        named["a"].block_shape = named["b"].block_shape = list(blocks)

    entry = LibEntry(triton.autotune(configs=[triton.Config({"M": 16, "N": 32}, pre_hook=fit)], key=[])(_moved))
    seen = set()
    for _ in range(3):
        for blocks[1] in (32, 64):
            kernel = entry[(1,)](described(X, (1, 4)), described(Y, (1, 4)), 7)
            assert f"[16, {blocks[1]}]" in kernel.src.signature["a"]
            seen.add(kernel.hash)
    assert len(seen) == 2


def test_a_hook_that_fails_fails_the_launch(fake_cuda: FakeCuda) -> None:
    fail = []

    def hook(named: dict[str, object]) -> None:
        if fail:
            raise ZeroDivisionError

    entry = LibEntry(triton.autotune(configs=[triton.Config({"BLOCK": 16}, pre_hook=hook)], key=[])(zoo.plain))
    for _ in range(3):
        entry[(1,)](X, Y, 17, 33)
    fail.append(1)
    before = fake_cuda.launch_count
    with pytest.raises(ZeroDivisionError):
        entry[(1,)](X, Y, 17, 33)
    assert fake_cuda.launch_count == before


def test_a_heuristic_that_reads_a_tensor_and_fails_raises_its_own_error(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(triton.heuristics({"BLOCK": lambda args: 64 // args["x_ptr"].shape[0]})(zoo.plain))
    for _ in range(2):
        for rows in (64, 32):
            assert entry[(1,)](X[:rows], Y, 17, 33).src.constants[(4,)] == 64 // rows
    with pytest.raises(ZeroDivisionError):
        entry[(1,)](X[:0], Y, 17, 33)
    assert entry.stats()[zoo.fast_tier()] == 2


@triton.jit
def _storing(x_ptr, BLOCK: tl.constexpr):
    # Triton plans clusters by what a kernel stores.
    tl.store(x_ptr + tl.arange(0, BLOCK), 1.0)


def test_a_cluster_of_sixteen(fake_cuda: FakeCuda) -> None:
    zoo.assert_launches_as_stock(fake_cuda, LibEntry(_storing), (2, 3), (X, 1024), {"num_ctas": 16})
    assert fake_cuda.last().grid == (32, 3, 1)


@triton.jit
def _with_scratch(x_ptr, n, M: tl.constexpr):
    made = tl.make_tensor_descriptor(x_ptr, [n, n], [n, 1], [M, M])
    made.store([0, 0], tl.zeros((M, M), tl.float32))


def test_a_kernel_that_needs_scratch_memory_takes_tier_r(fake_cuda: FakeCuda) -> None:
    sizes = []

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        sizes.append((size, alignment, stream))
        return torch.zeros(size, dtype=torch.int8)

    entry = LibEntry(_with_scratch)
    triton.set_allocator(allocate)
    try:
        for _ in range(3):
            entry[(2, 3)](X, 64, 16)
    finally:
        triton.set_allocator(NullAllocator())
    assert entry.stats()["R"] == 2 and len(set(sizes)) == 1 and len(sizes) == 3


def test_a_copied_descriptor_serves_as_the_original(fake_cuda: FakeCuda, moved: LibEntry) -> None:
    a = described(X)
    for descriptor in (a, copy.copy(a), a):
        moved[(1,)](descriptor, descriptor, 7, 16, 32)
    assert moved.stats()[zoo.fast_tier()] == 2
