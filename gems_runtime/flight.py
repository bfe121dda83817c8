"""One worker per key across threads and processes; the others wait and read what it publishes."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gems_runtime.store.place import make_private

T = TypeVar("T")

POLL_S = 0.02
_TALK_AFTER_S = 5.0
_log = logging.getLogger(__name__)


class WaitedTooLong(Exception):
    """Another process has held the key for longer than the caller would wait."""


def single(folder: Path, key: str, find: Callable[[], T | None], make: Callable[[], T], wait_s: float) -> T:
    """`find()` as soon as it answers, else `make()`, in one process at a time for each key.

    The lock is a `flock` on a file of its own, so the kernel frees it when its holder dies, and no database waits.
    Where no lock file can be made, `make()` runs unguarded. Raises WaitedTooLong.
    """
    began, talked = time.monotonic(), False
    while True:
        try:
            lock = _try_lock(folder / f"{key}.lock")
        except OSError as error:
            _log.warning("no lock in %s (%s); several processes may tune the same kernel", folder, error)
            return make()
        if lock is not None:
            return _while_holding(lock, folder / f"{key}.lock", find, make)
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


def _while_holding(lock: int, path: Path, find: Callable[[], T | None], make: Callable[[], T]) -> T:
    try:
        found = find()
        return make() if found is None else found
    finally:
        # Removed before it is released: whoever locks the orphan sees that the path has another file, and retries.
        path.unlink(missing_ok=True)
        os.close(lock)


def _try_lock(path: Path) -> int | None:
    """The descriptor of the locked file, or None while someone else has it."""
    make_private(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(handle).st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    return None
