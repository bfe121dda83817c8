"""The file layer: one JSON file an entry, published whole. For network mounts, and for directories that are read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gems_runtime.records import MAX_TEXT
from gems_runtime.store.place import make_private

_SUFFIX = ".json"
_TEMPORARY = ".writing-"
# How old the time of a file's last use may get.
_STAMP_S = 24 * 3600.0
# A file that a dead writer left; no write takes this long.
_ORPHAN_S = 3600.0


class Files:
    """Named texts in `directory`, which need not exist. Trouble is an OSError."""

    def __init__(self, directory: Path, is_ours: bool = False) -> None:
        self.directory = directory
        self._is_ours = is_ours

    def get(self, name: str) -> str | None:
        """The text, or None. Raises ValueError for bytes that are no text."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                # one more than a record may have: that is enough to refuse it
                blob = file.read(MAX_TEXT + 1)
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError as error:
            # ESTALE: another host of a network mount replaced the file while we opened it
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                return None
            raise
        if self._is_ours and age > _STAMP_S:
            # a directory that we only read keeps no times of use
            with contextlib.suppress(OSError):
                os.utime(path)
        return blob.decode()

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name in order with its text, or with None for a file that holds none."""
        for path in self._paths():
            name = f"{path.parts[-3]}/{path.name.removesuffix(_SUFFIX)}"
            try:
                text = self.get(name)
            except ValueError:
                yield name, None
                continue
            if text is not None:  # deleted since
                yield name, text

    def last_uses(self) -> dict[str, float]:
        """When each entry was last read, to within a day."""
        return {f"{p.parts[-3]}/{p.name.removesuffix(_SUFFIX)}": p.stat().st_mtime for p in self._paths()}

    def put(self, name: str, text: str) -> None:
        """Publish the text: readers see the entry of before or this one, never a part."""
        path = self._path(name)
        for folder in (self.directory, path.parent.parent, path.parent):
            make_private(folder)
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)  # 0600
        try:
            with open(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                # a rename may reach the disk before what was written
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def put_all(self, entries: Mapping[str, str]) -> None:
        """Publish these texts, one by one."""
        for name, text in entries.items():
            self.put(name, text)

    def delete_all(self, names: Iterable[str]) -> None:
        """Forget these texts, and what writers that died left."""
        for name in names:
            self._path(name).unlink(missing_ok=True)
        for orphan in self.directory.glob(f"?/??/{_TEMPORARY}*"):
            if time.time() - orphan.stat().st_mtime > _ORPHAN_S:
                orphan.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, name: str) -> Path:
        kind, _, key = name.partition("/")
        return self.directory / kind / key[:2] / f"{key}{_SUFFIX}"

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"?/??/*{_SUFFIX}"))
