"""The local index: a diskcache database that holds JSON text and nothing else, opened when it is first needed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import diskcache

from gems_runtime.store.place import is_writable, make_private

# Plain inline SQLite text; every other mode makes diskcache open a file that the row names, or unpickle.
_INLINE = 1
# 100,000 decisions of 3 KB with their measurements. Nothing is evicted: beyond this, writing fails and says so.
_SIZE_LIMIT = 4 << 30
# Longer than any record, so that no value is moved to a file beside the database.
_INLINE_LIMIT = 1 << 20
# What reading or writing the database may raise; diskcache lets SQLite's own errors through.
ERRORS = (sqlite3.Error, diskcache.Timeout, OSError)


class UnsafeRow(ValueError):
    """A row that this project did not write; reading it could run code or open a file of the writer's choice."""


class TextDisk(diskcache.Disk):
    """Keys and values are text stored inline. Rows of any other kind are refused before they are looked into."""

    def put(self, key: str) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"store keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: bool) -> str:
        # Not raised: diskcache calls this while iterating, and one planted key must not hide the rest.
        return key if raw and type(key) is str else ""

    def store(self, value: str, read: bool, key: object = diskcache.UNKNOWN) -> tuple[int, int, None, str]:
        if read or type(value) is not str:
            raise TypeError(f"store values are text, not {type(value).__name__}")
        return len(value), _INLINE, None, value

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> str:
        if mode != _INLINE or filename is not None or type(value) is not str:
            raise UnsafeRow("not inline text")
        return value

    def remove(self, file_path: str) -> None:
        """Nothing: we store no files, so a row that names one was planted to have it deleted."""


class Index:
    """Named texts in `directory`. Reading an index that does not exist creates nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cache: diskcache.Cache | None = None
        self._file: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def get(self, name: str) -> str | None:
        """The text, or None. Raises UnsafeRow, or one of ERRORS if the database cannot be read."""
        if not self.exists:
            return None
        if is_writable(self.directory):
            return self._open().get(name)
        rows = self._frozen("SELECT mode, filename, value FROM Cache WHERE raw = 1 AND key = ?", name)
        return TextDisk(str(self.directory)).fetch(*rows[0], False) if rows else None

    def put(self, name: str, text: str) -> None:
        """Keep the text. Raises one of ERRORS."""
        cache = self._open()
        if cache.volume() > _SIZE_LIMIT:
            raise OSError(f"{self.directory} holds more than {_SIZE_LIMIT >> 30} GiB")
        cache.set(name, text)

    def delete(self, name: str) -> None:
        """Forget the text. Raises one of ERRORS."""
        if self.exists:
            self._open().delete(name)

    def names(self) -> Iterator[str]:
        """Every name in order. Rows whose key is not text are passed over."""
        if not self.exists:
            return
        if is_writable(self.directory):
            yield from filter(None, self._open().iterkeys())
        else:
            yield from (row[0] for row in self._frozen("SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'text'"))

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def set_aside(self) -> None:
        """Move a database that SQLite calls broken out of the way, unless another process has. Raises OSError."""
        self.close()
        if self._file == _identity(self._path):
            self.directory.rename(self.directory.with_name(f"{self.directory.name}.broken-{time.time_ns()}"))

    @property
    def _path(self) -> Path:
        return self.directory / diskcache.core.DBNAME

    def _open(self) -> diskcache.Cache:
        if self._cache is None:
            make_private(self.directory)  # diskcache would make it 0755
            self._file = _identity(self._path)
            self._cache = diskcache.Cache(
                str(self.directory),
                timeout=30,
                disk=TextDisk,
                eviction_policy="none",
                cull_limit=0,
                statistics=0,
                tag_index=0,
                size_limit=_SIZE_LIMIT,
                disk_min_file_size=_INLINE_LIMIT,
            )
            self._file = _identity(self._path)
        return self._cache

    def _frozen(self, query: str, *values: str) -> list[tuple[object, ...]]:
        """Rows of a database in a directory that we may not write; diskcache writes when it opens one."""
        con = sqlite3.connect(f"{self._path.absolute().as_uri()}?immutable=1", uri=True)
        try:
            return con.execute(query, values).fetchall()
        finally:
            con.close()


def is_broken(error: Exception) -> bool:
    """True if SQLite says that the file is no database, or a damaged one; not that it is busy, full or read-only."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at the path now."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino
