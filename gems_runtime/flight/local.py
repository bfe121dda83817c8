"""A lock among the processes of one machine: `flock`, which the kernel frees when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from gems_runtime.store.place import make_private


class FileLock:
    """A lock file for each key in `folder`; no database waits for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, key: str) -> Callable[[], None] | None:
        make_private(self.folder)
        path = self.folder / f"{key}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return lambda: _release(path, handle)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        return None


def _release(path: Path, handle: int) -> None:
    # Removed before it is released: whoever locks the orphan sees that the path has another file, and retries.
    path.unlink(missing_ok=True)
    os.close(handle)
