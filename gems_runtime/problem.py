"""One call to be decided: the keys of its decision and measurements, and what the store has for it."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property

import triton
from triton.runtime.autotuner import Autotuner

from gems_runtime import bench, device, fingerprint, flight, policy, settings, stats, store
from gems_runtime import surroundings, toolchain, transfer, vigil
from gems_runtime.bench import Timing
from gems_runtime.candidates import Call, failure_of, seeded
from gems_runtime.contest import Contest, Outcome, timing_bytes
from gems_runtime.errors import NoValidConfig
from gems_runtime.options import bucket_of, options_of
from gems_runtime.records import TRANSIENT, Decision, Json, Measurement, canonical, digest
from gems_runtime.settings import SoftEnv
from gems_runtime.store import Store

_log = logging.getLogger(__name__)
# How many of the fastest candidates a decision names.
_TOP = 5
# For how long what others publish may go unseen where a neighbour is looked for.
_LISTED_S = 60.0


class Problem:
    """The call, its candidates (the first is the default), and its keys."""

    def __init__(self, call: Call, candidates: list[triton.Config]) -> None:
        self.call = call
        self.candidates = candidates
        self._store = store.current()
        function = call.tuner.base_fn
        self.kernel = f"{function.__module__}.{function.__qualname__}"[-300:]

    @cached_property
    def contenders(self) -> list[triton.Config]:
        """What may win: the candidates, and the seeds that fit them. Seeds are no part of the key: they serve a search."""
        if not settings.current().check_numerics:  # what strangers say is not believed unchecked
            return self.candidates
        seeds = self._store.seeds_of(self.kernel, self.call.tuner.base_fn.__name__)
        return self.candidates + seeded(self.candidates, seeds)

    @cached_property
    def _shared(self) -> dict[str, Json]:
        return fingerprint.shared_fields(self.call.tuner, _protocol(self.call.tuner))

    @cached_property
    def fields(self) -> dict[str, Json]:
        """What the decision depends on. Raises fingerprint.Unstable."""
        tuner, named = self.call.tuner, self.call.named
        problem = fingerprint.problem_fields(tuner, named, bucket_of(tuner))
        return fingerprint.decision_fields(self._shared, problem, self.candidates)

    @cached_property
    def key(self) -> str:
        return digest(self.fields)

    @cached_property
    def decision(self) -> Decision | None:
        """What the store has for this key. Raises fingerprint.Unstable."""
        return self._store.decision(self.key)

    def live(self, decision: Decision | None) -> triton.Config | None:
        """The decision's configuration, if it is a candidate now."""
        return None if decision is None else fingerprint.find_config(decision.config, self.contenders)

    def stored(self) -> triton.Config | None:
        """The decision of the store, if it names a configuration that is a candidate now and works on this device."""
        decision = self._store.decision(self.key)
        if decision is not None and not _suits(decision):
            decision = None
        config = self.live(decision)
        if decision is not None and config is None:
            stats.count("rejected")
        if config is None or self._is_quarantined(config):
            return None
        error = failure_of(self.call, config)
        if error is not None:
            self._quarantine(config, error)
            return None
        return config

    def _is_quarantined(self, config: triton.Config) -> bool:
        """True if it is known here to fail for exactly this problem, so that one process has tried for all."""
        known = self._store.own_measurement(digest(self._measured(config)))
        return known is not None and known.status != "ok" and _is_current(known)

    def _quarantine(self, config: triton.Config, error: Exception) -> None:
        """Note that what the store says does not work: neither a reader nor a tuning takes it again."""
        stats.count("quarantined")
        _log.warning("%s does not run with the stored configuration %s: %s", self.kernel, config, " ".join(str(error).split())[:200])
        self._store.publish(self._measurement(self._measured(config), config, Outcome.failed(error)))

    def _measured(self, config: triton.Config) -> dict[str, Json]:
        """What the measurement of a configuration depends on."""
        return fingerprint.measurement_fields(self._shared, self._exact, config)

    def transferred(self) -> triton.Config | None:
        """The configuration of a neighbouring size, if the kernel's rules allow it."""
        options = options_of(self.call.tuner)
        if not options.transfer:
            return None
        default = fingerprint.config_fields(self.candidates[0])
        found = transfer.neighbour(self.fields, options.transfer, self._decisions(), default)
        config = self.live(found)
        if config is None or (options.valid is not None and not options.valid(config, self.call.named)):
            return None
        return config

    def has_room(self) -> bool:
        """True if the device has the memory that timing takes."""
        return device.has_room(timing_bytes(self.call))

    def tune(self) -> triton.Config:
        """Benchmark, keep the result and return the winner. One process does it and the others read."""
        wait_s = settings.current().tune_wait_s
        scope = flight.no_wait() if options_of(self.call.tuner).collective else contextlib.nullcontext()
        try:
            with scope:
                return flight.single(flight.guards(self._store), self.key, self.stored, self._decide, wait_s)
        except flight.WaitedTooLong as error:
            _log.warning("%s takes its default configuration: %s", self.kernel, error)
            return self.candidates[0]

    def refresh(self) -> triton.Config:
        """Benchmark again; the decision there is stays unless a paired test beats it, or a user has pinned it."""
        config = self.stored()
        if config is None:
            return self._decide(anew=True)
        if self._store.pinned(self.key) is not None:
            return config
        return self._decide(anew=True, incumbent=self.contenders.index(config))

    def tune_for_this_process(self) -> triton.Config:
        """Benchmark and return the winner; nothing is kept."""
        contest = self._contest({})
        contest.run()
        return self.contenders[self._ranking(contest)[0]]

    def nearest(self) -> tuple[Decision, list[str]] | None:
        """The kernel's decision that differs in the fewest fields, and in which; None if it has none."""
        near = [(_differences(r.fields, self.fields), _distance(r.fields, self.fields), r) for r in self._decisions()]
        if not near:
            return None
        differences, _, found = min(near, key=lambda one: (len(one[0]), one[1]))
        return found, differences

    def explain_miss(self) -> str:
        """The message of strict mode: the nearest decision and the fields in which it differs."""
        found = self.nearest()
        near = "it has none for this kernel"
        if found is not None:
            near = f"the nearest entry, {found[0].key[:12]}, differs in {'; '.join(found[1]) or 'nothing, but names no candidate'}"
        return f"the store has no decision for {self.kernel} (key {self.key}); {near}; run gems-cache warm first"

    def layer(self) -> str:
        """Name of the store's layer that answers; empty if none does."""
        return self._store.layer_of(self.key)

    def _decisions(self) -> list[Decision]:
        return _by_kernel(self._store).get(self.kernel, [])

    def _decide(self, anew: bool = False, incumbent: int | None = None) -> triton.Config:
        stats.count("tune")
        contest = self._contest({} if anew else self._known(), incumbent)
        published = self._run(contest)
        self.keep(self._decision(contest), published, contest.disturbance)
        return self.contenders[contest.ranking()[0]]

    def time_some(self, places: Collection[int]) -> str:
        """Time these contenders, unless they are known, and publish what is found; what spoiled the times, if anything did."""
        contest = self._contest(self._known(), only=places)
        self._run(contest)
        return contest.disturbance

    def settled(self) -> tuple[Decision, str]:
        """The decision that the measurements give after the best have met once more, and what spoiled the times of that."""
        contest = self._contest(self._known(), rematch=True)
        self._run(contest)
        return self._decision(contest), contest.disturbance

    def keep(self, decision: Decision, published: Collection[str], disturbance: str) -> None:
        """Publish a decision. If the times it was made from are spoiled, this process alone uses it, and they are forgotten."""
        if not disturbance:
            self._store.publish(decision)
            toolchain.keep()
            return
        stats.count("disturbed")
        told = "what was found for %s is not kept: while it was tuned, %s; GEMS_TUNE_QUIET=0 would keep it"
        _log.warning(told, self.kernel, disturbance)
        self._store.withdraw(published)
        self._store.adopt(decision)

    def measured(self) -> dict[int, Measurement]:
        """The measurements that are known and believed, by the place of the contender."""
        found = {i: self._store.measurement(digest(fields)) for i, fields in enumerate(self._keys)}
        return {i: m for i, m in found.items() if m is not None and _is_current(m)}

    def _contest(self, known: Mapping[int, Outcome], *more: object, **options: object) -> Contest:
        return Contest(self.call, self.contenders, known, *more, **options)

    def _known(self) -> dict[int, Outcome]:
        return {i: _outcome(m) for i, m in self.measured().items()}

    @cached_property
    def _keys(self) -> list[dict[str, Json]]:
        """What the measurement of each contender depends on."""
        return [self._measured(config) for config in self.contenders]

    def _run(self, contest: Contest) -> set[str]:
        """Run it, and publish what it measures; the names of that."""
        record = lambda i, outcome: self._measurement(self._keys[i], self.contenders[i], outcome)
        died, published = Outcome("runtime", error=vigil.DIED), set()

        def publish(place: int, outcome: Outcome) -> None:
            published.add(f"m/{digest(self._keys[place])}")
            self._store.publish(record(place, outcome))

        contest.run(publish, lambda i: vigil.tell(None if i is None else lambda: record(i, died)))
        return published

    @cached_property
    def _exact(self) -> dict[str, Json]:
        return fingerprint.problem_fields(self.call.tuner, self.call.named)

    def _measurement(self, fields: dict[str, Json], config: triton.Config, outcome: Outcome) -> Measurement:
        t = outcome.timing
        times = {} if t is None else {"p50_us": t.p50_us, "p20_us": t.p20_us, "p80_us": t.p80_us}
        described = fingerprint.config_fields(config)
        details = {} if t is None else {"n": t.n, **outcome.details}
        more = {"details": details, "soft": dict(surroundings.here()), **_origin()}
        return Measurement(digest(fields), self.kernel, described, fields, outcome.status, error=outcome.error, **times, **more)

    def _ranking(self, contest: Contest) -> list[int]:
        """Raises NoValidConfig if every configuration failed."""
        if not contest.ranking():
            each = "; ".join(f"{self.contenders[i]}: {o.status} ({o.error})" for i, o in contest.outcomes.items())
            raise NoValidConfig(f"every configuration of {self.kernel} failed: {each}")
        return contest.ranking()

    def _decision(self, contest: Contest) -> Decision:
        """Raises NoValidConfig."""
        times, ranked = {i: timing.p50_us for i, timing in contest.timings().items()}, self._ranking(contest)
        # the default is named even if it is slow: what a configuration gained is known from it
        named = ranked[:_TOP] + [i for i in ranked[_TOP:] if i == 0]
        top = [[fingerprint.config_fields(self.contenders[i]), times[i]] for i in named]
        tried = Counter(outcome.status for outcome in contest.outcomes.values())
        made_from = {"measurements": [digest(fields) for fields in self._keys], "bitwise": contest.bitwise}
        soft = {**surroundings.here(), **contest.conditions, **made_from}
        return Decision(self.key, self.kernel, top[0][0], self.fields, top, dict(tried), soft=soft, **_origin())


