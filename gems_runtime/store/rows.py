"""Reading the local index with SQLite alone: a first read costs 1 ms, where importing and opening diskcache costs 30."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gems_runtime.store.place import is_writable

# diskcache's own names.
DATABASE = "cache.db"
# Plain inline SQLite text; every other mode makes diskcache open a file that the row names, or unpickle.
INLINE = 1
# How old the time of a row's last use may get: reading writes at most once a day.
_STAMP_S = 24 * 3600.0
_PAGE = 1000
_ONE = "SELECT mode, filename, value, access_time FROM Cache WHERE raw = 1 AND key = ?"
_MANY = "SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND typeof(key) = 'text' AND key > ? ORDER BY key LIMIT ?"


class UnsafeRow(ValueError):
    """A row that this project did not write; reading it could run code or open a file of the writer's choice."""


class BrokenIndex(OSError):
    """The file is no database, or a damaged one; not merely busy, full or read-only."""


class sqlite_as_os_error:  # noqa: N801  a context manager; contextlib's would take 3 us, of a read's 40
    """In the `with` block trouble with a database is raised in terms of what every layer of the store raises."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(f"{self._path}: {error}") from error
        if isinstance(error, sqlite3.Error):
            raise BrokenIndex(f"{self._path}: {error}") from error


def text_of(mode: object, filename: object, value: object) -> str:
    """The text of a row. Raises UnsafeRow for a row that holds anything else."""
    if mode != INLINE or filename is not None or type(value) is not str:
        raise UnsafeRow("not inline text")
    return value


class Rows:
    """Named texts of the index in `directory`, which need not exist. Trouble is an OSError."""

    def __init__(self, directory: Path, is_ours: bool = False) -> None:
        self.path = directory / DATABASE
        self._is_ours = is_ours
        self._connection: sqlite3.Connection | None = None
        # which file is open, and in which process
        self.opened: tuple[int, int] | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> str | None:
        """The text, or None. Raises UnsafeRow."""
        with self._lock, sqlite_as_os_error(self.path):
            row = self._one(name)
            # another process may have set a broken database aside and begun a new one
            if row is None and self.opened not in (None, identity(self.path)):
                self._forget()
                row = self._one(name)
        if row is None:
            return None
        text = text_of(*row[:3])
        if self._is_ours and time.time() - row[3] > _STAMP_S:
            self._stamp(name)
        return text

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name in order with its text, or with None for a row that is unsafe."""
        last = ""
        while True:
            with self._lock, sqlite_as_os_error(self.path):
                connection = self._connect()
                # a page at a time: a reader that stops half way must not keep the log from being folded in
                page = connection.execute(_MANY, (last, _PAGE)).fetchall() if connection else []
            for name, *row in page:
                try:
                    # a name of ours is ASCII; another one is shown, and is no name
                    yield (name, text_of(*row)) if name.isascii() else (ascii(name), None)
                except UnsafeRow:
                    yield name, None
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def last_uses(self) -> dict[str, float]:
        """When each entry was last read, to within a day."""
        with self._lock, sqlite_as_os_error(self.path):
            connection = self._connect()
            query = "SELECT key, access_time FROM Cache WHERE raw = 1 AND typeof(key) = 'text'"
            return dict(connection.execute(query)) if connection else {}

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._forget()

    def _one(self, name: str) -> tuple[object, ...] | None:
        connection = self._connect()
        return connection.execute(_ONE, (name,)).fetchone() if connection else None

    def _connect(self) -> sqlite3.Connection | None:
        """The connection of this process; a forked child opens its own."""
        if self._connection is None or self._pid != os.getpid():
            self.opened, self._pid = identity(self.path), os.getpid()
            if self.opened is None:
                return None
            connection = sqlite3.connect(self._uri(), uri=True, timeout=30, check_same_thread=False, isolation_level=None)
            # bytes that are no text make a text with a wrong checksum, not trouble with the whole database
            connection.text_factory = lambda blob: blob.decode(errors="surrogateescape")
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone() is None:
                connection.close()  # another process is just making it
                return None
            self._connection = connection
        return self._connection

    def _uri(self) -> str:
        if self._is_ours and is_writable(self.path.parent):
            # not "ro": a connection that may not write cannot use the log that a killed process left
            return f"{self.path.absolute().as_uri()}?mode=rw"
        # A file that we may not write can only be read as if nobody wrote it. Unless another process has the database
        # open: then its log and the index of that are there to be read.
        is_live = self.path.with_name(f"{DATABASE}-shm").exists()
        return f"{self.path.absolute().as_uri()}?mode=ro{'' if is_live else '&immutable=1'}"

    def _forget(self) -> None:
        self._connection, self.opened = None, None

    def _stamp(self, name: str) -> None:
        """Note that the entry is in use. Not worth waiting for, nor failing for."""
        if not is_writable(self.path.parent):
            return
        try:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)
            try:
                with connection:
                    connection.execute("UPDATE Cache SET access_time = ? WHERE raw = 1 AND key = ?", (time.time(), name))
            finally:
                connection.close()
        except sqlite3.Error:
            return


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at the path now."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
