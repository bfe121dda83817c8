"""Who is told which configuration is being tried: the process that watches this one, which may die of it or hang."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from gems_runtime.records import Measurement

# Told of what to note if the process ends now; of None once the configuration has been tried.
Watcher = Callable[[Measurement | None], None]
_watcher: Watcher | None = None
DIED = "the process that tried it died"


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """In the `with` block `watcher` is told of every configuration before it is launched for the first time."""
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def tell(measurement: Callable[[], Measurement] | None) -> None:
    """A configuration is about to be tried, or has been."""
    if _watcher is not None:
        _watcher(None if measurement is None else measurement())