# What the store held when it was last gone through, and when, and how much this process had tuned by then.
_listed: tuple[Store, float, int, dict[str, list[Decision]]] | None = None


def _by_kernel(held: Store) -> dict[str, list[Decision]]:
    """Every decision, by kernel. Going through a large store takes a second, and a serving process may miss often."""
    global _listed
    now, tuned = time.monotonic(), stats.snapshot()["tune"]
    if _listed is None or _listed[0] is not held or _listed[1] < now - _LISTED_S or _listed[2] != tuned:
        found: dict[str, list[Decision]] = {}
        for record in held.records():
            if isinstance(record, Decision):
                found.setdefault(record.kernel, []).append(record)
        _listed = held, now, tuned, found
    return _listed[3]


def _protocol(tuner: Autotuner) -> Json:
    """How candidates are timed and checked; results of another way of doing it are not comparable."""
    options = options_of(tuner)
    ours = bench.GraphTimer.protocol if options.use_cuda_graph else bench.ColdTimer.protocol
    hooks = [tuner.pre_hook] * tuner.user_defined_pre_hook + [tuner.post_hook] * tuner.user_defined_post_hook
    return {
        "timer": ours if tuner._do_bench is None else fingerprint.code_of(tuner._do_bench),
        "budget": [options.warmup, options.rep],
        "policy": fingerprint.code_of(policy.known(options.policy)),
        "reset": list(tuner.reset_to_zero),
        "restore": list(tuner.restore_value),
        "hooks": [fingerprint.code_of(hook) for hook in hooks],
        "checked": settings.current().check_numerics,
    }


