"""The list of calls that were warmed, beside the store: `warm --resume` skips them, and `verify` makes them again."""

from __future__ import annotations

import json
from pathlib import Path

import triton

from gems_runtime import device, settings, toolchain
from gems_runtime.records import Json, canonical, digest
from gems_runtime.store.place import append_line


def path() -> Path:
    return settings.current().cache_dir / "warmed.jsonl"


def here() -> str:
    """What a warmed call is good for: this device or target, this compiler, this cache of compiled kernels."""
    return digest([device.identity().fields(), toolchain.fields(), triton.knobs.cache.dir])


def add(record: dict[str, Json], where: str) -> None:
    """Note that this call was warmed. Raises OSError."""
    append_line(path(), canonical({"record": record, "where": where}))
    toolchain.keep()


def done(where: str) -> dict[str, dict[str, Json]]:
    """Records of the calls warmed for `where`, by their canonical text. A line that is not ours is passed over."""
    if not Path(triton.knobs.cache.dir).is_dir():
        return {}
    return {canonical(line["record"]): line["record"] for line in _lines() if line.get("where") == where}


def _lines() -> list[dict[str, Json]]:
    try:
        texts = path().read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line of a run that was killed
        if isinstance(line, dict) and isinstance(line.get("record"), dict):
            found.append(line)
    return found
