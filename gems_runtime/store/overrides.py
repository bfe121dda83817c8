"""The overrides file: decisions that a person pinned. They win over every other layer, and over a retuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from gems_runtime import records
from gems_runtime.records import Decision
from gems_runtime.store.edited import EditedFile


class Overrides:
    """Decisions in a JSON file at `path`, which need not exist. Trouble is an OSError, nonsense a ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = EditedFile(path, "decisions", "gems-cache pin")

    def get(self, name: str) -> str | None:
        """The decision's text, or None. Raises ValueError if the entry, or the whole file, is not understood."""
        kind, _, key = name.partition("/")
        body = self._file.current().get(key) if kind == "d" else None
        return None if body is None else records.encode(records.from_body("d", body))

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name with its text, or with None for an entry that is not understood."""
        for key in sorted(self._file.current()):
            try:
                yield f"d/{key}", self.get(f"d/{key}")
            except ValueError:
                yield f"d/{key}", None

    def pin(self, decision: Decision) -> None:
        """Put a decision in the file."""
        self._file.change(lambda bodies: bodies.update({decision.key: asdict(replace(decision, source="pinned"))}))

    def unpin(self, key: str) -> None:
        """Take a decision out of the file, if it is there."""
        self._file.change(lambda bodies: bodies.pop(key, None))
