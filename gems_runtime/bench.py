"""The only timing code: GPU time of one launch, with a cold L2, from CUDA events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gems_runtime import device

# Names everything below that changes a number; part of every tuning key.
PROTOCOL = "events-cold-1"
_SCREEN_MS = 3.0
_FLUSH_BYTES = 256 << 20


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


class ColdTimer:
    """Times launches on the current CUDA device. Holds a buffer that is larger than the L2 while it lives."""

    def __init__(self) -> None:
        size = max(_FLUSH_BYTES, 2 * device.identity().l2_bytes)
        # Writing it also takes the GPU longer (about 80 us on an H200) than the host needs to enqueue one launch,
        # so the events time the kernel and not the host.
        self._flush = torch.empty(size, dtype=torch.int8, device=device.torch_device())

    def __call__(self, launch: Launch, budget_ms: float = _SCREEN_MS) -> Timing:
        """A first look that takes about `budget_ms`, and at least three launches."""
        launch()  # loads the module
        first = self.samples(launch, 1)[0]
        n = max(2, min(100, int(budget_ms * 1000 / (first + 100))))
        return summary([first, *self.samples(launch, n)])

    def samples(self, launch: Launch, n: int) -> list[float]:
        """The times of n launches in microseconds."""
        pairs = [self._timed(launch) for _ in range(n)]
        device.synchronize()
        return [start.elapsed_time(end) * 1000 for start, end in pairs]

    def _timed(self, launch: Launch) -> tuple[torch.Event, torch.Event]:
        start, end = device.timing_event(), device.timing_event()
        launch.before()
        self._flush.zero_()
        start.record()
        launch.run()
        end.record()
        launch.after()
        return start, end

    def compare(self, launches: list[Launch], budget_ms: float = 40.0) -> list[Timing]:
        """A second look at close contenders, in rounds, so that a change of clock meets all of them alike."""
        taken: list[list[float]] = [[] for _ in launches]
        spent, rounds = 0.0, 0
        while rounds < 5 or (rounds < 30 and spent < budget_ms * 1000):
            for times, launch in zip(taken, launches):
                times += self.samples(launch, 2)
            spent += sum(times[-1] + times[-2] + 200 for times in taken)
            rounds += 1
        return [summary(times) for times in taken]


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
