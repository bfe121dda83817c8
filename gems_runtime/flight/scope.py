"""Whether this thread may wait for another process.

Ranks of a job meet in collectives: one that waits for a lock while its holder waits for it in a collective waits for
ever. So under a process group of several ranks nobody waits unless the caller says that no collective is under way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar

_choice: ContextVar[bool | None] = ContextVar("may_wait", default=None)


def may_wait() -> bool:
    """True if waiting for another process cannot stop other ranks."""
    chosen = _choice.get()
    return not _has_peers() if chosen is None else chosen


@contextlib.contextmanager
def no_wait() -> Iterator[None]:
    """In the `with` block every process tunes for itself, publishes, and waits for nobody."""
    with _chosen(False):
        yield


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """In the `with` block processes wait for each other even under a process group; it must hold no collective."""
    with _chosen(True):
        yield


@contextlib.contextmanager
def _chosen(value: bool) -> Iterator[None]:
    token = _choice.set(value)
    try:
        yield
    finally:
        _choice.reset(token)


def _has_peers() -> bool:
    # not imported: a program that has a process group has imported it
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
