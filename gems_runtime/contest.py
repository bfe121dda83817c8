"""Comparing the candidates of one call: check each answer, time each launch, and look twice at the close ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import triton

from gems_runtime import bench, numerics, settings, stats
from gems_runtime.bench import Launch, Timing
from gems_runtime.candidates import LAUNCH_ERRORS, Call, compile_all, status_of

_log = logging.getLogger(__name__)

# Contenders within this share of the best are timed again, at most this many of them.
_CLOSE, _CLOSE_COUNT = 0.10, 5
# Within this share of the best, the order of declaration decides: noise should not.
_TIE = 0.01


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate: its time, or the status that says how it failed."""

    status: str
    timing: Timing | None = None
    error: str = ""

    @classmethod
    def failed(cls, error: Exception) -> Outcome:
        return cls(status_of(error), error=f"{type(error).__name__}: {error}"[:200])


class Contest:
    """Candidates of one call, by their place in the list. `known` outcomes are not measured again."""

    def __init__(self, call: Call, candidates: list[triton.Config], known: Mapping[int, Outcome] = {}) -> None:
        self._call = call
        self._candidates = candidates
        self.outcomes: dict[int, Outcome] = dict(known)

    def run(self, publish: Callable[[int, Outcome], None] = lambda place, outcome: None) -> None:
        """Measure what is not known. Each outcome is published as soon as there is one: a killed run loses none."""
        pending = [i for i in range(len(self._candidates)) if i not in self.outcomes]
        if not pending:
            return
        errors = dict(zip(pending, compile_all(self._call, [self._candidates[i] for i in pending])))
        gate = self._gate()
        try:
            timer = _timer(self._call)
            for place in pending:
                self.outcomes[place] = self._measure(place, errors[place], gate, timer)
                publish(place, self.outcomes[place])
            for place in self._look_again(timer):
                publish(place, self.outcomes[place])
        finally:
            if gate is not None:
                gate.restore()
        # as stock does after benchmarking: the launch that follows finds zeroed what it expects zeroed
        self._call.tuner.pre_hook(self._call.hook_arguments(self._candidates[0]), reset_only=True)

    def ranking(self) -> list[int]:
        """Places of the candidates that work, best first; empty if none does."""
        times = {i: o.timing.p50_us for i, o in self.outcomes.items() if o.timing is not None}
        if not times:
            return []
        best = min(times.values())
        return sorted(times, key=lambda i: (0.0, i) if times[i] <= best * (1 + _TIE) else (times[i], i))

    def _gate(self) -> numerics.Gate | None:
        """The gate with its reference taken from the first candidate that runs, or None where there is no check."""
        if not settings.current().check_numerics:
            return None
        named = self._call.named
        if not numerics.fits(named):
            _log.warning("no memory to check the answers of the candidates; the fastest wins unchecked")
            return None
        gate = numerics.Gate(named)
        for config in self._candidates:
            try:
                gate.passes(self._call.launch(config))
                return gate
            except LAUNCH_ERRORS:
                continue
        return gate

    def _measure(
        self, place: int, error: Exception | None, gate: numerics.Gate | None, timer: Callable[[Launch], Timing]
    ) -> Outcome:
        if error is not None:
            return Outcome.failed(error)
        launch = self._call.launch(self._candidates[place])
        try:
            if gate is not None and not gate.passes(launch):
                return Outcome("numerics", error="its answer differs from the default configuration's")
            stats.count("benchmark")
            timing = timer(launch)
        except LAUNCH_ERRORS as failure:
            return Outcome.failed(failure)
        return Outcome("ok", timing) if math.isfinite(timing.p50_us) else Outcome("runtime", error="timed as infinite")

    def _look_again(self, timer: Callable[[Launch], Timing]) -> Iterable[int]:
        """Time the close contenders once more, together; their places."""
        ranked = self.ranking()
        if not ranked or not isinstance(timer, bench.ColdTimer):
            return []
        limit = (1 + _CLOSE) * min(self.outcomes[i].timing.p50_us for i in ranked)
        close = [i for i in ranked if self.outcomes[i].timing.p50_us <= limit][:_CLOSE_COUNT]
        if len(close) > 1:
            timings = timer.compare([self._call.launch(self._candidates[i]) for i in close])
            self.outcomes.update({i: Outcome("ok", timing) for i, timing in zip(close, timings)})
        return close


def _timer(call: Call) -> Callable[[Launch], Timing]:
    own = call.tuner._do_bench
    return bench.ColdTimer() if own is None else lambda launch: bench.from_user(own, launch)
