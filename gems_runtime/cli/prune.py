"""`gems-cache prune`."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, answer, talk
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Json

_UNITS = {"s": 1, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--unused", type=_duration, metavar="90d", help="entries that no process has read for so long (s, h, d, w)")
    add("--env", choices=("stale",), help="entries that another Triton than the installed one made")
    add("--failed", action="store_true", help="measurements of configurations that failed")
    add("--max-bytes", type=_size, metavar="100M", help="the entries used least recently, until the others take no more than this")
    add("--apply", action="store_true", help="delete them; without this they are listed")
    add("--dry-run", action="store_true", help="list them, which is also what happens without --apply")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.records import name_of
    from gems_runtime.store import pruning

    if options.unused is None and not (options.env or options.failed) and options.max_bytes is None:
        raise UsageError("nothing to prune: give --unused, --env stale, --failed or --max-bytes")
    own = store.current()
    held = {name_of(r): r for layer in own.layers if layer.name == "user" for r in own.records_of(layer)}
    kept = {r.key for layer in own.layers if layer.name == "overrides" for r in own.records_of(layer)}
    wish = pruning.Wish(options.unused, _toolchain() if options.env else None, options.failed, options.max_bytes)
    reasons = pruning.chosen(held.values(), own.last_uses(), kept, wish)
    is_applied = options.apply and not options.dry_run
    if is_applied:
        own.require_writable()
        own.remove(reasons)
    rows = [{"name": name, "kernel": held[name].kernel, "reason": reason} for name, reason in sorted(reasons.items())]
    answer(options, {"removed": is_applied, "entries": rows}, "\n".join(f"{r['name'][:14]}  {r['kernel']}  {r['reason']}" for r in rows))
    if not options.json:
        talk(f"{len(rows)} of {len(held)} entries {'were removed' if is_applied else 'would go; --apply removes them'}")
    return DONE


def _toolchain() -> dict[str, Json]:
    """What is the same in every entry that the installed Triton can use."""
    import triton

    from gems_runtime import toolchain

    return {"triton": triton.__version__, "code": toolchain.code_hash()}


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+)([shdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time such as 90d, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"expected a size such as 100M, not {text!r}")
    return int(found[1]) * _SIZES[found[2]]


VERB = Verb("prune", "remove entries of the user's store that are of no more use", _run, _arguments)
