"""The only timing code: GPU time of one launch, from CUDA events, alone with a cold L2 or in a replayed graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gems_runtime import device

_SCREEN_MS = 3.0
_FLUSH_BYTES = 256 << 20
_FLUSH_US = 100.0


@dataclass(frozen=True)
class Timing:
    """Median and the 20th and 80th percentile of one launch, in microseconds, over n launches."""

    p50_us: float
    p20_us: float
    p80_us: float
    n: int


@dataclass(frozen=True)
class Launch:
    """One kernel launch to time. `before` and `after` (restoring arguments) are run each time and not timed."""

    run: Callable[[], None]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        """All three, for a benchmark function of the user's own."""
        self.before()
        self.run()
        self.after()


class Timer:
    """Times launches on the current CUDA device."""

    # Names everything that changes a number; part of every tuning key.
    protocol = ""

    def __init__(self, budget_ms: float | None = None, warmup_ms: float | None = None) -> None:
        self._budget_ms = _SCREEN_MS if budget_ms is None else budget_ms
        self._warmup_ms = warmup_ms or 0.0

    def __call__(self, launch: Launch, budget_ms: float | None = None) -> Timing:
        """A look that takes about `budget_ms`, and at least three samples."""
        launch()  # loads the module
        first = self.samples(launch, 1)[0]
        spent = self.cost_us(launch, first)
        while spent < self._warmup_ms * 1000:
            first = self.samples(launch, 1)[0]
            spent += self.cost_us(launch, first)
        n = int((budget_ms or self._budget_ms) * 1000 / self.cost_us(launch, first))
        return summary([first, *self.samples(launch, max(2, min(1000, n)))])

    def samples(self, launch: Launch, n: int) -> list[float]:
        """The time of a launch in microseconds, n times."""
        raise NotImplementedError

    def cost_us(self, launch: Launch, sample_us: float) -> float:
        """How long it took to take such a sample."""
        raise NotImplementedError

    def compare(self, launches: list[Launch], budget_ms: float = 40.0) -> list[Timing]:
        """A second look at close contenders, in rounds, so that a change of clock meets all of them alike."""
        taken: list[list[float]] = [[] for _ in launches]
        spent, rounds = 0.0, 0
        while rounds < 5 or (rounds < 30 and spent < budget_ms * 1000):
            for times, launch in zip(taken, launches):
                times += self.samples(launch, 2)
            spent += sum(2 * self.cost_us(launch, times[-1]) for times, launch in zip(taken, launches))
            rounds += 1
        return [summary(times) for times in taken]


class ColdTimer(Timer):
    """One launch at a time, with a cold L2, between CUDA events. Holds a buffer larger than the L2 while it lives."""

    protocol = "events-cold-1"

    def __init__(self, budget_ms: float | None = None, warmup_ms: float | None = None) -> None:
        super().__init__(budget_ms, warmup_ms)
        size = flush_bytes()
        # Writing it also takes the GPU longer (about 80 us on an H200) than the host needs to enqueue one launch,
        # so the events time the kernel and not the host.
        self._flush = torch.empty(size, dtype=torch.int8, device=device.torch_device())

    def samples(self, launch: Launch, n: int) -> list[float]:
        pairs = [self._timed(launch) for _ in range(n)]
        device.synchronize()
        return [start.elapsed_time(end) * 1000 for start, end in pairs]

    def cost_us(self, launch: Launch, sample_us: float) -> float:
        return sample_us + _FLUSH_US

    def _timed(self, launch: Launch) -> tuple[torch.Event, torch.Event]:
        start, end = device.timing_event(), device.timing_event()
        launch.before()
        self._flush.zero_()
        start.record()
        launch.run()
        end.record()
        launch.after()
        return start, end


def flush_bytes() -> int:
    """Size of the buffer whose writing empties the L2."""
    return max(_FLUSH_BYTES, 2 * device.identity().l2_bytes)


class GraphTimer(Timer):
    """Replays of a CUDA graph of many launches, with what they leave in the L2: for kernels served from graphs.

    `before` and `after` are in the graph and in the time, as in Triton's `do_bench_cudagraph`.
    """

    protocol = "graph-warm-1"

    def __init__(self, budget_ms: float | None = None, warmup_ms: float | None = None) -> None:
        super().__init__(budget_ms, warmup_ms)
        self._graphs: dict[Launch, tuple[Callable[[], None], int]] = {}

    def samples(self, launch: Launch, n: int) -> list[float]:
        replay, launches = self._graphs.get(launch) or self._capture(launch)
        return [_replay_us(replay) / launches for _ in range(n)]

    def cost_us(self, launch: Launch, sample_us: float) -> float:
        return sample_us * self._graphs[launch][1]

    def _capture(self, launch: Launch) -> tuple[Callable[[], None], int]:
        one = device.captured(launch)
        one()
        # a replay costs the GPU some microseconds of its own, which many launches share
        launches = max(1, min(200, int(1000 / max(_replay_us(one), 1.0))))
        self._graphs[launch] = device.captured(lambda: [launch() for _ in range(launches)]), launches
        return self._graphs[launch]


def _replay_us(replay: Callable[[], None]) -> float:
    start, end = device.timing_event(), device.timing_event()
    start.record()
    replay()
    end.record()
    device.synchronize()
    return start.elapsed_time(end) * 1000


def summary(times_us: list[float]) -> Timing:
    """Percentiles of a list of times."""
    ordered = sorted(times_us)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return Timing(at(0.5), at(0.2), at(0.8), len(ordered))


def from_user(do_bench: Callable[..., object], launch: Launch) -> Timing:
    """A timing by an Autotuner's own `do_bench`, which gives milliseconds: one number or the three quantiles."""
    result = do_bench(launch, quantiles=(0.5, 0.2, 0.8))
    values = [float(result)] * 3 if isinstance(result, (int, float)) else [float(v) for v in result]
    p50, p20, p80 = (1000 * v for v in (values * 3)[:3])
    return Timing(p50, p20, p80, 1)
