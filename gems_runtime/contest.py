"""The race between the candidates of one call: compile all, check each answer, time what the policy asks for."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import triton
from triton.runtime.autotuner import Autotuner

from gems_runtime import aside, bench, device, numerics, policy, settings, stats, witness
from gems_runtime.bench import Timing
from gems_runtime.candidates import LAUNCH_ERRORS, Call, compile_all, facts_of, status_of
from gems_runtime.errors import DeviceLost
from gems_runtime.launch import count_compiles
from gems_runtime.options import options_of
from gems_runtime.ranking import ranked
from gems_runtime.records import Json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate: its time, or the status that says how it failed."""

    status: str
    timing: Timing | None = None
    error: str = ""
    # what is known of the code that was timed, as a measurement keeps it
    details: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def failed(cls, error: Exception) -> Outcome:
        return cls(status_of(error), error=f"{type(error).__name__}: {error}"[:200])


class Contest:
    """A policy's race between the candidates of one call, by their place in the list.

    `known` outcomes are not measured again. `incumbent` is the winner so far: it stays unless it is clearly beaten. Of the
    others those in `only` are measured, if it is given. With `rematch` the best meet again although all are known.
    """

    def __init__(
        self,
        call: Call,
        candidates: list[triton.Config],
        known: Mapping[int, Outcome] = {},
        incumbent: int | None = None,
        only: Collection[int] | None = None,
        rematch: bool = False,
    ) -> None:
        self._only, self._rematch = only, rematch
        self._call = call
        self._candidates = candidates
        self._incumbent = incumbent
        self.outcomes: dict[int, Outcome] = dict(known)
        # whether the winner gives the default's answer to the bit; None if nobody looked
        self.bitwise: bool | None = None
        # what spoiled the times, and what is known of the GPU meanwhile
        self.disturbance = ""
        self.conditions: dict[str, float] = {}

    def run(
        self,
        publish: Callable[[int, Outcome], None] = lambda place, outcome: None,
        begin: Callable[[int | None], None] = lambda place: None,
    ) -> None:
        """Measure what is not known. Each outcome is published as soon as there is one: a killed run loses none.

        `begin` is told of each place before its candidate is launched for the first time, and of None after it.
        Raises DeviceLost.
        """
        self._publish, self._begin = publish, begin
        with aside.natively():
            self._run()

    def _run(self) -> None:
        pending = self.untimed()
        if not pending and not self._rematch:
            return
        count_compiles()
        self._errors = dict(zip(pending, compile_all(self._call, [self._candidates[i] for i in pending])))
        self._gate = self._made_gate()
        try:
            self._reference()
            self._timer = _timer(self._call.tuner)
            with self._witnessed():
                policy.known(options_of(self._call.tuner).policy)(self)
                self._defend()
            self.bitwise = self._is_bitwise()
        finally:
            if self._gate is not None and device.works():
                self._gate.restore()
        # as stock does after benchmarking: the launch that follows finds zeroed what it expects zeroed
        self._call.tuner.pre_hook(self._call.hook_arguments(self._candidates[0]), reset_only=True)

    @contextlib.contextmanager
    def _witnessed(self) -> Iterator[None]:
        # Not unless asked for: what its tool costs the times that it watches has not been measured on a GPU.
        if not settings.current().quiet_gpu:
            yield
            return
        seen = witness.Witness()
        try:
            yield
        finally:
            self.disturbance, self.conditions = seen.testify(), seen.facts()

    def untimed(self) -> list[int]:
        wanted = range(len(self._candidates)) if self._only is None else sorted(self._only)
        return [i for i in wanted if i not in self.outcomes]

    def timings(self) -> dict[int, Timing]:
        return {i: o.timing for i, o in self.outcomes.items() if o.timing is not None}

    def time(self, place: int, budget_ms: float | None = None) -> None:
        self._begin(place)
        self._keep(place, self._measure(place, budget_ms))
        self._begin(None)

    def compare(self, places: list[int]) -> None:
        # a benchmark function of the user's has no rounds
        if len(places) > 1 and isinstance(self._timer, bench.Timer):
            timings = self._timer.compare([self._call.launch(self._candidates[i]) for i in places])
            for place, timing in zip(places, timings):
                self._keep(place, Outcome("ok", timing, details=self.outcomes[place].details))

    def ranking(self) -> list[int]:
        """Places of the candidates that work, best first; empty if none does."""
        shared = {i: o.details.get("shared_bytes", 0) for i, o in self.outcomes.items()}
        return ranked({i: t.p50_us for i, t in self.timings().items()}, self._incumbent, shared)

    def _keep(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self._publish(place, outcome)
        # said of the one that did it: all that are tried after it would fail as well
        if outcome.status == "runtime" and not device.works():
            raise DeviceLost(
                f"{self._candidates[place]} broke the device's context ({outcome.error}); with a store it is not tried again for a week. "
                "Start the process again; gems-cache warm --isolate tries candidates in a process of their own"
            )

    def _defend(self) -> None:
        """A paired test of the incumbent against the candidate that would take its place."""
        best = self.ranking()[:1]
        if self._incumbent in self.timings() and best != [self._incumbent]:
            self.compare([self._incumbent, *best])

    def _is_bitwise(self) -> bool | None:
        best = self.ranking()[:1]
        if self._gate is None or not best:
            return None
        return self._gate.passes(self._call.launch(self._candidates[best[0]]), numerics.same_bits)

    def _made_gate(self) -> numerics.Gate | None:
        """The check of answers, or None where there is none."""
        if not settings.current().check_numerics:
            return None
        named = self._call.named
        if not numerics.fits(named, timing_bytes(self._call)):
            _log.warning("no memory to check the answers of the candidates; the fastest wins unchecked")
            return None
        return numerics.Gate(named)

    def _reference(self) -> None:
        """Give the gate the answer of the first candidate that runs."""
        for place in self._launchable() if self._gate is not None else ():
            self._begin(place)
            try:
                self._gate.passes(self._call.launch(self._candidates[place]))
                break
            except LAUNCH_ERRORS as error:
                if not device.works():
                    self._keep(place, Outcome.failed(error))
        self._begin(None)

    def _launchable(self) -> list[int]:
        """Places that are not known to fail. One that broke the device the last time would break it again."""
        failed = {i for i, o in self.outcomes.items() if o.status != "ok"} | {i for i, e in self._errors.items() if e is not None}
        return [i for i in range(len(self._candidates)) if i not in failed]

    def _measure(self, place: int, budget_ms: float | None) -> Outcome:
        error = self._errors.get(place)
        if error is not None:
            return Outcome.failed(error)
        launch = self._call.launch(self._candidates[place])
        try:
            if self._gate is not None and not self._gate.passes(launch):
                return Outcome("numerics", error="its answer differs from the default configuration's")
            stats.count("benchmark")
            timing = self._timer(launch) if budget_ms is None else self._timer(launch, budget_ms)
        except LAUNCH_ERRORS as failure:
            return Outcome.failed(failure)
        if not math.isfinite(timing.p50_us):
            return Outcome("runtime", error="timed as infinite")
        return Outcome("ok", timing, details=facts_of(self._call, self._candidates[place]))


def time_together(call: Call, configs: list[triton.Config]) -> list[Timing]:
    """The time of each configuration, taken as tuning takes it; in rounds, if the timer is ours."""
    timer = _timer(call.tuner)
    launches = [call.launch(config) for config in configs]
    return timer.compare(launches) if isinstance(timer, bench.Timer) else [timer(launch) for launch in launches]


def timing_bytes(call: Call) -> int:
    """Memory that timing the candidates of a call takes, besides what the call itself has."""
    flush = bench.flush_bytes() if call.tuner._do_bench is None and not options_of(call.tuner).use_cuda_graph else 0
    return flush + call.restored_bytes()


def _timer(tuner: Autotuner) -> Callable[..., Timing]:
    own, options = tuner._do_bench, options_of(tuner)
    if own is not None:
        return lambda launch, budget_ms=0.0: bench.from_user(own, launch)
    kind = bench.GraphTimer if options.use_cuda_graph else bench.ColdTimer
    return kind(options.rep, options.warmup)
