"""From a call of an autotuned kernel to its configuration: read from the store, or benchmarked once and kept there."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import Counter
from functools import cached_property

import torch
import triton
from triton.runtime.autotuner import Autotuner

from gems_runtime import bench, device, fingerprint, flight, settings, stats, store, untuned
from gems_runtime.bench import Timing
from gems_runtime.candidates import Call
from gems_runtime.contest import Contest, Outcome
from gems_runtime.errors import NoValidConfig, StoreMiss
from gems_runtime.records import Decision, Json, Measurement, canonical, digest
from gems_runtime.settings import Mode
from gems_runtime.strategy import bucket_of

_log = logging.getLogger(__name__)
# How many of the fastest candidates a decision names.
_TOP = 5
# One tuning at a time: two would disturb each other's timings, and pruning leaves its arguments in the autotuner.
_tuning = threading.RLock()


def _unlock_in_child() -> None:
    """The thread that held the lock is not there after a fork."""
    global _tuning
    _tuning = threading.RLock()


os.register_at_fork(after_in_child=_unlock_in_child)


def prime(tuner: Autotuner, args: tuple[object, ...], kwargs: dict[str, object], grid: object) -> triton.Config:
    """The configuration for this call, left where `tuner.run` looks for it, so that stock Triton benchmarks nothing.

    Raises StoreMiss in strict mode, and NoValidConfig if every candidate fails.
    """
    call = Call(tuner, args, kwargs, grid)
    with _tuning:
        config = _choose(call)
        tuner.cache[call.stock_key()] = config
    return config


def _choose(call: Call) -> triton.Config:
    candidates = call.candidates()
    mode = settings.current().tune
    if len(candidates) == 1 or mode is Mode.OFF:
        return candidates[0]
    if not _can_time(call.tuner):
        return _default(call, candidates, mode)
    problem = Problem(call, candidates)
    try:
        found = None if mode is Mode.REFRESH else problem.stored()
    except fingerprint.Unstable as error:
        _log.info("the tuning of %s is not kept: %s", problem.kernel, error)
        return problem.tune_for_this_process() if _may_tune(mode) else _default(call, candidates, mode)
    if found is not None:
        stats.count("store_hit")
        return found
    stats.count("store_miss")
    if mode is Mode.STRICT:
        raise StoreMiss(problem.explain_miss())
    return problem.tune(shared=mode is Mode.AUTO) if _may_tune(mode) else _default(call, candidates, mode)


def _default(call: Call, candidates: list[triton.Config], mode: Mode) -> triton.Config:
    """The first candidate; in record mode the call is written down for `gems-cache warm`."""
    if mode is Mode.RECORD:
        untuned.append(call)
    return candidates[0]


def _can_time(tuner: Autotuner) -> bool:
    """True if there is a device to time on, or a benchmark function of the user's that needs none."""
    return device.can_benchmark() and (tuner._do_bench is not None or device.has_gpu())


def _may_tune(mode: Mode) -> bool:
    return mode in (Mode.AUTO, Mode.REFRESH) and not device.is_capturing()


