"""`gems-cache status`."""

from __future__ import annotations

import argparse

from gems_runtime.cli.output import DONE, aligned, answer
from gems_runtime.cli.parser import Verb


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import settings, store
    from gems_runtime.records import Decision

    choice = settings.current()
    held = list(store.current().records())
    decisions = sum(isinstance(record, Decision) for record in held)
    found = {
        "store": str(choice.cache_dir) if choice.store else None,
        "exists": choice.cache_dir.is_dir(),
        "bytes": sum(f.stat().st_size for f in choice.cache_dir.rglob("*") if f.is_file()),
        "decisions": decisions,
        "measurements": len(held) - decisions,
        "mode": choice.tune.value,
        "kernels": len({record.kernel for record in held}),
        "devices": sorted({str(record.fields["device"].get("name")) for record in held}),
    }
    answer(options, found, aligned(found))
    return DONE


VERB = Verb("status", "where the store is and what it holds", _run)
