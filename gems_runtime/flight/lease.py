"""A lock among hosts that share a network mount, where `flock` is not to be trusted: a file that its owner keeps fresh."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from gems_runtime.flight import heartbeat
from gems_runtime.store.place import make_private


class Lease:
    """An owner file for each key in `folder`. It is free once its time has not changed for a while."""

    def __init__(self, folder: Path, expiry_s: float = heartbeat.EXPIRY_S) -> None:
        self.folder = folder
        self._expiry_s = expiry_s
        # key -> what its owner file was when it was seen first, and when that was on this host's clock: clocks differ
        self._seen: dict[str, tuple[tuple[int, int, str], float]] = {}

    def take(self, key: str) -> Callable[[], None] | None:
        make_private(self.folder)
        path = self.folder / f"{key}.owner"
        owner = f"{platform.node()} {os.getpid()} {secrets.token_hex(8)}"
        if not _create(path, owner):
            if not self._is_dead(key, path):
                return None
            self._bury(key, path)
            if not _create(path, owner):
                return None
        self._seen.pop(key, None)
        stop = heartbeat.start(lambda: _freshen(path, owner))

        def release() -> None:
            stop()
            if _read(path)[2] == owner:
                path.unlink(missing_ok=True)

        return release

    def _is_dead(self, key: str, path: Path) -> bool:
        now = _read(path)
        host, _, rest = now[2].partition(" ")
        pid = rest.partition(" ")[0]
        if host == platform.node() and pid.isdecimal() and not _lives(int(pid)):
            return True
        seen, since = self._seen.get(key, (None, 0.0))
        if seen != now:
            self._seen[key] = now, time.monotonic()
            return False
        return time.monotonic() - since > self._expiry_s

    def _bury(self, key: str, path: Path) -> None:
        """Take the dead owner's file away, or put it back if it is no longer that one."""
        before = _read(path)
        grave = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(grave)
            if _read(grave)[2] != before[2]:
                with contextlib.suppress(FileExistsError):
                    os.link(grave, path)
            grave.unlink()
        self._seen.pop(key, None)


def _create(path: Path, owner: str) -> bool:
    """Make the owner file, with its text in it from the first moment on; False if there is one."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(owner)
    try:
        # link, unlike rename, fails where a file is; also on NFS
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _read(path: Path) -> tuple[int, int, str]:
    """Inode, time and owner of the file; nothing if it is gone."""
    try:
        info = path.stat()
        return info.st_ino, info.st_mtime_ns, path.read_text(errors="replace")[:500]
    except OSError:
        return 0, 0, ""


def _freshen(path: Path, owner: str) -> None:
    with contextlib.suppress(OSError):
        if _read(path)[2] == owner:
            os.utime(path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
