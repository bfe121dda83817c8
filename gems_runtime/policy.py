"""How the candidates of one call are compared: which are timed, for how long, and which are looked at twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from gems_runtime.bench import Timing
from gems_runtime.errors import UsageError

# Contenders within this share of the best are timed again, at most this many of them.
_CLOSE, _CLOSE_COUNT = 0.10, 5
# What `exhaustive` spends on each candidate; Triton's own do_bench takes 100 ms.
_LONG_MS = 100.0


class Race(Protocol):
    """The candidates of one call, by their place in the list; the first is the default. What was timed in an earlier
    run and is still valid has its timing already."""

    def untimed(self) -> list[int]:
        """Places that have no outcome yet."""

    def time(self, place: int, budget_ms: float | None = None) -> None:
        """Check the candidate's answer and time it; a failure is an outcome too. The result is kept at once."""

    def timings(self) -> dict[int, Timing]:
        """Places that work, with their times."""

    def compare(self, places: list[int]) -> None:
        """Time these once more, in rounds, so that a change of clock meets all of them alike."""


Policy: TypeAlias = Callable[[Race], None]


def screen_then_pair(race: Race) -> None:
    """A short look at every candidate, and a second one at those close to the best."""
    for place in race.untimed():
        race.time(place)
    race.compare(close_to_best(race.timings()))


def exhaustive(race: Race) -> None:
    """A long look at every candidate."""
    for place in race.untimed():
        race.time(place, _LONG_MS)


def close_to_best(timings: dict[int, Timing]) -> list[int]:
    """The places that are worth a second look, best first."""
    ranked = sorted(timings, key=lambda i: timings[i].p50_us)
    return [i for i in ranked if timings[i].p50_us <= (1 + _CLOSE) * timings[ranked[0]].p50_us][:_CLOSE_COUNT]


POLICIES: dict[str, Policy] = {
    "default": screen_then_pair,
    "screen-then-pair": screen_then_pair,
    "exhaustive": exhaustive,
}


def known(name: str) -> Policy:
    """The policy of this name. Raises UsageError."""
    if name not in POLICIES:
        raise UsageError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}; register others with register_policy")
    return POLICIES[name]
