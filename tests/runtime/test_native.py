"""The native launch tier: what it serves, what it leaves to the Python path, and where its module comes from."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from collections.abc import Iterator
from pathlib import Path

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode

from gems_runtime import LibEntry, native_status, settings
from gems_runtime.native import build, loading, selftest
from tools.fake_cuda import FakeCuda

X = torch.zeros(4096)


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    """These tests are of the native tier, so they use it whatever the environment says."""
    with settings.override(native=settings.Native.ON):
        assert native_status().serves, native_status().reason
        yield


@pytest.fixture
def plain(fake_cuda: FakeCuda) -> LibEntry:
    """A fresh entry that has launched once with two aligned tensors, n=17, m=32, BLOCK=64."""
    entry = LibEntry(zoo.plain)
    entry[(1,)](X, X, 17, 32, BLOCK=64)
    return entry


def served(entry: LibEntry, *args: object, grid: object = (1,), **kwargs: object) -> str:
    """The tier that served a call, or "miss"."""
    before = entry.stats()
    entry[grid](*args, **kwargs)
    after = entry.stats()
    return "".join(name for name in after if name != "entries" and after[name] != before[name])


def test_thousands_of_calls_put_their_own_arguments_to_the_driver(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    pick = random.Random(0)
    for _ in range(3000):
        x, y = X[pick.choice((0, 4, 1)) :], X[pick.choice((0, 8, 3)) :]
        n, m = pick.randrange(2, 2**31, pick.choice((15, 16))), pick.randrange(-(2**31), 0)
        grid = tuple(pick.randrange(1, 100) for _ in range(pick.choice((1, 2, 3))))
        plain[grid](x, y, m=m, n=n, BLOCK=64) if pick.random() < 0.5 else plain[list(grid)](x, y, n, m, 64)
        found = fake_cuda.last()
        assert found.grid == (*grid, 1, 1)[:3]
        assert found.params == (x.data_ptr(), y.data_ptr(), n, m % 2**32, 0, 0)
    assert plain.stats()["N"] >= 2950


@triton.jit
def _storing(x_ptr, BLOCK: tl.constexpr):
    # Triton plans clusters by what a kernel stores.
    tl.store(x_ptr + tl.arange(0, BLOCK), 1.0)


@pytest.mark.parametrize(
    "options",
    [{"launch_cooperative_grid": True}, {"launch_pdl": True}, {"num_ctas": 2}, {"num_ctas": 2, "launch_pdl": True, "num_warps": 8}],
    ids=lambda options: "+".join(options),
)
def test_launch_attributes(fake_cuda: FakeCuda, options: dict[str, object]) -> None:
    zoo.assert_launches_as_stock(fake_cuda, LibEntry(_storing), (2, 3), (X, 64), options, tier="N")
    assert fake_cuda.last().attributes


def test_integers_of_a_few_bits_are_not_taken_for_bytes(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.plain)
    few = torch.empty(64, dtype=torch.int4)
    for _ in range(2):
        entry[(1,)](X.view(torch.int8), X, 17, 32, BLOCK=64)
    with pytest.raises(KeyError):
        zoo.plain[(1,)](few, X, 17, 32, BLOCK=64)
    with pytest.raises(KeyError):
        entry[(1,)](few, X, 17, 32, BLOCK=64)


def test_torchs_wrappers_of_the_plain_type_are_left_to_the_python_path(plain: LibEntry) -> None:
    assert served(plain, X, X[1:], 17, 32, BLOCK=64) == "miss"
    assert served(plain, X, X[1:], 17, 32, BLOCK=64) == "N"
    for wrapper in (torch._to_functional_tensor(X), torch._efficientzerotensor((3,))):
        assert type(wrapper) is torch.Tensor
        assert "N" not in served(plain, X, wrapper, 17, 32, BLOCK=64)


def test_an_empty_tensor_has_no_address_and_is_served(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    assert served(plain, X, X[:0], 17, 32, BLOCK=64) == "N"
    assert fake_cuda.last().params[1] == 0


def test_a_lazily_copied_tensor_is_copied_before_the_kernel_writes(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    lazy = torch._lazy_clone(X)
    assert served(plain, X, lazy, 17, 32, BLOCK=64) == "N"
    assert fake_cuda.last().params[1] == lazy.data_ptr() != X.data_ptr()


def test_a_grid_whose_product_passes_int32_is_launched(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    # Triton's launcher multiplies in 32 bits, gets a number below zero and launches nothing.
    plain[(65535, 65535)](X, X, 17, 32, BLOCK=64)
    assert fake_cuda.last().grid == (65535, 65535, 1)


def test_a_half_float_that_does_not_fit_raises_as_from_python(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.annotated)
    for _ in range(2):
        entry[(1,)](X, 17, 33, 5, 0.5, 0.5)
    for served in (entry, entry._text.functions.launch):
        with pytest.raises(OverflowError, match="float too large to pack with e format"):
            served[(1,)](X, 17, 33, 5, 1e6, 0.5) if served is entry else served((1,), X, 17, 33, 5, 1e6, 0.5)
    entry[(1,)](X, 17, 33, 5, 65504.0, 0.5)
    assert fake_cuda.last().params[4] == 0x7BFF


def test_a_zero_in_the_grid_launches_nothing(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    before = fake_cuda.launch_count
    kernel = plain[(1,)](X, X, 17, 32, BLOCK=64)
    for grid in ((0,), (5, 0), (0, 0, 0), lambda meta: (0,)):
        assert plain[grid](X, X, 17, 32, BLOCK=64) is kernel
    assert fake_cuda.launch_count == before + 1


def test_grids_of_other_numbers_than_plain_ints(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    for grid in ((True, 3), torch.Size([1, 3]), lambda meta: (True, 3)):
        plain[grid](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.last().grid == (1, 3, 1)
    for answer, error in ((("a",), TypeError), ((2**31,), OverflowError), ((-(2**40),), OverflowError), ((), IndexError)):
        for kernel in (plain.fn, plain):
            with pytest.raises(error):
                kernel[lambda meta: answer](X, X, 17, 32, BLOCK=64)


def test_a_grid_is_remembered_by_what_it_reads(plain: LibEntry, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    cdiv = triton.cdiv
    monkeypatch.setattr(triton, "cdiv", lambda a, b: asked.append(a) or cdiv(a, b))

    def launch(n: int, m: int, tile: int) -> int:
        assert served(plain, X, X, n, m, BLOCK=64, grid=lambda meta: (triton.cdiv(meta["n"], tile),)) == "N"
        assert fake_cuda.last().grid == (cdiv(n, tile), 1, 1)
        return len(asked)

    assert [launch(17, 32, 4), launch(17, 48, 4), launch(17, 160, 4)] == [1, 1, 1]
    assert [launch(33, 32, 4), launch(33, 32, 8), launch(17, 32, 4), launch(33, 64, 8)] == [2, 3, 3, 3]
    for n in range(17, 3000, 16):
        launch(n, 32, 4)
    assert launch(17, 32, 4) <= len(set(asked)) + 60


def test_a_grid_may_launch_and_learn(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    """The entry in hand stays good while the call inside widens the plan."""

    def grid(meta: dict[str, object]) -> tuple[int]:
        if depth:
            depth.pop()
            plain[(1,)](X, None, 17, 32, BLOCK=64, num_warps=8)
        return (9,)

    for depth in ([], [1], [1], []):
        kernel = plain[grid](X, X, 17, 32, BLOCK=64)
        plain[grid](X, X, 17, 32, BLOCK=64)
        assert (fake_cuda.last().grid[0], fake_cuda.last().function) == (9, kernel.function)


def test_keywords_of_every_origin(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    for i in range(40):
        names = list({"x_ptr": X, "y_ptr": X[4:], "n": 17 + 16 * i, "m": 32, "BLOCK": 64}.items())
        random.Random(i).shuffle(names)
        # Not the objects that the kernel's source has.
        assert served(plain, **{"".join(list(name)): value for name, value in names}) == "N"
        assert fake_cuda.last().params[:4] == (X.data_ptr(), X[4:].data_ptr(), 17 + 16 * i, 32)


def test_a_default_and_its_value_given_are_both_served(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.optional)
    entry[(1,)](X, None)
    for kwargs in ({}, {"scale": 2.5}, {"MODE": "a"}, {"WIDE": None}):
        for _ in range(3):
            entry[(1,)](X, None, **kwargs)
        assert served(entry, X, None, **kwargs) == "N"
    assert entry.stats()["entries"] <= 2


@triton.jit
def _short(x_ptr, n: tl.int16):
    pass


def test_what_the_python_path_must_see_each_time_is_not_asked_about_each_time(
    plain: LibEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    describe = LibEntry._describe
    monkeypatch.setattr(LibEntry, "_describe", lambda self, *call: asked.append(1) or describe(self, *call))
    entry = LibEntry(_short)
    for _ in range(50):
        entry[(1,)](X, 17)
    assert entry.stats()["P"] == 49
    assert len(asked) <= 2


def test_entries_and_kernels_are_collected_with_their_libentry(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.plain)
    for _ in range(3):
        entry[(1,)](X, X, 17, 32, BLOCK=64)
    kept = entry[(1,)]
    gone = weakref.ref(entry)
    del entry, kept
    gc.collect()
    assert gone() is None


def test_the_module_is_off_where_it_is_not_wanted(fake_cuda: FakeCuda) -> None:
    with settings.override(native=settings.Native.OFF):
        assert not native_status().serves and "GEMS_NATIVE" in native_status().reason
        entry = LibEntry(zoo.plain)
        for _ in range(3):
            entry[(1,)](X, X, 17, 32, BLOCK=64)
    assert (entry.stats()["N"], entry.stats()["P"]) == (0, 2)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not asked for the module yet."""
    monkeypatch.setattr(loading, "_state", None)