def _outcome(measurement: Measurement) -> Outcome:
    p50, p20, p80 = measurement.p50_us, measurement.p20_us, measurement.p80_us
    n = measurement.details.get("n", 0)
    timing = None if p50 is None else Timing(p50, p20, p80, n)
    return Outcome(measurement.status, timing, measurement.error, measurement.details)


def _origin() -> dict[str, object]:
    return {"time": time.time(), "host": platform.node()[:100]}


_told: set[str] = set()


def _suits(decision: Decision) -> bool:
    """False for one that was made in other surroundings and is to be made anew for that. What a person pinned suits."""
    policy = settings.current().soft_env
    other = surroundings.drift(decision.soft) if policy is not SoftEnv.IGNORE and decision.source != "pinned" else {}
    if policy is SoftEnv.MISS:
        return not other
    for name, (was, now) in other.items():
        if f"{name} {was}" not in _told:
            _told.add(f"{name} {was}")
            _log.warning("using configurations chosen with %s %s, here %s; GEMS_SOFT_ENV=miss tunes them anew", name, was, now)
    return True


def _is_current(measurement: Measurement) -> bool:
    """False once it should be taken again: for its age, or because the surroundings are others."""
    other = bool(surroundings.drift(measurement.soft))
    if other and settings.current().soft_env is SoftEnv.MISS:
        return False
    return measurement.is_current(time.time()) and not (other and measurement.status in TRANSIENT)


def _differences(stored: Json, live: Json, path: str = "") -> list[str]:
    """`path: stored, here live` for every field in which two keys differ."""
    if isinstance(stored, dict) and isinstance(live, dict):
        names = sorted(stored.keys() | live.keys())
        return [d for n in names for d in _differences(stored.get(n), live.get(n), f"{path}.{n}".strip("."))]
    if canonical(stored) == canonical(live):
        return []
    return [f"{path}: {canonical(stored)}, here {canonical(live)}"]


def _distance(stored: dict[str, Json], live: dict[str, Json]) -> float:
    """How far apart the sizes of two keys are, in octaves."""
    ours, theirs = (fields["problem"].get("key", {}) for fields in (stored, live))
    sizes = [(ours.get(name), theirs[name]) for name in theirs]
    return sum(abs(math.log2(a / b)) for a, b in sizes if all(type(n) is int and n > 0 for n in (a, b)))
