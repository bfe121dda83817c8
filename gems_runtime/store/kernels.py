"""Compiled kernels of Triton's own cache, as they travel in a bundle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.store.place import make_private

if TYPE_CHECKING:
    from gems_runtime.store.bundle import Bundle

_GROUP = "__grp__"
# What a launch needs: its description and the code. The texts on the way to the code name files of this machine.
_NEEDED = (".json", ".cubin", ".hsaco")


def collect(cache: Path, names: Collection[str]) -> dict[str, bytes]:
    """Files of the compiled kernels with these names, by `TRITON_KEY/FILE`.

    Triton's key is a hash of source, options and compiler, so a kernel is found again only by the very same.
    """
    found: dict[str, bytes] = {}
    for group in sorted(cache.glob(f"*/{_GROUP}*.json")):
        if group.name.removeprefix(_GROUP).removesuffix(".json") in names:
            for child in sorted(json.loads(group.read_text())["child_paths"]):
                file = group.parent / child
                if file.is_file() and file.suffix in _NEEDED:
                    found[f"{group.parent.name}/{child}"] = file.read_bytes()
    return found


def install(bundle: Bundle, cache: Path) -> int:
    """Put a bundle's kernels into Triton's cache; how many were not there. Each appears whole or not at all."""
    by_key: dict[str, list[str]] = {}
    for name in bundle.kernels:
        key, _, file = name.partition("/")
        by_key.setdefault(key, []).append(file)
    missing = {key: files for key, files in by_key.items() if not (cache / key).exists()}
    if missing:
        make_private(cache)
    for key, files in missing.items():
        _install_one(bundle, cache, key, files)
    return len(missing)


def _install_one(bundle: Bundle, cache: Path, key: str, files: list[str]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=".importing-", dir=cache))
    try:
        for file in files:
            (draft / file).write_bytes(bundle.kernel(f"{key}/{file}"))
        # Triton finds a kernel's files by a list of where they are, which is another place here
        for file in files:
            if file.endswith(".json"):
                children = {child: str(cache / key / child) for child in files}
                (draft / f"{_GROUP}{file}").write_text(json.dumps({"child_paths": children}))
        os.rename(draft, cache / key)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not (cache / key).exists():  # else another process was faster
            raise
