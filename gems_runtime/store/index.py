"""The local index: a diskcache database that holds JSON text and nothing else, opened when it is first needed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gems_runtime import stats
from gems_runtime.store.place import make_private
from gems_runtime.store.rows import BrokenIndex, Rows, identity, sqlite_as_os_error

if TYPE_CHECKING:
    import diskcache

T = TypeVar("T")
# 100,000 decisions of 3 KB with their measurements. Nothing is evicted: beyond this, writing fails and says so.
_SIZE_LIMIT = 4 << 30
# How long a write waits for other processes.
LOCKED_S = 30
# Longer than any record, so that no value is moved to a file beside the database.
_INLINE_LIMIT = 1 << 20
# Entries written in one transaction.
_BATCH = 500
_log = logging.getLogger(__name__)


class Index:
    """Named texts in `directory`. Reading an index that does not exist creates nothing. Trouble is an OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rows = Rows(directory, is_ours=True)
        self._opened: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        return self._rows.path.exists()

    def get(self, name: str) -> str | None:
        """The text, or None. Raises UnsafeRow."""
        return self._repaired(lambda: self._rows.get(name))

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name in order with its text, or with None for a row that is unsafe."""
        return iter(self._repaired(lambda: list(self._rows.items())))

    def last_uses(self) -> dict[str, float]:
        """When each entry was last read, to within a day."""
        return self._repaired(self._rows.last_uses)

    def put(self, name: str, text: str) -> None:
        """Keep the text."""
        self._write(lambda: self._put(name, text))

    def put_all(self, entries: Mapping[str, str]) -> None:
        """Keep these texts, some hundreds in one transaction: other processes write in between."""
        pending = list(entries.items())
        for start in range(0, len(pending), _BATCH):
            self._in_one(lambda some=pending[start : start + _BATCH]: [self._put(name, text) for name, text in some])

    def delete_all(self, names: Iterable[str]) -> None:
        """Forget these texts."""
        if self.exists:
            self._in_one(lambda: [self._cache.delete(name) for name in names])

    def _in_one(self, act: Callable[[], object]) -> None:
        def transaction() -> None:
            with self._cache.transact():
                act()

        self._write(transaction)

    def _write(self, act: Callable[[], object]) -> None:
        from gems_runtime.store.disk import Timeout

        try:
            self._repaired(act)
        except Timeout:
            raise OSError(f"{self.directory} has been locked for {LOCKED_S} s") from None

    def _put(self, name: str, text: str) -> None:
        cache = self._cache
        if self._rows.path.stat().st_size > _SIZE_LIMIT:
            raise OSError(f"{self.directory} holds more than {_SIZE_LIMIT >> 30} GiB")
        cache.set(name, text)

    def close(self) -> None:
        """Close the database; it opens again when it is asked."""
        self._rows.close()
        if "_cache" in self.__dict__:
            self._cache.close()
            del self._cache
        self._opened = None

    @cached_property
    def _cache(self) -> diskcache.Cache:
        from gems_runtime.store.disk import open_cache

        make_private(self.directory)  # diskcache would make it 0755
        # and the database 0644; SQLite gives its log the same permissions
        os.close(os.open(self._rows.path, os.O_RDWR | os.O_CREAT, 0o600))
        self._opened = identity(self._rows.path)
        return open_cache(self.directory, LOCKED_S, _SIZE_LIMIT, _INLINE_LIMIT)

    def _repaired(self, act: Callable[[], T]) -> T:
        """`act()`, and if the database is broken, once more without it."""
        try:
            with sqlite_as_os_error(self._rows.path):
                return act()
        except BrokenIndex as error:
            self._set_aside(error)
        with sqlite_as_os_error(self._rows.path):
            return act()

    def _set_aside(self, error: BrokenIndex) -> None:
        """Move the database that is broken out of the way, unless another process has done so and begun a new one."""
        seen = self._opened or self._rows.opened
        self.close()
        if seen == identity(self._rows.path):
            stats.count("rejected")
            _log.warning("setting a broken index aside: %s", error)
            self.directory.rename(self.directory.with_name(f"{self.directory.name}.broken-{time.time_ns()}"))
