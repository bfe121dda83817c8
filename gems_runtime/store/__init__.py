"""The tuning store: records by name. `current()` is the one of the settings in force.

Modules, top to bottom: place, rows, disk, index, files, edited, overrides, seeds, remote, bundle, kernels, team, ranks, stack, exchange, pruning.
"""

from __future__ import annotations

import os
from pathlib import Path

from gems_runtime import settings
from gems_runtime.store.stack import Store as Store

_current: tuple[int, settings.Settings, Store] | None = None


def open(directory: Path | None) -> Store:
    """A store in `directory` alone (None: in memory). Nothing is read or made before the first record is asked for."""
    return Store(directory)


def current() -> Store:
    """The store of the settings in force, one per process: a forked child starts its own."""
    global _current
    choice = settings.current()
    if _current is None or _current[0] != os.getpid() or not _is_same(_current[1], choice):
        _current = (os.getpid(), choice, Store(choice.cache_dir if choice.store else None, choice))
    return _current[2]


def _is_same(one: settings.Settings, other: settings.Settings) -> bool:
    """True if the two settings name one store."""
    return one is other or all(getattr(one, name) == getattr(other, name) for name in _NAMES)


_NAMES = ("store", "cache_dir", "overrides", "team_stores", "packaged", "redis", "redis_write")
