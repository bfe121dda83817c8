"""Counters of what the runtime did. Counted off the hot path: a memory hit is counted by the entry that had it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_here = threading.local()

# name -> what one count means; the documentation table is made from this.
COUNTERS = {
    "store_hit": "a decision was read from the store",
    "store_miss": "the store had no valid decision",
    "tune": "the candidates of one kernel call were compared and a winner chosen",
    "disturbed": "a tuning was not kept, because the GPU slowed down or another process used it meanwhile",
    "transfer": "a call that may not be tuned took the configuration of a neighbouring size",
    "default": "a call without a decision took its default configuration",
    "benchmark": "one configuration was timed",
    "compile": "a kernel was compiled (not found in Triton's own cache)",
    "load": "a compiled kernel was found in Triton's own cache",
    "miss": "a LibEntry call found no entry and went through stock Triton",
    "stock": "a LibEntry call was sent to stock Triton on purpose (hook, odd argument, unknown version)",
    "quarantined": "a configuration that the store had decided on did not compile or fit, and was not used",
    "rejected": "a store entry was unreadable, foreign or unsafe and was treated as a miss",
}


def count(name: str, n: int = 1) -> None:
    """Add n to a counter named in COUNTERS."""
    if getattr(_here, "uncounted", False):
        return
    with _lock:
        _counts[name] += n


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """In the `with` block this thread counts nothing: what the runtime tries for itself is no call of the user's."""
    before = getattr(_here, "uncounted", False)
    _here.uncounted = True
    try:
        yield
    finally:
        _here.uncounted = before


def snapshot() -> dict[str, int]:
    """Every counter and its value since the process began or the last `reset()`."""
    with _lock:
        return {name: _counts[name] for name in COUNTERS}


def reset() -> None:
    """Set every counter to zero."""
    with _lock:
        _counts.clear()
