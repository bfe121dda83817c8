"""`@libtuner`: strategies, policies, how long candidates are timed, and near-shape transfer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from void_device import KERNEL, bench, device_with, load

from gems_runtime import LibTuner, libtuner, policy, settings, stats, store, strategy, transfer
from gems_runtime.bench import Timing
from gems_runtime.errors import StoreMiss, UsageError
from gems_runtime.policy import POLICIES
from gems_runtime.records import Measurement
from gems_runtime.settings import Mode
from gems_runtime.strategy import STRATEGIES

pytestmark = pytest.mark.usefixtures("void")
GRID = (8,)


@pytest.fixture
def void(triton_cache: None) -> Iterator[None]:
    bench.reset()
    stats.reset()
    with device_with():
        yield


def kernel_with(folder: Path, options: str, source: str = KERNEL) -> LibTuner:
    source = source.replace("@triton.autotune", "@libtuner").replace("do_bench=bench", f"do_bench=bench, {options}")
    return load(folder, "from gems_runtime import libtuner\n" + source).kernel


def benchmarks(kernel: LibTuner, n: int) -> int:
    bench.reset()
    x, y = torch.zeros(1024), torch.zeros(1024)
    kernel[GRID](x, y, n)
    return bench.count


def chosen(kernel: LibTuner, n: int, *times: float) -> int:
    """The block that a call of this size gets; `times` in the order in which the candidates are timed."""
    bench.reset(*times)
    kernel[GRID](torch.zeros(1024), torch.zeros(1024), n)
    return kernel.best_config.kwargs["BLOCK"]


def test_the_parameters_are_upstreams() -> None:
    names = list(inspect.signature(libtuner).parameters)
    expected = "configs key prune_configs_by reset_to_zero restore_value pre_hook post_hook warmup rep use_cuda_graph do_bench"
    assert names[:13] == [*expected.split(), "strategy", "policy"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("'exact'", 3), ("'default'", 3), ("None", 3), ("'log'", 0), ("'align32'", 3), ("['log']", 0), ("{'n': lambda n: n // 4096}", 0)],
)
def test_a_strategy_decides_which_sizes_share(tmp_path: Path, strategy: str, expected: int) -> None:
    kernel = kernel_with(tmp_path, f"strategy={strategy}")
    assert benchmarks(kernel, 1008) == 3
    assert benchmarks(kernel, 976) == expected


def test_strategies_that_do_not_fit_the_keys_are_refused() -> None:
    for choice in (["log", "log"], {"m": "log"}, "nearest"):
        with pytest.raises(UsageError):
            strategy.by_key(["n"], choice)


def test_strategies_and_policies_can_be_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gems_runtime.strategy.STRATEGIES", dict(STRATEGIES))
    monkeypatch.setattr("gems_runtime.policy.POLICIES", dict(POLICIES))
    LibTuner.register_strategy("thousands")(lambda n: n // 1000)

    @LibTuner.register_policy("last")
    def last(race: policy.Race) -> None:
        race.time(race.untimed()[-1])

    kernel = kernel_with(tmp_path, "strategy='thousands', policy='last'")
    assert chosen(kernel, 1001, 5.0) == 256 and bench.count == 1
    assert benchmarks(kernel, 1777) == 0 and benchmarks(kernel, 2001) == 1
    assert LibTuner.get_policy("last") is last and LibTuner.get_strategy("thousands")(1999) == 1


def test_an_unknown_policy_is_refused_when_the_kernel_is_decorated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown policy 'fastest'; known: default, screen-then-pair, exhaustive"):
        kernel_with(tmp_path, "policy='fastest'")


class Race:
    """A race whose times are given: what a policy asks for is noted."""

    def __init__(self, *times: float, timed: tuple[int, ...] = ()) -> None:
        self.times, self.timed, self.asked = times, list(timed), []

    def untimed(self) -> list[int]:
        return [i for i in range(len(self.times)) if i not in self.timed]

    def time(self, place: int, budget_ms: float | None = None) -> None:
        self.asked.append((place, budget_ms))
        self.timed.append(place)

    def timings(self) -> dict[int, Timing]:
        return {i: Timing(self.times[i], 0, 0, 1) for i in self.timed}

    def compare(self, places: list[int]) -> None:
        self.asked.append(places)


def test_the_default_policy_screens_all_and_pairs_the_close_ones() -> None:
    race = Race(10.0, 30.0, 9.5, 10.5, timed=(3,))
    policy.known("default")(race)
    assert race.asked == [(0, None), (1, None), (2, None), [2, 0]]


def test_the_exhaustive_policy_looks_long_at_every_candidate() -> None:
    race = Race(10.0, 30.0, 9.5)
    policy.known("exhaustive")(race)
    assert race.asked == [(0, 100.0), (1, 100.0), (2, 100.0)]


def test_a_killed_run_resumes_where_it_was(tmp_path: Path) -> None:
    """The second benchmark ends the process, so to speak; what was timed before it is on disk."""
    bench.times = iter([1.0])
    kernel = kernel_with(tmp_path, "strategy='exact'")
    with pytest.raises(StopIteration):
        kernel[GRID](torch.zeros(1024), torch.zeros(1024), 1024)
    assert len([r for r in store.open(settings.current().cache_dir).records() if isinstance(r, Measurement)]) == 1
    assert benchmarks(kernel, 1024) == 2


def test_times_of_another_policy_or_budget_are_not_comparable(tmp_path: Path) -> None:
    for options in ("policy='default'", "policy='exhaustive'", "warmup=1", "rep=50"):
        assert benchmarks(kernel_with(tmp_path, options), 1024) == 3
    assert benchmarks(kernel_with(tmp_path, "policy='screen-then-pair'"), 1024) == 0


FAR = 1.0, 3.0, 3.0


def tuned_at(kernel: LibTuner, *sizes: tuple[int, tuple[float, float, float]]) -> None:
    for n, times in sizes:
        chosen(kernel, n, *times)


def frozen(kernel: LibTuner, n: int) -> tuple[int, int]:
    """The block that a call gets in frozen mode, and how many were transferred."""
    before = stats.snapshot()["transfer"]
    with settings.override(tune=Mode.FROZEN):
        block = chosen(kernel, n)
    assert bench.count == 0
    return block, stats.snapshot()["transfer"] - before


AGREE, THIRD, SECOND_BUT_CLOSE = (3.0, 1.0, 2.0), (3.0, 2.0, 1.0), (1.03, 1.0, 2.0)


@pytest.mark.parametrize(
    ("rule", "below", "above", "expected"),
    [
        ("{'n': 'up'}", (1024, AGREE), (2048, AGREE), (128, 1)),
        ("None", (1024, AGREE), (2048, AGREE), (64, 0)),
        ("{'n': 'up'}", (1024, AGREE), (2048, THIRD), (256, 1)),  # 256 clearly beats the default at 1024 too
        ("{'n': 'up'}", (1024, (2.0, 1.0, 2.01)), (2048, THIRD), (64, 0)),  # not here
        ("{'n': 'up'}", (1024, THIRD), (2048, SECOND_BUT_CLOSE), (64, 0)),
        ("{'n': 'up'}", (1024, AGREE), (8192, AGREE), (64, 0)),  # more than an octave away
        ("{'n': 'either'}", (1520, AGREE), (2048, THIRD), (128, 1)),  # the nearer
        ("{'n': 'either'}", (1024, AGREE), (1600, THIRD), (256, 1)),
    ],
)
def test_a_neighbour_serves_where_both_sides_say_it_is_safe(
    tmp_path: Path, rule: str, below: tuple, above: tuple, expected: tuple[int, int]
) -> None:
    kernel = kernel_with(tmp_path, f"transfer={rule}")
    tuned_at(kernel, below, above)
    assert frozen(kernel, 1536) == expected


def test_one_neighbour_alone_is_not_believed(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, "transfer={'n': 'up'}")
    tuned_at(kernel, (2048, AGREE))
    assert frozen(kernel, 1536) == (64, 0)


def test_what_differs_in_more_than_the_size_does_not_serve(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, "transfer={'n': 'up'}")
    tuned_at(kernel, (1024, AGREE), (2048, AGREE))
    with settings.override(tune=Mode.FROZEN):
        kernel[GRID](torch.zeros(1024).half(), torch.zeros(1024), 1536)
    assert kernel.best_config.kwargs["BLOCK"] == 64


def test_the_kernel_may_veto_a_configuration(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, "transfer={'n': 'up'}, valid=lambda config, args: args['n'] % config.kwargs['BLOCK'] == 0")
    tuned_at(kernel, (1024, AGREE), (2048, AGREE))
    assert frozen(kernel, 1536) == (128, 1)
    assert frozen(kernel, 1537) == (64, 0)


def test_rules_that_do_not_fit_are_refused() -> None:
    for choice in ({"m": "up"}, {"n": "sideways"}):
        with pytest.raises(UsageError):
            transfer.by_key(["n"], choice)


def test_strict_still_raises(tmp_path: Path) -> None:
    kernel = kernel_with(tmp_path, "transfer={'n': 'up'}")
    tuned_at(kernel, (1024, AGREE), (2048, AGREE))
    with settings.override(tune=Mode.STRICT), pytest.raises(StoreMiss):
        chosen(kernel, 1536)
