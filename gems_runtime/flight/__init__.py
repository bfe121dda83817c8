"""One worker per key across threads, processes and hosts; the others wait and read what it publishes.

Modules, top to bottom: scope, heartbeat, local, lease, cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from gems_runtime.flight.cluster import ServerLock
from gems_runtime.flight.lease import Lease
from gems_runtime.flight.local import FileLock
from gems_runtime.flight.scope import may_wait, no_wait as no_wait, waiting as waiting
from gems_runtime.store import Store, place

T = TypeVar("T")

POLL_S = 0.02
_TALK_AFTER_S = 5.0
_log = logging.getLogger(__name__)


class WaitedTooLong(Exception):
    """Another process has held the key for longer than the caller would wait."""


class Guard(Protocol):
    """Something that one process at a time can have for each key."""

    def take(self, key: str) -> Callable[[], None] | None:
        """What gives it back, or None while someone else has it. Raises OSError where there is no such thing."""


def guards(store: Store) -> list[Guard]:
    """What guards a key of this store: a lock of this machine's, or of a network mount, and one on the Redis server."""
    found: list[Guard] = []
    if store.directory is not None:
        folder = store.directory / "locks"
        found.append(Lease(folder) if place.is_network(place.filesystem(store.directory)) else FileLock(folder))
    if store.remote is not None and store.remote.takes_results:
        found.append(ServerLock(store.remote, store.directory))
    return found


def single(having: Sequence[Guard], key: str, find: Callable[[], T | None], make: Callable[[], T], wait_s: float) -> T:
    """`find()` as soon as it answers, else `make()`, in one process at a time for each key.

    Where a guard cannot be made, or waiting could stop other ranks in a collective, `make()` runs unguarded.
    Raises WaitedTooLong.
    """
    if not may_wait():
        found = find()
        return make() if found is None else found
    began, talked = time.monotonic(), False
    while True:
        try:
            releases = _take_all(having, key)
        except OSError as error:
            _log.warning("no lock for %s (%s); several processes may tune the same kernel", key, error)
            return make()
        if releases is not None:
            return _while_holding(releases, find, make)
        time.sleep(POLL_S)
        found = find()
        if found is not None:
            return found
        waited = time.monotonic() - began
        if waited > wait_s:
            raise WaitedTooLong(f"{key} has been held by another process for {waited:.0f} s")
        if waited > _TALK_AFTER_S and not talked:
            talked = True
            _log.warning("waiting for another process to tune %s", key)


def _take_all(having: Sequence[Guard], key: str) -> list[Callable[[], None]] | None:
    """What gives back each guard, or None, and none is held, while someone else has one of them."""
    releases: list[Callable[[], None]] = []
    try:
        for guard in having:
            release = guard.take(key)
            if release is None:
                _release(releases)
                return None
            releases.append(release)
    except OSError:
        _release(releases)
        raise
    return releases


def _while_holding(releases: list[Callable[[], None]], find: Callable[[], T | None], make: Callable[[], T]) -> T:
    try:
        found = find()
        return make() if found is None else found
    finally:
        _release(releases)


def _release(releases: list[Callable[[], None]]) -> None:
    for release in reversed(releases):
        release()
