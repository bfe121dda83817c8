"""LibEntry over autotuners and heuristics: one key, tuning by ours, and the callbacks stock Triton promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl

from gems_runtime import LibEntry, device, libtuner, settings, stats
from gems_runtime.target import compiling_for
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)


@pytest.fixture(autouse=True)
def _recording(fake_cuda: FakeCuda, tmp_path: Path) -> Iterator[None]:
    """Each test has a store of its own, and no launch of another kernel is copied."""
    with settings.override(cache_dir=tmp_path, store=False):
        yield


@pytest.fixture
def tuned() -> LibEntry:
    entry = LibEntry(zoo.tuned)
    entry.clear()
    return entry


@triton.jit
def _shaped(x_ptr, n, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    pass


def autotuned(configs: list[triton.Config], **options: object) -> LibEntry:
    """An entry over a fresh autotuner of a two-argument kernel."""
    tuner = triton.autotune(configs=configs, key=["n"], do_bench=zoo.first_config, **options)
    return LibEntry(tuner(triton.heuristics({"ROWS": lambda args: 4})(_shaped)))


def test_one_benchmark_per_tuning_key(tuned: LibEntry) -> None:
    before = zoo.first_config.calls
    for _ in range(3):
        for m in (100, 128):
            tuned[(1,)](X, X, 64, m, 1)
    assert zoo.first_config.calls == before + 2  # two configs, one key
    assert tuned.stats()["miss"] == 2
    tuned[(1,)](X, X, 65, 100, 1)
    assert zoo.first_config.calls == before + 4
    assert tuned.best_config.kwargs == {"BLOCK": 64}


def test_a_second_entry_over_the_same_autotuner_tunes_nothing(tuned: LibEntry) -> None:
    tuned[(1,)](X, X, 64, 100, 1)
    before = zoo.first_config.calls
    LibEntry(zoo.tuned)[(1,)](X, X, 64, 100, 1)
    assert zoo.first_config.calls == before


def test_the_tuner_chooses_also_for_calls_left_to_stock_triton(tuned: LibEntry) -> None:
    with settings.override(fast_launch=False, tune=settings.Mode.FROZEN):
        before = zoo.first_config.calls
        tuned[(1,)](X, X, 64, 100, 1)
    assert zoo.first_config.calls == before
    assert tuned.stats()["S"] == 1


def test_a_miss_during_graph_capture_benchmarks_nothing_and_keeps_nothing(
    tuned: LibEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A size that no other test tunes: the tuner remembers measurements for the life of the process.
    before = zoo.first_config.calls
    with monkeypatch.context() as patch:
        patch.setattr(device, "is_capturing", lambda: True)
        kernel = tuned[(1,)](X, X, 4711, 100, 1)
    assert zoo.first_config.calls == before
    assert kernel.src.constants[(5,)] == zoo.configs()[0].kwargs["BLOCK"]
    assert tuned.stats()["entries"] == 0
    tuned[(1,)](X, X, 4711, 100, 1)
    assert zoo.first_config.calls == before + 2


def test_a_libtuner_launches_on_the_fast_tier(fake_cuda: FakeCuda) -> None:
    configs = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})]
    entry = LibEntry(libtuner(configs, ["n"], strategy="log", do_bench=zoo.first_config)(triton.heuristics({"ROWS": lambda args: 4})(_shaped)))
    before = zoo.first_config.calls
    for n in (64, 64, 50):
        zoo.assert_launches_as_stock(fake_cuda, entry, (1,), (X, n), {})
    assert zoo.first_config.calls == before + 4  # 64 and 50 are told apart without a store


def test_heuristics_see_values_they_read_and_others_do_not_matter(tuned: LibEntry) -> None:
    kernels = {m: tuned[(1,)](X, X, 64, m, 3) for m in (64, 96, 128)}
    assert {m: k.src.constants[(6,)] for m, k in kernels.items()} == {64: True, 96: False, 128: True}
    entries = tuned.stats()["entries"]
    for stride in range(17, 31):
        tuned[(1,)](X, X, 64, 64, stride)
    assert tuned.stats()["entries"] == entries


def test_a_heuristic_that_reads_a_tensor_is_asked_each_time() -> None:
    entry = LibEntry(triton.heuristics({"ROWS": lambda args: args["x_ptr"].shape[0]})(_shaped))
    for _ in range(2):
        for rows in (8, 4, 8):
            assert entry[(1,)](X[:rows], 17, BLOCK=16).src.constants[(3,)] == rows
    assert entry.stats()[zoo.fast_tier()] == 4


def test_a_heuristic_that_looks_at_everything_is_left_to_stock_triton() -> None:
    entry = LibEntry(triton.heuristics({"ROWS": lambda args: len(args)})(_shaped))
    for _ in range(2):
        entry[(1,)](X, 17, BLOCK=16)
    assert (entry.stats()[zoo.fast_tier()], entry.stats()["S"]) == (0, 1)
    assert "heuristic for ROWS" in entry.source


def test_heuristics_above_an_autotuner() -> None:
    tuner = triton.autotune(configs=[triton.Config({"BLOCK": b}) for b in (16, 32)], key=["n"], do_bench=zoo.first_config)
    entry = LibEntry(triton.heuristics({"ROWS": lambda args: args["n"] // 2})(tuner(_shaped)))
    for _ in range(2):
        for n in (18, 34):
            kernel = entry[lambda meta: (meta["ROWS"] + meta["BLOCK"],)](X, n)
            assert (kernel.src.constants[(2,)], kernel.src.constants[(3,)]) == (16, n // 2)
    assert entry.stats()[zoo.fast_tier()] == 2


def test_a_configs_pre_hook_runs_before_each_launch() -> None:
    seen = []
    hooked = triton.Config({"BLOCK": 16}, num_warps=8, pre_hook=lambda named: seen.append(named))
    entry = autotuned([hooked])
    for _ in range(3):
        entry[(1,)](X, 17)
    assert entry.stats()[zoo.fast_tier()] == 2
    assert len(seen) == 3
    for name in ("x_ptr", "n", "BLOCK", "num_warps"):
        assert [named[name] for named in seen] == [seen[0][name]] * 3


def test_pruning_sees_the_call_as_it_was_made() -> None:
    calls = []

    def prune(configs: list, named: dict, **kwargs: object) -> list:
        calls.append((sorted(named), sorted(kwargs)))
        return configs[:1]

    entry = autotuned([triton.Config({"BLOCK": b}) for b in (16, 32)], prune_configs_by={"early_config_prune": prune})
    entry[(1,)](X, 17)
    entry[(1,)](X, n=33)
    entry[(1,)](X, n=33)
    assert calls[0][0] == ["n", "x_ptr"] and calls[-1][0] == ["x_ptr"]
    assert "n" in calls[-1][1]
    assert entry.stats()[zoo.fast_tier()] == 1


def test_best_config_follows_the_last_launch() -> None:
    entry = autotuned([triton.Config({"BLOCK": b}) for b in (16, 32)])
    assert entry.best_config is None
    entry[(1,)](X, 17)
    entry[(1,)](X, 33)
    first = entry.fn.cache
    key = next(k for k in first if k[0] == 33)
    first[key] = entry.fn.configs[1]
    entry._reset(entry._lock)
    for n, block in ((17, 16), (33, 32), (17, 16), (33, 32)):
        entry[(1,)](X, n)
        assert entry.best_config.kwargs == {"BLOCK": block}
    assert entry.stats()[zoo.fast_tier()] == 2


def test_a_supplied_constant_given_by_the_caller_raises_as_stock_triton_does(tuned: LibEntry) -> None:
    tuned[(1,)](X, X, 64, 100, 1)
    for entry in (tuned, LibEntry(zoo.tuned)):
        with pytest.raises(TypeError, match="BLOCK"):
            entry[(1,)](X, X, 64, 100, 1, BLOCK=16)


def test_compilations_and_misses_are_counted() -> None:
    stats.reset()
    entry = LibEntry(_shaped)
    for _ in range(3):
        entry[(1,)](X, 17, BLOCK=2048, ROWS=1)
    counted = stats.snapshot()
    assert (counted["compile"], counted["miss"], counted["stock"]) == (1, 1, 0)
    _shaped.device_caches.clear()
    entry.clear()
    entry[(1,)](X, 17, BLOCK=2048, ROWS=1)
    assert stats.snapshot()["load"] == 1


def test_a_config_chosen_for_one_target_is_not_taken_for_another() -> None:
    """A tile that fits one device's shared memory need not fit the next one's."""
    chosen = []

    def fitting(configs: list[triton.Config], named: dict[str, object], **kwargs: object) -> list[triton.Config]:
        return configs[::-1] if device.identity().arch.startswith("hip") else configs

    configs = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})]
    entry = autotuned(configs, prune_configs_by={"early_config_prune": fitting})
    for target in ("cuda:90", "hip:gfx942"):
        with compiling_for(target):
            x = torch.empty(1024, device="meta")
            entry[(16,)](x, 1024)
            chosen.append(entry.best_config.kwargs["BLOCK"])
    assert chosen == [64, 128]
