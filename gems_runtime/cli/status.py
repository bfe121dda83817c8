"""`gems-cache status`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, aligned, answer
from gems_runtime.cli.parser import Verb

if TYPE_CHECKING:
    from gems_runtime.records import Decision, Json
    from gems_runtime.store import Store
    from gems_runtime.store.stack import Layer


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import settings, store
    from gems_runtime.records import Decision
    from gems_runtime.store import place, ranks

    choice, own = settings.current(), store.current()
    held = list(own.records())
    decisions = [record for record in held if isinstance(record, Decision)]
    found = {
        "store": str(choice.cache_dir) if choice.store else None,
        "exists": choice.cache_dir.is_dir(),
        "filesystem": place.filesystem(choice.cache_dir),
        "bytes": sum(f.stat().st_size for f in choice.cache_dir.rglob("*") if f.is_file()),
        "decisions": len(decisions),
        "measurements": len(held) - len(decisions),
        "seeds": own.seed_count(),
        "mode": choice.tune.value,
        "kernels": len({record.kernel for record in held}),
        "devices": sorted({str(record.fields["device"].get("name")) for record in held}),
        "digest": ranks.digest(decisions),
        "drift": _drift(decisions),
        "layers": [_layer(own, layer) for layer in own.layers],
    }
    lines = [f"layer {row['name']:8} {row['entries']:7} entries  {row['where']}  {row['problem']}".rstrip() for row in found["layers"]]
    answer(options, found, "\n".join([aligned({n: v for n, v in found.items() if n != "layers"}), *lines]))
    return DONE


def _layer(own: Store, layer: Layer) -> dict[str, Json]:
    entries = sum(1 for _ in own.records_of(layer))
    problem = layer.problem
    if layer.name == "redis" and not own.remote.answers():
        problem = "does not answer"
    return {"name": layer.name, "where": layer.where, "entries": entries, "problem": problem}


def _drift(decisions: list[Decision]) -> dict[str, int]:
    """How many decisions were made with another torch or driver (used all the same), or another Triton (which are not)."""
    from gems_runtime import surroundings

    made, triton = Counter(), surroundings.installed("triton")
    for decision in decisions:
        made.update(f"{name} {was}" for name, (was, _) in surroundings.drift(decision.soft).items())
        toolchain = decision.fields.get("toolchain")
        was = toolchain.get("triton") if isinstance(toolchain, dict) else None
        made.update([f"triton {was}"] if was not in (None, triton) else [])
    return dict(made)


VERB = Verb("status", "where the store is and what it holds", _run)
