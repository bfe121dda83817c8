"""Stores that others fill and we only read: directories, and bundles, named by the user or installed with a package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from gems_runtime.store import bundle
from gems_runtime.store.files import Files
from gems_runtime.store.rows import Rows

INDEX, FILES = "index", "entries"
# A package with tuned data names the package or module beside which its bundles lie.
PACKAGED = "gems_runtime.stores"


class Source(Protocol):
    """Named texts that can be read. Trouble is an OSError or StoreError, an entry that is none a ValueError."""

    def get(self, name: str) -> str | None: ...

    def items(self) -> Iterator[tuple[str, str | None]]: ...


def sources(path: Path) -> list[Source]:
    """What is to be read at a path: a bundle, or a store's directory with its files, index and bundles."""
    if path.suffix == bundle.SUFFIX:
        return [bundle.Bundle(path)]
    found: list[Source] = [Files(path / FILES)] if (path / FILES).is_dir() else []
    if (path / INDEX).is_dir():
        found.append(Rows(path / INDEX))
    return found + [bundle.Bundle(p) for p in sorted(path.glob(f"*{bundle.SUFFIX}"))]


def packaged() -> list[Path]:
    """Directories of the data that installed packages bring. The packages are found, not imported."""
    found = []
    for entry in importlib.metadata.entry_points(group=PACKAGED):
        # a dotted name would import the packages above it: what they are is not known, so only the first part is used
        top, _, rest = entry.module.partition(".")
        spec = importlib.util.find_spec(top)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found.append(Path(place, *filter(None, rest.split("."))))
    return found
