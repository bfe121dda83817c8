"""The tuning store: records by name, in memory first, then in the user's index on the local disk.

A kernel call never fails because of the store: what cannot be read is a miss, what cannot be written stays in memory,
and each is said once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gems_runtime import records, settings, stats
from gems_runtime.errors import StoreError
from gems_runtime.records import Decision, Measurement, Record
from gems_runtime.store import place

if TYPE_CHECKING:
    from gems_runtime.store.index import Index

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Store:
    """Records of one directory, or of this process alone if there is none. Opens nothing before it is asked."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._memory: dict[str, Record] = {}
        self._disk: Index | None = None
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def decision(self, key: str) -> Decision | None:
        return self._get(f"d/{key}")

    def measurement(self, key: str) -> Measurement | None:
        return self._get(f"m/{key}")

    def publish(self, record: Record) -> None:
        """Keep a record where other processes find it; in memory only if the disk will not take it."""
        self._memory[records.name_of(record)] = record
        try:
            text = records.encode(record)
        except ValueError as error:  # an enormous argument, say
            self._say("size", f"{records.name_of(record)} of {record.kernel} stays in memory: {error}")
            return
        self._on_disk(lambda index: index.put(records.name_of(record), text))

    def records(self) -> Iterator[Record]:
        """Every valid record, by name."""
        names = set(self._memory) | set(self._on_disk(lambda index: list(index.names())) or ())
        found = map(self._get, sorted(names))
        return (record for record in found if record is not None)

    def find(self, prefix: str) -> list[Record]:
        """Records whose key, or name, starts with these letters."""
        return [r for r in self.records() if r.key.startswith(prefix) or records.name_of(r).startswith(prefix)]

    def close(self) -> None:
        """Close the database; it opens again when it is asked."""
        if self._disk is not None:
            self._disk.close()

    def require_writable(self) -> None:
        """Raise StoreError if records could not be kept. Creates nothing that was not there."""
        if self.directory is None:
            raise StoreError("nothing would be kept: the store is in memory (GEMS_STORE=0, or unusable)")
        problem = place.why_unwritable(self.directory)
        if problem:
            raise StoreError(f"the store {self.directory} cannot be written: {problem}")

    def _get(self, name: str) -> Record | None:
        record = self._memory.get(name)
        if record is None:
            record = self._read(name)
            if record is not None:
                self._memory[name] = record
        return record

    def _read(self, name: str) -> Record | None:
        try:
            text = self._on_disk(lambda index: index.get(name))
            if text is None:
                return None
            record = records.decode(text)
            if records.name_of(record) != name:
                raise ValueError(f"it is the entry {records.name_of(record)}")
            return record
        except ValueError as error:
            # torn, foreign or unsafe: it goes, so that it is met once
            stats.count("rejected")
            self._say("entry", f"dropping the unreadable entry {name} of {self.directory}: {error}")
            self._on_disk(lambda index: index.delete(name), is_optional=True)
            return None

    def _on_disk(self, act: Callable[[Index], T], is_optional: bool = False) -> T | None:
        """Do something with the index; None if that fails, and then the disk is not asked again."""
        index = self._index()
        if index is None:
            return None
        from gems_runtime.store.index import ERRORS, is_broken

        try:
            try:
                return act(index)
            except ERRORS as error:
                if not is_broken(error):
                    raise
                stats.count("rejected")
                self._say("entry", f"setting the broken index of {self.directory} aside: {error}")
                index.set_aside()
                return act(index)
        except ERRORS as error:
            if not is_optional:
                self._give_up(str(error))
            return None

    def _index(self) -> Index | None:
        with self._lock:
            if self._disk is None and self.directory is not None:
                self._disk = self._find_index()
            return self._disk

    def _find_index(self) -> Index | None:
        problem = place.distrust(self.directory)
        try:
            # imported here: diskcache and sqlite3 cost 15 ms that an import of the package should not pay
            from gems_runtime.store.index import Index
        except ImportError as error:
            problem = str(error)
        if problem:
            self._give_up(problem)
            return None
        return Index(self.directory / "index")

    def _give_up(self, problem: str) -> None:
        """Go on in memory. The directory may be full, read-only or broken; no kernel call is to fail for it."""
        self._say("memory", f"the store {self.directory} is not used, results stay in memory: {problem}")
        self.directory, self._disk = None, None

    def _say(self, topic: str, message: str) -> None:
        if topic not in self._said:
            self._said.add(topic)
            _log.warning(message)


_current: tuple[int, Path | None, Store] | None = None


def open(directory: Path | None) -> Store:
    """A store in `directory` (None: in memory). Nothing is read or made before the first record is asked for."""
    return Store(directory)


def current() -> Store:
    """The store of the settings in force, one per process: a forked child starts its own."""
    global _current
    choice = settings.current()
    directory = choice.cache_dir if choice.store else None
    if _current is None or _current[0] != os.getpid() or _current[1] != directory:
        _current = (os.getpid(), directory, open(directory))
    return _current[2]
