"""Our own timer, with a clock in place of CUDA events: what is timed, how often, and which contender wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from void_device import KERNEL, device_with, load

from gems_runtime import bench, device, stats, store, tuner
from gems_runtime.bench import ColdTimer, Launch
from gems_runtime.records import Decision


class Clock:
    """Time in milliseconds that passes only when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.at = clock, -1.0

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, triton_cache: None) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(device, "timing_event", clock.event)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(bench, "_FLUSH_BYTES", 64)
    with device_with():
        yield clock


def advance(clock: Clock, ms: float):  # noqa: ANN201 - a step of a launch
    def step() -> None:
        clock.now += ms

    return step


def test_only_the_launch_is_timed(clock: Clock) -> None:
    launch = Launch(advance(clock, 0.05), before=advance(clock, 7.0), after=advance(clock, 9.0))
    timing = ColdTimer()(launch)
    assert (timing.p50_us, timing.p20_us, timing.p80_us) == pytest.approx((50.0, 50.0, 50.0))
    assert timing.n in (20, 21)  # one, then 3 ms at 150 us with the flush, rounded down


def test_a_slow_kernel_is_timed_three_times(clock: Clock) -> None:
    assert ColdTimer()(Launch(advance(clock, 500.0))).n == 3


def test_percentiles() -> None:
    timing = bench.summary([float(n) for n in range(100, 0, -1)])
    assert (timing.p50_us, timing.p20_us, timing.p80_us, timing.n) == (51.0, 21.0, 81.0, 100)
    assert bench.summary([5.0]).p80_us == 5.0


def test_contenders_are_timed_in_turn(clock: Clock) -> None:
    order: list[str] = []

    def contender(name: str, ms: float) -> Launch:
        return Launch(lambda: (order.append(name), advance(clock, ms)()))

    fast, slow = ColdTimer().compare([contender("a", 1.0), contender("b", 2.0)])
    assert (fast.p50_us, slow.p50_us) == pytest.approx((1000.0, 2000.0))
    assert order[:8] == ["a", "a", "b", "b"] * 2 and fast.n == slow.n >= 10


def test_a_users_benchmark_may_answer_one_number_or_three() -> None:
    launch = Launch(lambda: None)
    for answer, expected in [(0.5, (500, 500, 500)), ([1, 2, 3], (1000, 2000, 3000)), ((4.0,), (4000, 4000, 4000))]:
        timing = bench.from_user(lambda run, quantiles: answer, launch)  # noqa: B023 - called at once
        assert (timing.p50_us, timing.p20_us, timing.p80_us) == expected


def test_close_contenders_are_looked_at_twice_and_the_second_look_decides(clock: Clock, tmp_path: Path) -> None:
    looks = {64: 0, 128: 0, 256: 0}

    def effect(x: torch.Tensor, y: torch.Tensor, n: int, block: int) -> None:
        looks[block] += 1
        early = looks[block] < 15  # the first look flatters 128
        clock.now += {64: 0.100, 128: 0.095 if early else 0.108, 256: 0.300}[block]

    stats.reset()
    with device_with(effect):
        source = KERNEL.replace("    do_bench=bench,\n", "")
        config = tuner.prime(load(tmp_path, source).kernel, (torch.zeros(8), torch.zeros(8), 8), {}, (1,))
    assert config.kwargs == {"BLOCK": 64}
    assert looks[256] < looks[64]
    assert stats.snapshot()["benchmark"] == 3
    (decision,) = (r for r in store.current().records() if isinstance(r, Decision))
    assert [row[0]["kwargs"]["BLOCK"] for row in decision.top] == [64, 128, 256]
    assert decision.top[0][1] == pytest.approx(100.0)
