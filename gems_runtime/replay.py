"""Decisions computed once more from the measurements that the store has, with no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from gems_runtime.ranking import ranked
from gems_runtime.records import Decision, Json, Measurement, canonical
from gems_runtime.store import Store


@dataclass(frozen=True)
class Replayed:
    """A decision beside its measurements. `best` is None, and `regret` too, if they do not say."""

    key: str
    kernel: str
    config: dict[str, Json]
    best: dict[str, Json] | None
    # by how much the stored winner is slower than the fastest measurement, as a fraction
    regret: float | None
    measured: int
    candidates: int

    @property
    def flips(self) -> bool:
        """True if the measurements name another winner."""
        return self.best is not None and canonical(self.best) != canonical(self.config)

    def fields(self) -> dict[str, Json]:
        return {**asdict(self), "flips": self.flips}


def replay(store: Store) -> Iterator[Replayed]:
    """Every decision that was tuned; those imported without their measurements cannot be replayed and say so."""
    for record in store.records():
        if isinstance(record, Decision):
            yield _replayed(record, store)


def _replayed(decision: Decision, store: Store) -> Replayed:
    held = measurements(decision, store)
    times = {i: m.p50_us for i, m in held.items() if m.status == "ok" and m.p50_us is not None}
    own = canonical(decision.config)
    place = next((i for i in times if canonical(held[i].config) == own), None)
    size = len(decision.soft.get("measurements", []))
    # a winner that ties stays one: a refreshed decision is not given up for noise
    shared = {i: m.details.get("shared_bytes", 0) for i, m in held.items()}
    best = held[ranked(times, place, shared)[0]].config if times else None
    regret = None if place is None else times[place] / min(times.values()) - 1
    return Replayed(decision.key, decision.kernel, decision.config, best, regret, len(times), size)


def measurements(decision: Decision, store: Store) -> dict[int, Measurement]:
    """What the store has of the measurements behind a decision, by the place of the candidate."""
    keys = decision.soft.get("measurements", [])
    found = {i: store.measurement(key) for i, key in enumerate(keys) if isinstance(key, str)}
    return {i: m for i, m in found.items() if m is not None}
