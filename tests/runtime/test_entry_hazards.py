"""What a launch cache gets wrong first: one small test per hazard."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl

from gems_runtime import LibEntry, libentry, settings
from gems_runtime import device as device_module
from gems_runtime import entry as entry_module
from gems_runtime.errors import UsageError
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)
FACTOR = tl.constexpr(3)


@libentry()
@triton.jit
def by_name(x_ptr, y_ptr, n, m, BLOCK: tl.constexpr):
    pass


@triton.jit
def with_global(x_ptr):
    tl.store(x_ptr, FACTOR)


@triton.jit
def with_builtin_names(type, len):
    pass


@pytest.fixture
def plain(fake_cuda: FakeCuda) -> LibEntry:
    """A fresh entry that has launched once with two aligned tensors, n=17, m=32, BLOCK=64."""
    entry = LibEntry(zoo.plain)
    entry[(1,)](X, X, 17, 32, BLOCK=64)
    return entry


def tiers(entry: LibEntry) -> tuple[int, int, int]:
    """Launches by the fast tier, by S, and misses."""
    counts = entry.stats()
    return counts[zoo.fast_tier()], counts["S"], counts["miss"]


def test_a_warm_call_asks_the_driver_nothing_about_pointers(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    before = fake_cuda.pointer_queries
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert fake_cuda.pointer_queries == before
    assert tiers(plain) == (1, 0, 1)


def test_new_values_of_one_class_need_no_new_entry(plain: LibEntry) -> None:
    for n in range(2, 200):
        if n % 16:
            plain[(1,)](X, X, n, 32, BLOCK=64)
    assert plain.stats()["entries"] == 1


def test_alignment_is_that_of_the_pointer_launched(plain: LibEntry) -> None:
    aligned = plain[(1,)](X, X, 17, 32, BLOCK=64)
    shifted = plain[(1,)](X, X[1:], 17, 32, BLOCK=64)
    assert plain[(1,)](X, X[1:], 17, 32, BLOCK=64) is shifted is not aligned
    assert plain[(1,)](X[1:], X, 17, 32, BLOCK=64) not in (shifted, aligned)


def test_launch_options_choose_the_kernel(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    blocks = []
    for warps in (4, 8, 4, 8):
        plain[(1,)](X, X, 17, 32, BLOCK=64, num_warps=warps)
        blocks.append(fake_cuda.last().block[0])
    assert blocks == [128, 256, 128, 256]
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert fake_cuda.last().block[0] == 128


def test_constants_are_told_apart_by_type_and_sign(plain: LibEntry) -> None:
    # Not "1" besides 1: Triton 3.7.1 gives the two one hash on disk, before any cache of ours.
    values = (1, 1.0, True, 0, 0.0, -0.0, False, None, "b", (1,), (1.0,), tl.float32, tl.float16)
    kernels = [plain[(1,)](X, X, 17, 32, BLOCK=value) for value in values]
    again = [plain[(1,)](X, X, 17, 32, BLOCK=value) for value in values]
    assert [k.hash for k in kernels] == [k.hash for k in again]
    assert len({k.hash for k in kernels}) == len(values)


@pytest.mark.parametrize("chain", ["launch_enter_hook", "launch_exit_hook"])
def test_launch_hooks_see_every_launch(plain: LibEntry, chain: str) -> None:
    seen = []
    hooks = getattr(triton.knobs.runtime, chain)
    hooks.add(hook := lambda metadata: seen.append(metadata.get()["name"]))
    try:
        plain[(1,)](X, X, 17, 32, BLOCK=64)
    finally:
        hooks.remove(hook)
    assert seen == ["plain"]
    assert tiers(plain) == (0, 1, 1)
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert tiers(plain) == (1, 1, 1)


def test_pre_run_hooks_see_every_launch(plain: LibEntry) -> None:
    seen = []
    zoo.plain.add_pre_run_hook(lambda *args, **kwargs: seen.append((len(args), kwargs["BLOCK"])))
    try:
        plain[(1,)](X, X, 17, 32, BLOCK=64)
    finally:
        zoo.plain.pre_run_hooks.clear()
    assert seen == [(4, 64)]


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("runtime", "debug", True), ("compilation", "instrumentation_mode", "none"), ("runtime", "add_stages_inspection_hook", print)],
)
def test_knobs_that_change_a_launch_leave_it_to_stock_triton(
    plain: LibEntry, monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: object
) -> None:
    served = []
    monkeypatch.setattr(zoo.plain, "run", lambda *args, **kwargs: served.append(args))
    with getattr(triton.knobs, group).scope():
        setattr(getattr(triton.knobs, group), name, value)
        plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert len(served) == 1
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert len(served) == 1


def test_a_knob_set_to_its_default_does_not_end_the_fast_tier(plain: LibEntry) -> None:
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.debug = False
        plain[(1,)](X, X, 17, 32, BLOCK=64)
        before = tiers(plain)
        plain[(1,)](X, X, 17, 32, BLOCK=64)
        assert tiers(plain) == (before[0] + 1, *before[1:])


def test_settings_turn_the_fast_tiers_off_and_on(plain: LibEntry) -> None:
    with settings.override(fast_launch=False):
        plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert tiers(plain) == (0, 1, 1)
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    plain[(1,)](X, X, 17, 32, BLOCK=64)
    assert tiers(plain)[:2] == (2, 1)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("odd", [X.as_subclass(Subclass), triton.runtime.jit.TensorWrapper(X, tl.float32), (1, 2)], ids=lambda v: type(v).__name__)
def test_odd_arguments_are_left_to_stock_triton(plain: LibEntry, odd: object) -> None:
    plain[(1,)](X, odd, 17, 32, BLOCK=64)
    plain[(1,)](X, odd, 17, 32, BLOCK=64)
    assert tiers(plain) == (0, 2, 1)


def test_a_tensor_elsewhere_is_left_to_stock_triton(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    plain[(1,)](X, torch.zeros(4, device="meta"), 17, 32, BLOCK=64)
    assert tiers(plain) == (0, 1, 1)


def test_an_integer_too_wide_raises_as_stock_triton_does(plain: LibEntry) -> None:
    for n in (2**64, -(2**63) - 1):
        with pytest.raises(OverflowError):
            plain[(1,)](X, X, n, 32, BLOCK=64)
    assert plain.stats()["entries"] == 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((X,), {"BLOCK": 1}), ((X, X, 1, 2, 3, 4), {}), ((X, X, 1, 2, 3), {"BLOCK": 3}), ((X, X, 1, 2), {"BLOCK": 3, "nope": 1})],
    ids=["missing", "too many", "twice", "unknown"],
)
def test_wrong_calls_raise_as_stock_triton_does(plain: LibEntry, args: tuple, kwargs: dict) -> None:
    with pytest.raises((TypeError, KeyError)) as expected:
        plain.fn[(1,)](*args, **kwargs)
    for entry in (plain, LibEntry(zoo.plain)):
        with pytest.raises((TypeError, KeyError)) as found:
            entry[(1,)](*args, **kwargs)
        assert found.type is expected.type


def test_a_changed_module_constant_raises(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = LibEntry(with_global)
    for _ in range(3):
        entry[(1,)](X)
    assert tiers(entry) == (2, 0, 1)
    monkeypatch.setitem(globals(), "FACTOR", tl.constexpr(4))
    with pytest.raises(RuntimeError, match="FACTOR has changed"):
        entry[(1,)](X)
    monkeypatch.undo()
    entry[(1,)](X)
    # The call that raised went through stock Triton, which made no launch to remember.
    assert tiers(entry) == (3, 0, 2)


def test_grids_of_every_form(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    forms = [(5,), [5, 2], torch.Size([5, 2, 3]), (5, 2, 3, 9), lambda meta: (meta["n"],), lambda meta: [5]]
    wanted = [(5, 1, 1), (5, 2, 1), (5, 2, 3), (5, 2, 3), (17, 1, 1), (5, 1, 1)]
    for form, want in zip(forms, wanted):
        plain[form](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.last().grid == want
    for wrong, error in (((), IndexError), (None, (AssertionError, TypeError)), (("a",), TypeError), ((2**31,), OverflowError)):
        with pytest.raises(error):
            plain[wrong](X, X, 17, 32, BLOCK=64)
        with pytest.raises(error):
            plain.fn[wrong](X, X, 17, 32, BLOCK=64)


def test_a_callable_grid_is_asked_again_when_an_input_changes(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    def launch(n: int, extra: object, grid: object) -> int:
        plain[grid](X, X, n, 32, BLOCK=64)
        return fake_cuda.last().grid[0]

    for _ in range(2):
        for n in (17, 33):
            for extra in (1, 2):
                assert launch(n, extra, lambda meta: (triton.cdiv(meta["n"], 16) + extra,)) == triton.cdiv(n, 16) + extra
    state = [1]
    for state[0] in (1, 2, 3):
        assert launch(17, 0, lambda meta: (state[0],)) == state[0]
    for rows in (X, X[:9]):
        assert launch(17, 0, lambda meta: (rows.numel(),)) == rows.numel()
        plain[lambda meta: (meta["x_ptr"].numel(),)](rows, X, 17, 32, BLOCK=64)
        assert fake_cuda.last().grid[0] == rows.numel()


def test_a_callable_grid_may_read_what_is_in_no_key(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.optional)
    entry[(1,)](X, None, 3.0)
    for scale in (3.0, 4.0, 3.0):
        entry[lambda meta: (int(meta["scale"]),)](X, None, scale)
        assert fake_cuda.last().grid[0] == scale
    assert entry.stats()[zoo.fast_tier()] == 3


def test_a_driver_error_reads_as_stock_tritons(plain: LibEntry, fake_cuda: FakeCuda) -> None:
    messages = []
    for kernel in (plain.fn, plain):
        fake_cuda.fail_next(700)
        with pytest.raises(RuntimeError) as caught:
            kernel[(1,)](X, X, 17, 32, BLOCK=64)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] == "Triton Error [CUDA]: fake driver error"
    plain[(1,)](X, X, 17, 32, BLOCK=64)


def test_the_current_stream_is_asked_at_each_launch(fake_cuda: FakeCuda) -> None:
    stream = 0
    triton.runtime.driver.active.get_current_stream = lambda device: stream
    entry = LibEntry(zoo.plain)
    entry[(1,)](X, X, 17, 32, BLOCK=64)
    for stream in (5, 9):
        entry[(1,)](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.last().stream == stream
    assert tiers(entry) == (2, 0, 1)


def test_each_device_has_its_own_kernel(fake_cuda: FakeCuda) -> None:
    device = 0
    driver = triton.runtime.driver.active
    driver.get_current_device = lambda: device
    entry = LibEntry(zoo.plain)
    kernels = []
    for device in (0, 1, 0, 1):
        kernels.append(entry[(1,)](X, X, 17, 32, BLOCK=64))
    assert kernels[0] is kernels[2] is not kernels[1] is kernels[3]


def test_where_there_is_one_device_it_is_not_asked_for(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "index_reader", lambda: None)
    entry = LibEntry(zoo.plain)
    zoo.assert_launches_as_stock(fake_cuda, entry, (2, 3), (X, X[1:], 17, 32), {"BLOCK": 64})
    assert "_current_device()" not in entry.source


def test_a_hook_may_launch_the_same_kernel(fake_cuda: FakeCuda) -> None:
    entry, depth = LibEntry(zoo.plain), []

    def hook(metadata: object) -> None:
        if not depth:
            depth.append(1)
            entry[(1,)](X, X, 33, 33, BLOCK=16)

    triton.knobs.runtime.launch_enter_hook.add(hook)
    try:
        before = fake_cuda.launch_count
        entry[(1,)](X, X, 17, 32, BLOCK=64)
        assert fake_cuda.launch_count == before + 2
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(hook)


def test_threads_share_one_table(fake_cuda: FakeCuda) -> None:
    entry, failures = LibEntry(zoo.plain), []

    def work(seed: int) -> None:
        for i in range(300):
            n, block = (1, 17, 32)[(i + seed) % 3], (16, 32)[i % 2]
            kernel = entry[(1,)](X, X, n, 32, BLOCK=block)
            if kernel.src.constants[(4,)] != block or ((2,) in kernel.src.constants) != (n == 1):
                failures.append((n, block))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert entry.stats()["entries"] == 6


def test_a_forked_child_forgets_the_parents_entries(plain: LibEntry) -> None:
    taken = plain._lock.acquire()
    child = os.fork()
    if child == 0:
        held = plain.stats()["entries"]
        os._exit(0 if held == 0 and plain._lock.acquire(blocking=False) else 1)
    plain._lock.release()
    assert taken and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert plain.stats()["entries"] == 1


def test_the_table_is_bounded(plain: LibEntry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(entry_module, "TABLE_LIMIT", 2)
    for block in (64, 16, 32, 128, 8):
        plain[(1,)](X, X, 17, 32, BLOCK=block)
    assert plain.stats()["entries"] == 2
    assert len(caplog.records) == 1
    before = tiers(plain)
    plain[(1,)](X, X, 17, 32, BLOCK=16)
    plain[(1,)](X, X, 17, 32, BLOCK=8)
    assert tiers(plain) == (before[0] + 1, before[1] + 1, before[2])


def test_no_entry_keeps_a_tensor_alive(fake_cuda: FakeCuda) -> None:
    import weakref

    entry, tensor = LibEntry(zoo.plain), torch.zeros(16)
    for _ in range(2):
        entry[lambda meta: (meta["n"],)](tensor, tensor, 17, 32, BLOCK=64)
    gone = weakref.ref(tensor)
    del tensor
    assert gone() is None


def test_a_kept_launcher_stays_right_as_the_kernel_learns(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(zoo.plain)
    first = entry[(1,)]
    first(X, X, 17, 32, BLOCK=64)
    second = entry[(1,)]
    kernel = entry[(1,)](X, X, 17, 32, BLOCK=64, num_warps=8)
    assert first(X, X, 17, 32, BLOCK=64, num_warps=8) is kernel
    assert second(X, X, 17, 32, BLOCK=64, num_warps=8) is kernel
    assert second(X, X, 17, 32, BLOCK=16).src.constants[(4,)] == 16


def test_clear_forgets_every_entry(plain: LibEntry) -> None:
    kept = plain[(1,)]
    plain.clear()
    assert plain.stats() == {"entries": 0, "N": 0, "P": 0, "R": 0, "S": 0, "miss": 0}
    kept(X, X, 17, 32, BLOCK=64)
    assert plain.stats()["miss"] == 1


def test_copies_and_pickles(plain: LibEntry) -> None:
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    assert copy.deepcopy(by_name) is by_name
    other = copy.copy(plain)
    assert other is not plain and other.fn is plain.fn and other.stats()["entries"] == 0


def test_what_libentry_shows(plain: LibEntry) -> None:
    assert LibEntry(plain).fn is zoo.plain
    assert plain.__name__ == "plain" and plain.arg_names == zoo.plain.arg_names
    assert "def launch(_grid, x_ptr=_unset, y_ptr=_unset, n=_unset, m=_unset, BLOCK=_unset, *_rest, **_more):" in repr(plain)
    assert "not launched yet" in LibEntry(zoo.plain).source
    with pytest.raises(UsageError, match="@triton.jit"):
        LibEntry(lambda x: x)


def test_warmup_compiles_without_launching(fake_cuda: FakeCuda) -> None:
    entry, before = LibEntry(zoo.plain), fake_cuda.launch_count
    entry.warmup(torch.float32, torch.float32, 17, 32, BLOCK=64, grid=(1,))
    entry.run(X, X, 17, 32, BLOCK=64, grid=(1,), warmup=True)
    assert fake_cuda.launch_count == before
    entry.run(X, X, 17, 32, BLOCK=64, grid=(1,))
    assert fake_cuda.launch_count == before + 1


def test_a_driver_that_only_compiles_is_left_to_stock_triton(fake_cuda: FakeCuda) -> None:
    triton.runtime.driver.active.compile_only = True
    entry = LibEntry(zoo.plain)
    for _ in range(2):
        entry[(1,)](X, X, 17, 32, BLOCK=64)
    assert tiers(entry) == (0, 2, 0)


def test_parameters_named_like_what_the_launch_function_uses(fake_cuda: FakeCuda) -> None:
    entry = LibEntry(with_builtin_names)
    zoo.assert_launches_as_stock(fake_cuda, entry, (2,), (X, 3), {}, tier="S")
    assert "'len'" in entry.source


INTERPRETED = """
import torch, triton, triton.language as tl
from gems_runtime import LibEntry

def never(kernel_call, quantiles):
    raise AssertionError("benchmarked on the interpreter")

@LibEntry
@triton.autotune([triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"], do_bench=never)
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def count(x_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + offset, offset + EVEN, mask=offset < n)

@LibEntry
@triton.jit
def fill(x_ptr, n, BLOCK: tl.constexpr = 64):
    tl.store(x_ptr + tl.arange(0, BLOCK), n, mask=tl.arange(0, BLOCK) < n)

x = torch.zeros(40, dtype=torch.int32)
count[lambda meta: (64 // meta["BLOCK"],)](x, 40)
assert x.tolist() == list(range(40)), x
fill[(1,)](x, n=5)
assert x.tolist()[:6] == [5, 5, 5, 5, 5, 5] and x.tolist()[6] == 6, x
assert fill.stats()["miss"] == 0 and "interpreted" in fill.source
"""


def test_interpreted_kernels_pass_straight_through(tmp_path: Path) -> None:
    script = tmp_path / "interpreted.py"
    script.write_text(INTERPRETED)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.getcwd(), "GEMS_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
