"""What a launch cache gets wrong when the world around it moves: tensors, kernels, captures, processes, other Pythons."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from launch_tiers import Tier
from torch._subclasses.fake_tensor import FakeTensorMode

from gems_runtime import LibEntry, device, native_status, target
from gems_runtime.native import loading
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)


@pytest.fixture(params=["N", "P"])
def warm(request: pytest.FixtureRequest, fake_cuda: FakeCuda) -> Tier:
    """An entry that knows two aligned tensors, n=17, m=32, BLOCK=64."""
    ours = Tier(request.param, zoo.plain)
    with ours.alone():
        for _ in range(3):
            ours.entry[(1,)](X, X, 17, 32, BLOCK=64)
        yield ours


def served(ours: Tier, *args: object, **kwargs: object) -> str:
    before = ours.entry.stats()
    ours.entry[(1,)](*args, **kwargs)
    return "".join(name for name, count in ours.entry.stats().items() if name != "entries" and count != before[name])


def test_a_tensor_that_is_given_other_memory_is_launched_with_it(warm: Tier, fake_cuda: FakeCuda) -> None:
    tensor, memory = torch.zeros(64), torch.zeros(65)
    assert served(warm, tensor, X, 17, 32, BLOCK=64) == warm.name
    kernel = warm.entry[(1,)](tensor, X, 17, 32, BLOCK=64)
    tensor.data = memory
    assert served(warm, tensor, X, 17, 32, BLOCK=64) == warm.name
    assert fake_cuda.last().params[0] == memory.data_ptr()
    # The same object, no longer aligned: a kernel compiled for aligned memory would read elsewhere.
    tensor.set_(memory[1:])
    assert warm.entry[(1,)](tensor, X, 17, 32, BLOCK=64) is not kernel
    assert fake_cuda.last().params[0] == memory[1:].data_ptr()
    tensor.resize_(0)
    warm.entry[(1,)](tensor, X, 17, 32, BLOCK=64)
    tensor.data = torch.zeros(64, dtype=torch.float16)
    assert warm.entry[(1,)](tensor, X, 17, 32, BLOCK=64).src.signature["x_ptr"] == "*fp16"


def test_a_tensor_that_lies_about_its_memory_is_stock_tritons(warm: Tier, fake_cuda: FakeCuda) -> None:
    with FakeTensorMode():
        fake = torch.empty(64)
    outcomes = []
    for kernel in (zoo.plain, warm.entry):
        before = fake_cuda.launch_count
        try:
            kernel[(1,)](fake, X, 17, 32, BLOCK=64)
            outcomes.append(fake_cuda.launch_count - before)
        except Exception as error:  # whatever stock Triton says
            outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1]
    assert warm.entry.stats()["S"] == 1


def test_requires_grad_conjugates_and_views_launch_their_address(warm: Tier, fake_cuda: FakeCuda) -> None:
    base = torch.zeros(64, requires_grad=True)
    for tensor in (base, base.detach(), base[4:], base.view(8, 8).t(), base.expand(3, 64)):
        assert served(warm, tensor, X, 17, 32, BLOCK=64) == warm.name
        assert fake_cuda.last().params[0] == tensor.data_ptr()


def test_an_entry_keeps_its_kernel_when_triton_forgets_it(warm: Tier, fake_cuda: FakeCuda) -> None:
    """From Triton 3.8 on a collected kernel unloads its module, and the driver refuses a launch of it."""
    zoo.plain.device_caches.clear()
    gc.collect()
    assert served(warm, X, X, 17, 32, BLOCK=64) == warm.name


@triton.jit
def _with_defaults(x_ptr, n=16, scale=2.5, flag=False, MODE: tl.constexpr = "a"):
    pass


@pytest.mark.parametrize("tier", ["N", "P"])
def test_what_is_sometimes_left_to_its_default_is_served_either_way(fake_cuda: FakeCuda, tier: str) -> None:
    ours = Tier(tier, _with_defaults)
    calls = [{}, {"n": 32}, {"scale": 1.5}, {"flag": True}, {"n": 48, "scale": 0.5, "flag": False}, {"MODE": "b"}]
    with ours.alone():
        for _ in range(3):
            for kwargs in calls:
                zoo.assert_launches_as_stock(fake_cuda, ours.entry, (1,), (X,), kwargs, tier=tier)
        before = ours.entry.stats()["miss"]
        for kwargs in calls:
            assert served(ours, X, **kwargs) == tier
    assert ours.entry.stats()["miss"] == before


def test_a_kernel_may_be_collected_while_kernels_are_compiled_for_a_target(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton, from 3.8 on, asks the driver that is active then to unload what another has loaded."""
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    kernel = zoo.plain[(1,)](X, X, 17, 32, BLOCK=64)
    seen = weakref.ref(kernel)
    with target.compiling_for("cuda:90"):
        zoo.plain.device_caches.clear()
        del kernel
        gc.collect()
    assert seen() is None and not ignored


