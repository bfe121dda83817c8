"""Result files and the tables made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import measure


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, the field it shows, and how."""

    heading: str
    field: str
    form: str = ""

    def cell(self, row: Mapping[str, object]) -> str:
        value = row[self.field]
        return "-" if value is None else format(value, self.form)


def text_table(columns: Sequence[Column], rows: Iterable[Mapping[str, object]]) -> str:
    """Aligned columns for a terminal."""
    cells = [[c.heading for c in columns], *([c.cell(row) for c in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def print_table(columns: Sequence[Column], rows: Iterable[Mapping[str, object]]) -> None:
    print(text_table(columns, rows), flush=True)


def markdown_table(columns: Sequence[Column], rows: Iterable[Mapping[str, object]]) -> str:
    """The same as a Markdown table."""
    lines = [[c.heading for c in columns], ["---"] * len(columns), *([c.cell(row) for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def finish(path: str | None, name: str, rows: Sequence[Mapping[str, object]], extra: Mapping[str, object] | None = None) -> None:
    """Write a result file if one was asked for: machine, extra facts, rows."""
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"benchmark": name, **measure.machine(), **(extra or {}), "rows": list(rows)}, indent=1) + "\n")