@pytest.mark.usefixtures("unloaded")
def test_a_failed_self_test_is_one_warning_and_launches_from_python(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "fault_of", lambda module: "grid is wrong")
    for kernel in (zoo.plain, zoo.optional):
        entry = LibEntry(kernel)
        for _ in range(3):
            entry[(1,)](X, None, *([17, 32, 64] if kernel is zoo.plain else []))
        assert (entry.stats()["N"], entry.stats()["P"]) == (0, 2)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "grid is wrong" in native_status().reason


def test_the_self_test_sees_a_wrong_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = loading.module()
    assert selftest.fault_of(module) == ""
    monkeypatch.setattr(selftest, "_TYPES", ("*fp32", "*fp32", "i64", "i64", "fp64", "u1"))
    assert "the driver is told" in selftest.fault_of(module)


@pytest.mark.usefixtures("unloaded")
def test_the_self_test_uses_plain_tensors_whatever_the_caller_has_switched_on() -> None:
    """An override that launches a kernel would wait for ever for the module that is being loaded."""
    overridden = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
            overridden.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        assert native_status().serves
    assert overridden == []


@pytest.mark.usefixtures("unloaded")
def test_without_a_compiler_the_reason_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with settings.override(native=settings.Native.JIT, cache_dir=tmp_path):
        assert not native_status().serves
        assert "no C compiler" in native_status().reason


@pytest.mark.usefixtures("unloaded")
def test_the_module_is_built_once_into_the_cache(tmp_path: Path) -> None:
    with settings.override(native=settings.Native.JIT, cache_dir=tmp_path):
        assert native_status().serves
        assert str(tmp_path) in native_status().reason
    built = list((tmp_path / "native").iterdir())
    assert len(built) == 1
    assert build.built(build.LAUNCH, tmp_path / "native") == built[0]