def test_a_warm_call_in_a_graph_capture_does_nothing_but_launch(warm: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    """No question about the capture, no synchronisation, no memory: those would end the capture or stay in the graph."""

    def never(*args: object, **kwargs: object) -> object:
        raise AssertionError("asked for on a warm call")

    for name in ("is_capturing", "synchronize", "torch_device", "free_bytes"):
        monkeypatch.setattr(device, name, never)
    for name in ("empty", "zeros", "empty_like"):
        monkeypatch.setattr(torch, name, never)
    for grid in ((1,), lambda meta: (meta["n"],)):
        warm.entry[grid](X, X, 17, 32, BLOCK=64)
    assert warm.entry.stats()["miss"] == 1


def test_a_thread_of_its_own_launches_on_its_own_stream(warm: Tier, fake_cuda: FakeCuda) -> None:
    """The stream is asked for at each launch, in the thread that launches."""
    streams = threading.local()
    triton.runtime.driver.active.get_current_stream = lambda device: getattr(streams, "handle", 0)
    ours, seen = Tier(warm.name, zoo.plain), {}

    def work(handle: int) -> None:
        streams.handle = handle
        for _ in range(50):
            ours.entry[(1,)](X, X, 17, 32, BLOCK=64)
            seen.setdefault(handle, set()).add(fake_cuda.last().stream)

    with ours.alone():
        threads = [threading.Thread(target=work, args=(64 * i,)) for i in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {64 * i: {64 * i} for i in range(1, 9)}


def test_a_grid_may_launch_the_kernel_it_is_the_grid_of(warm: Tier, fake_cuda: FakeCuda) -> None:
    def grid(meta: dict[str, object]) -> tuple[int]:
        warm.entry[(2,)](X[1:], X, 33, 48, BLOCK=16)
        return (3,)

    for _ in range(4):
        before = fake_cuda.launch_count
        warm.entry[grid](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.launch_count == before + 2
        assert (fake_cuda.last().grid, fake_cuda.last().params[:3]) == ((3, 1, 1), (X.data_ptr(), X.data_ptr(), 17))


def test_an_error_in_a_grid_leaves_the_entry_whole(warm: Tier, fake_cuda: FakeCuda) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            warm.entry[lambda meta: (1 // 0,)](X, X, 17, 32, BLOCK=64)
    fake_cuda.fail_next(719)
    with pytest.raises(RuntimeError, match="fake driver error"):
        warm.entry[(1,)](X, X, 17, 32, BLOCK=64)
    assert served(warm, X, X, 17, 32, BLOCK=64) == warm.name


def test_a_forked_child_compiles_and_launches_for_itself(warm: Tier, fake_cuda: FakeCuda) -> None:
    """Handles of functions belong to the parent's context."""
    kept = warm.entry[(1,)]
    child = os.fork()
    if child == 0:
        before = fake_cuda.launch_count
        kept(X, X, 17, 32, BLOCK=64)
        stats = warm.entry.stats()
        os._exit(0 if fake_cuda.launch_count == before + 1 and stats["miss"] == 1 and not stats[warm.name] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert served(warm, X, X, 17, 32, BLOCK=64) == warm.name


@triton.jit
def _listed(x_ptr, n, KIND: tl.constexpr):
    pass


def test_a_constant_that_is_changed_in_place_is_not_remembered(fake_cuda: FakeCuda) -> None:
    """Lists are no constants, for stock Triton neither; a key that kept one would go stale."""
    for kernel in (_listed, LibEntry(_listed)):
        with pytest.raises(TypeError, match="unhashable"):
            kernel[(1,)](X, 3, KIND=[1])


def test_a_python_without_a_global_lock_launches_from_python(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda) -> None:
    """The native table is read and grown under the lock; without one, dicts with locks of their own serve."""
    monkeypatch.setattr(loading, "_state", None)
    monkeypatch.setattr(loading.sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else None)
    assert not native_status().serves and "global lock" in native_status().reason
    entry = LibEntry(zoo.plain)
    for _ in range(3):
        entry[(1,)](X, X, 17, 32, BLOCK=64)
    assert (entry.stats()["N"], entry.stats()["P"]) == (0, 2)
