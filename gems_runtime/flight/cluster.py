"""A lock among hosts on their Redis server: `SET NX PX`, renewed while its holder lives."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable
from pathlib import Path

from gems_runtime.flight import heartbeat
from gems_runtime.records import digest
from gems_runtime.store.remote import Remote

# A lock is renewed or deleted only by its owner. One that a process with the same lock directory holds is taken over:
# the lock in that directory is taken before this one, so that process must be dead.
_TAKE = """
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, string.len(ARGV[3])) == ARGV[3] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
end
return 0
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class ServerLock:
    """A lock for each key on the store's server. Without an answer from it, the key counts as free."""

    def __init__(self, remote: Remote, directory: Path | None) -> None:
        self._remote = remote
        self._directory = directory

    def take(self, key: str) -> Callable[[], None] | None:
        name, expiry = f"gems:lock:{key}", int(heartbeat.EXPIRY_S * 1000)
        machine = _machine_of(self._directory)
        owner = f"{machine} {platform.node()} {os.getpid()} {secrets.token_hex(8)}"
        taken = self._remote.ask(lambda client: client.eval(_TAKE, 1, name, owner, expiry, machine))
        if taken == 0:
            return None
        if taken is None:
            return lambda: None
        stop = heartbeat.start(lambda: self._remote.ask(lambda client: client.eval(_RENEW, 1, name, owner, expiry)))

        def release() -> None:
            stop()
            self._remote.ask(lambda client: client.eval(_RELEASE, 1, name, owner))

        return release


def _machine_of(directory: Path | None) -> str:
    """What all processes have in common that share a lock directory, and no others."""
    try:
        info = directory.stat() if directory is not None else None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        info = None
    return secrets.token_hex(16) if info is None else digest([platform.node(), boot, info.st_dev, info.st_ino])