class Problem:
    """One call to be decided, with the keys of its decision and of its measurements."""

    def __init__(self, call: Call, candidates: list[triton.Config]) -> None:
        self._call = call
        self._candidates = candidates
        self._store = store.current()
        jit = fingerprint.jit_of(call.tuner)
        self.kernel = f"{jit.__module__}.{jit.__qualname__}"[-300:]

    @cached_property
    def _shared(self) -> dict[str, Json]:
        return fingerprint.shared_fields(self._call.tuner, _protocol(self._call.tuner))

    @cached_property
    def fields(self) -> dict[str, Json]:
        """What the decision depends on. Raises fingerprint.Unstable."""
        tuner, named = self._call.tuner, self._call.named
        problem = fingerprint.problem_fields(tuner, named, bucket_of(tuner))
        return fingerprint.decision_fields(self._shared, problem, self._candidates)

    @cached_property
    def key(self) -> str:
        return digest(self.fields)

    def stored(self) -> triton.Config | None:
        """The decision of the store, if it names a configuration that is a candidate now."""
        decision = self._store.decision(self.key)
        if decision is None:
            return None
        config = fingerprint.find_config(decision.config, self._candidates)
        if config is None:
            stats.count("rejected")
        return config

    def tune(self, shared: bool) -> triton.Config:
        """Benchmark, keep the result and return the winner. If shared, one process does it and the others read."""
        folder = self._store.directory
        if folder is None or not shared:
            return self._decide()
        try:
            return flight.single(
                folder / "locks", self.key, self.stored, self._decide, settings.current().tune_wait_s
            )
        except flight.WaitedTooLong as error:
            _log.warning("%s takes its default configuration: %s", self.kernel, error)
            return self._candidates[0]

    def tune_for_this_process(self) -> triton.Config:
        """Benchmark and return the winner; nothing is kept."""
        contest = self._contest({})
        return self._candidates[contest.ranking()[0]]

    def explain_miss(self) -> str:
        """The message of strict mode: the nearest decision and the fields in which it differs."""
        same = [r for r in self._store.records() if isinstance(r, Decision) and r.kernel == self.kernel]
        diffs = sorted((_differences(r.fields, self.fields) for r in same), key=len)
        near = f"the nearest entry differs in {'; '.join(diffs[0][:5])}" if diffs else "it has none for this kernel"
        return f"the store has no decision for {self.kernel} (key {self.key}); {near}; run gems-cache warm first"

    def _decide(self) -> triton.Config:
        stats.count("tune")
        keys = [fingerprint.measurement_fields(self._shared, self._exact, c) for c in self._candidates]
        known = {} if settings.current().tune is Mode.REFRESH else self._known(keys)
        contest = self._contest(known, lambda i, outcome: self._store.publish(self._measurement(keys[i], i, outcome)))
        self._store.publish(self._decision(contest))
        return self._candidates[contest.ranking()[0]]

    @cached_property
    def _exact(self) -> dict[str, Json]:
        return fingerprint.problem_fields(self._call.tuner, self._call.named)

    def _known(self, keys: list[dict[str, Json]]) -> dict[int, Outcome]:
        found = {i: self._store.measurement(digest(fields)) for i, fields in enumerate(keys)}
        now = time.time()
        return {i: _outcome(m) for i, m in found.items() if m is not None and m.is_current(now)}

    def _contest(self, known: dict[int, Outcome], publish: object = lambda place, outcome: None) -> Contest:
        contest = Contest(self._call, self._candidates, known)
        contest.run(publish)
        if not contest.ranking():
            each = "; ".join(f"{self._candidates[i]}: {o.status} ({o.error})" for i, o in contest.outcomes.items())
            raise NoValidConfig(f"every configuration of {self.kernel} failed: {each}")
        return contest

    def _measurement(self, fields: dict[str, Json], place: int, outcome: Outcome) -> Measurement:
        t = outcome.timing
        times = {} if t is None else {"p50_us": t.p50_us, "p20_us": t.p20_us, "p80_us": t.p80_us}
        config = fingerprint.config_fields(self._candidates[place])
        return Measurement(
            digest(fields), self.kernel, config, fields, outcome.status, error=outcome.error, **times, **_origin()
        )

    def _decision(self, contest: Contest) -> Decision:
        ranked = contest.ranking()
        configs = [fingerprint.config_fields(self._candidates[i]) for i in ranked[:_TOP]]
        top = [[config, contest.outcomes[i].timing.p50_us] for config, i in zip(configs, ranked)]
        tried = Counter(outcome.status for outcome in contest.outcomes.values())
        return Decision(
            self.key, self.kernel, configs[0], self.fields, top, dict(tried), soft=_soft(), **_origin()
        )


def _protocol(tuner: Autotuner) -> Json:
    """How candidates are timed and checked; results of another way of doing it are not comparable."""
    timer = bench.PROTOCOL if tuner._do_bench is None else fingerprint.code_of(tuner._do_bench)
    hooks = [tuner.pre_hook] * tuner.user_defined_pre_hook + [tuner.post_hook] * tuner.user_defined_post_hook
    return {
        "timer": timer,
        "reset": list(tuner.reset_to_zero),
        "restore": list(tuner.restore_value),
        "hooks": [fingerprint.code_of(hook) for hook in hooks],
        "checked": settings.current().check_numerics,
    }


def _outcome(measurement: Measurement) -> Outcome:
    p50, p20, p80 = measurement.p50_us, measurement.p20_us, measurement.p80_us
    return Outcome(measurement.status, None if p50 is None else Timing(p50, p20, p80, 0), measurement.error)


def _origin() -> dict[str, object]:
    return {"time": time.time(), "host": platform.node()[:100]}


def _soft() -> dict[str, Json]:
    """What may matter and does not invalidate: reported, not hashed."""
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}


def _differences(stored: Json, live: Json, path: str = "") -> list[str]:
    """`path: stored, here live` for every field in which two keys differ."""
    if isinstance(stored, dict) and isinstance(live, dict):
        names = sorted(stored.keys() | live.keys())
        return [d for n in names for d in _differences(stored.get(n), live.get(n), f"{path}.{n}".strip("."))]
    if canonical(stored) == canonical(live):
        return []
    return [f"{path}: {canonical(stored)}, here {canonical(live)}"]
