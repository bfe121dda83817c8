"""Carrying records between stores and bundles: what two of them have, what merging them does, how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gems_runtime import settings
from gems_runtime.errors import StoreError, UsageError
from gems_runtime.records import Decision, Record, encode, name_of
from gems_runtime.store import bundle, ranks, team
from gems_runtime.store.stack import Store

_NOTHING_ELSE = {"packaged": False, "redis": ""}
# How an entry that both sides have is chosen.
RULES = ("best", "newer", "ours", "theirs")
HERE = "here"

Entries = Mapping[str, Record]


@dataclass(frozen=True)
class Change:
    """What merging does to one entry: add, replace, keep (ours, which differs), same."""

    action: str
    record: Record
    ours: Record | None


def entries_at(place: str, here: Store) -> dict[str, Record]:
    """Every record of `here`, of a bundle or of a store's directory. Raises UsageError, and StoreError for a bad bundle."""
    path = Path(place)
    try:
        if place == HERE:
            held: Iterable[Record] = here.records()
        elif path.suffix == bundle.SUFFIX and path.exists():
            held = bundle.Bundle(path).records()
        elif path.is_dir() and team.sources(path):
            # as a team's: what is only looked at is not mended either
            held = Store(None, replace(settings.current(), **_NOTHING_ELSE, team_stores=(path,))).records()
        else:
            raise UsageError(f"{place} is no bundle (*{bundle.SUFFIX}) and no store's directory; {HERE!r} is the store in force")
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror}") from None
    return {name_of(record): record for record in held}


def changes(ours: Entries, theirs: Entries, rule: str) -> list[Change]:
    """What taking over their entries does to ours, by name."""
    return [_change(ours.get(name), record, rule) for name, record in sorted(theirs.items())]


def _change(ours: Record | None, theirs: Record, rule: str) -> Change:
    if ours is None:
        return Change("add", theirs, None)
    if encode(ours) == encode(theirs):
        return Change("same", ours, ours)
    return Change("replace", theirs, ours) if _is_preferred(theirs, ours, rule) else Change("keep", ours, ours)


def _is_preferred(theirs: Record, ours: Record, rule: str) -> bool:
    if rule == "best":
        return _time_us(theirs) < _time_us(ours)
    if rule == "newer":
        return theirs.time > ours.time
    return rule == "theirs"


def _time_us(record: Record) -> float:
    """The time that was measured; a failure is slower than anything."""
    time = record.top[0][1] if isinstance(record, Decision) else record.p50_us
    return float("inf") if time is None else time


@dataclass(frozen=True)
class Difference:
    """One problem that two stores do not decide alike. A side that has no decision is None."""

    key: str
    kernel: str
    a: Decision | None
    b: Decision | None


def differences(a: Entries, b: Entries) -> list[Difference]:
    """Every problem for which the two have different configurations, or only one has a decision."""
    one, other = _decisions(a), _decisions(b)
    found = []
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if left is None or right is None or ranks.chosen(left) != ranks.chosen(right):
            found.append(Difference(key, (left or right).kernel, left, right))
    return found


def digest(entries: Entries) -> str:
    """As `Store.digest`."""
    return ranks.digest(_decisions(entries).values())


def _decisions(entries: Entries) -> dict[str, Decision]:
    return {record.key: record for record in entries.values() if isinstance(record, Decision)}
