"""The overrides file: decisions that a person pinned. They win over every other layer, and over a retuning."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from gems_runtime import records
from gems_runtime.records import SCHEMA, Decision, Json
from gems_runtime.store.place import make_private

# A file for people to read and edit; one this large was not written by one.
_LIMIT = 4 << 20


class Overrides:
    """Decisions in a JSON file at `path`, which need not exist. Trouble is an OSError, nonsense a ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._bodies: dict[str, Json] = {}

    def get(self, name: str) -> str | None:
        """The decision's text, or None. Raises ValueError if the entry, or the whole file, is not understood."""
        kind, _, key = name.partition("/")
        body = self._current().get(key) if kind == "d" else None
        return None if body is None else records.encode(records.from_body("d", body))

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name with its text, or with None for an entry that is not understood."""
        for key in sorted(self._current()):
            try:
                yield f"d/{key}", self.get(f"d/{key}")
            except ValueError:
                yield f"d/{key}", None

    def pin(self, decision: Decision) -> None:
        """Put a decision in the file."""
        self._change(lambda bodies: bodies.update({decision.key: asdict(replace(decision, source="pinned"))}))

    def unpin(self, key: str) -> None:
        """Take a decision out of the file, if it is there."""
        self._change(lambda bodies: bodies.pop(key, None))

    def _current(self) -> dict[str, Json]:
        try:
            info = self.path.stat()
        except OSError:
            return {}
        seen = info.st_ino, info.st_size, info.st_mtime_ns
        if seen != self._seen:
            self._bodies, self._seen = {}, seen
            self._bodies = self._read()
        return self._bodies

    def _read(self) -> dict[str, Json]:
        with self.path.open("rb") as file:
            blob = file.read(_LIMIT + 1)
        if len(blob) > _LIMIT:
            raise ValueError(f"the overrides file {self.path} is larger than {_LIMIT >> 20} MiB")
        try:
            found = records.parse(blob.decode())
        except ValueError as error:
            raise ValueError(f"the overrides file {self.path} is not understood: {error}") from None
        if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("decisions"), dict):
            raise ValueError(f"the overrides file {self.path} is not of schema {SCHEMA}; gems-cache pin writes one")
        return found["decisions"]

    def _change(self, change: object) -> None:
        make_private(self.path.parent)
        with _locked(self.path.with_suffix(".lock")):
            bodies = dict(self._current())
            change(bodies)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent)  # 0600
            with open(handle, "w") as file:
                json.dump({"schema": SCHEMA, "decisions": bodies}, file, indent=1, sort_keys=True, allow_nan=False)
            os.replace(temporary, self.path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: two that pin at once must not lose one pin."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
