"""diskcache made safe, for writing the local index. Imported when the first result is published: it costs 12 ms."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import diskcache
from diskcache import Timeout as Timeout

from gems_runtime.store.rows import DATABASE, INLINE, text_of

assert diskcache.core.DBNAME == DATABASE


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
        return len(value), INLINE, None, value

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> str:
        return text_of(mode, filename, value)

    def remove(self, file_path: str) -> None:
        """Nothing: we store no files, so a row that names one was planted to have it deleted."""


def open_cache(directory: Path, timeout_s: float, size_limit: int, inline_limit: int) -> diskcache.Cache:
    """The database for writing. Evicts nothing and keeps no statistics. Raises sqlite3.Error and Timeout."""
    try:
        return diskcache.Cache(
            str(directory),
            timeout=timeout_s,
            disk=TextDisk,
            eviction_policy="none",
            cull_limit=0,
            statistics=0,
            tag_index=0,
            size_limit=size_limit,
            disk_min_file_size=inline_limit,
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # it takes settings from the database, and does not doubt them
        raise sqlite3.DatabaseError(f"settings that diskcache does not understand: {error}") from error
