"""A small JSON file of the store's that people may read and edit: read anew when it changes, changed by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gems_runtime import records
from gems_runtime.records import SCHEMA, Json
from gems_runtime.store.place import make_private

# One this large was not written for people.
_LIMIT = 4 << 20


class EditedFile:
    """The object `part` of a JSON file at `path`, which need not exist; `maker` is the command that writes one.

    Trouble is an OSError, nonsense a ValueError.
    """

    def __init__(self, path: Path, part: str, maker: str) -> None:
        self.path, self._part, self._maker = path, part, maker
        self._seen: tuple[int, int, int] | None = None
        self._held: dict[str, Json] = {}

    def current(self) -> dict[str, Json]:
        """What the file says now; nothing if it is not there."""
        try:
            info = self.path.stat()
        except OSError:
            return {}
        seen = info.st_ino, info.st_size, info.st_mtime_ns
        if seen != self._seen:
            self._held, self._seen = {}, seen
            self._held = self._read()
        return self._held

    def change(self, change: Callable[[dict[str, Json]], object]) -> None:
        """Let `change` alter what the file says, and publish that whole."""
        make_private(self.path.parent)
        with _locked(self.path.with_suffix(".lock")):
            held = dict(self.current())
            change(held)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent)  # 0600
            with open(handle, "w") as file:
                json.dump({"schema": SCHEMA, self._part: held}, file, indent=1, sort_keys=True, allow_nan=False)
            os.replace(temporary, self.path)

    def _read(self) -> dict[str, Json]:
        with self.path.open("rb") as file:
            blob = file.read(_LIMIT + 1)
        if len(blob) > _LIMIT:
            raise ValueError(f"the file {self.path} is larger than {_LIMIT >> 20} MiB")
        try:
            found = records.parse(blob.decode())
        except ValueError as error:
            raise ValueError(f"the file {self.path} is not understood: {error}") from None
        if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get(self._part), dict):
            raise ValueError(f"the file {self.path} is not of schema {SCHEMA}; {self._maker} writes one")
        return found[self._part]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: two that change the file at once must not lose one change."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
