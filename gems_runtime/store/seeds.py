"""The seeds file: what other tools found. A seed is tried beside a kernel's own configurations; none is a decision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gems_runtime.records import Json, canonical
from gems_runtime.store.edited import EditedFile

# Launch options that a seed may have; `ir_override` is none of them: it names a file.
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
# Of one kernel; each costs a benchmark of every problem that is tuned.
LIMIT = 64


@dataclass(frozen=True)
class Seed:
    """A configuration for the kernel of this name: its function's, or with the module before it."""

    kernel: str
    kwargs: Mapping[str, Json]
    options: Mapping[str, int]

    def fields(self) -> dict[str, Json]:
        return {"kwargs": dict(self.kwargs), **self.options}


def seed(kernel: str, fields: Json) -> Seed:
    """The seed that these fields describe. Raises ValueError."""
    if not re.fullmatch(r"[\w.<>]{1,300}", kernel):
        raise ValueError(f"{kernel[:60]!r} is no kernel's name")
    if not isinstance(fields, dict) or not isinstance(fields.get("kwargs"), dict):
        raise ValueError("a configuration is an object with `kwargs`")
    wrong = [n for n, v in fields["kwargs"].items() if not n.isidentifier() or isinstance(v, (list, dict))]
    if wrong:
        raise ValueError(f"the value of {wrong[0][:60]!r} is no number, text or null")
    options = {n: fields[n] for n in OPTIONS if fields.get(n) is not None}
    if any(type(value) is not int or value < 1 for value in options.values()):
        raise ValueError(f"one of {', '.join(OPTIONS)} is no positive number")
    return Seed(kernel, fields["kwargs"], options)


class Seeds:
    """Seeds in a JSON file at `path`, which need not exist. Trouble is an OSError, nonsense a ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = EditedFile(path, "seeds", "gems-cache import --from")

    def of(self, *kernels: str) -> list[Seed]:
        """The seeds of a kernel by each of its names, in order."""
        held = self._file.current()
        return [seed(name, fields) for name in kernels for fields in _list(held.get(name))]

    def add(self, seeds: Iterable[Seed]) -> list[Seed]:
        """Keep those that are new and for which there is room, and give them back."""
        fresh: list[Seed] = []
        wanted = list(seeds)
        self._file.change(lambda held: fresh.extend(_added(held, wanted)))
        return fresh

    def new(self, seeds: Iterable[Seed]) -> list[Seed]:
        """Those that `add` would keep."""
        return _added(dict(self._file.current()), list(seeds))

    def count(self) -> int:
        """How many there are, for all kernels."""
        return sum(len(_list(fields)) for fields in self._file.current().values())


def _added(held: dict[str, Json], wanted: list[Seed]) -> list[Seed]:
    """Put seeds in; which of them were not there."""
    fresh = []
    for one in wanted:
        having = _list(held.get(one.kernel))
        if len(having) < LIMIT and canonical(one.fields()) not in map(canonical, having):
            held[one.kernel] = [*having, one.fields()]
            fresh.append(one)
    return fresh


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
