"""Which entries of the user's own layer may go. Nothing is ever removed that was not asked for."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from gems_runtime.records import Decision, Json, Measurement, Record, encode, name_of

_DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Wish:
    """What to remove. Toolchain is Triton's version and code hash of now: entries of another are stale."""

    unused_s: float | None = None
    toolchain: Mapping[str, Json] | None = None
    failed: bool = False
    max_bytes: int | None = None


def chosen(held: Collection[Record], used: Mapping[str, float], kept: Collection[str], wish: Wish) -> dict[str, str]:
    """Names to remove, each with the reason. `kept` are keys of pinned decisions; what was read since the boot stays."""
    now, protected = time.time(), _boot_time() - _DAY_S  # the time of a use is known to within a day
    last = _last_uses(held, used)
    reasons: dict[str, str] = {}
    free = [r for r in held if r.key not in kept and last[name_of(r)] < protected]
    for record in free:
        name = name_of(record)
        if wish.unused_s is not None and now - last[name] > wish.unused_s:
            reasons[name] = f"not used for {(now - last[name]) / _DAY_S:.0f} days"
        elif wish.toolchain is not None and _differs(record.fields.get("toolchain"), wish.toolchain):
            reasons[name] = "made with another Triton"
    for record in held:  # a failure is no use: it may go at once
        if wish.failed and isinstance(record, Measurement) and record.status != "ok":
            reasons.setdefault(name_of(record), f"failed: {record.status}")
    if wish.max_bytes is not None:
        reasons.update(_too_many(held, free, last, reasons, wish.max_bytes))
    return reasons


def _too_many(
    held: Collection[Record], free: Collection[Record], last: Mapping[str, float], gone: Collection[str], limit: int
) -> dict[str, str]:
    """The entries used least recently, until the others fit."""
    total = sum(len(encode(r)) for r in held if name_of(r) not in gone)
    reasons: dict[str, str] = {}
    for record in sorted((r for r in free if name_of(r) not in gone), key=lambda r: last[name_of(r)]):
        if total <= limit:
            break
        total -= len(encode(record))
        reasons[name_of(record)] = f"the store is larger than {limit} bytes"
    return reasons


def _last_uses(held: Collection[Record], used: Mapping[str, float]) -> dict[str, float]:
    """When each record was used last; what a decision was made from is used with it."""
    last = {name_of(r): max(used.get(name_of(r), 0.0), r.time) for r in held}
    for record in held:
        made_from = record.soft.get("measurements") if isinstance(record, Decision) else None
        for key in made_from if isinstance(made_from, list) else ():
            name = f"m/{key}"
            if name in last:
                last[name] = max(last[name], last[name_of(record)])
    return last


def _differs(stored: Json, live: Mapping[str, Json]) -> bool:
    return isinstance(stored, dict) and any(stored.get(name) != value for name, value in live.items())


def _boot_time() -> float:
    """When this machine was started; now where that is not known, which protects nothing that was used before today."""
    try:
        return time.time() - float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return time.time()
