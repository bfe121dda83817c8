"""`gems-cache import`."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.ls import short
from gems_runtime.cli.output import DONE, answer, talk
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import StoreError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Json
    from gems_runtime.store.bundle import Bundle
    from gems_runtime.store.exchange import Change

RULES_HELP = "for an entry that both have: the faster (best), the later (newer), ours or theirs"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="a bundle that `gems-cache export` made")
    add("--merge", choices=("best", "newer", "ours", "theirs"), default="best", help=RULES_HELP)
    add("--with-kernels", action="store_true", help="also its compiled code, which this machine's GPU would run")
    add("--trust", metavar="KEY", type=Path, help="refuse a bundle that this public key (PEM) did not sign; GEMS_TRUSTED_KEY")
    add("--from", dest="origin", choices=("fla", "triton", "vllm-moe"), help="FILE is another tool's; see below")
    add("--kernel", metavar="NAME", help="the kernel that such a file is for: its function's name, or package.module.function")
    add("--dry-run", action="store_true", help="say what would change and change nothing")


def _run(options: argparse.Namespace) -> int:
    if options.origin:
        if options.trust:
            raise UsageError("--trust is for bundles; of another tool's file nothing is believed, see below")
        return _seed(options)
    if options.kernel:
        raise UsageError("--kernel names the kernel of another tool's file; a bundle says itself what its entries are for")
    return _take_over(options)


def _seed(options: argparse.Namespace) -> int:
    """Keep another tool's configurations for the next tuning."""
    from gems_runtime import foreign, store

    own = store.current()
    found = list(foreign.READERS[options.origin](options.file, options.kernel))
    own.require_writable()
    try:
        new = own.seeds.new(found) if options.dry_run else own.seeds.add(found)
    except (OSError, ValueError) as error:
        raise StoreError(f"the seeds cannot be kept: {error}") from None
    rows = [{"kernel": one.kernel, **one.fields()} for one in new]
    lines = [f"{row['kernel']}  {short(row)}" for row in rows]
    kept = {"seeds": rows, "read": len(found), "dry_run": options.dry_run}
    answer(options, kept, "\n".join(lines))
    if not options.json:
        verb = "would be" if options.dry_run else "were"
        talk(f"{len(rows)} of {len(found)} configurations {verb} kept as seeds; warm, or warm --refresh, tries them")
    return DONE


def _take_over(options: argparse.Namespace) -> int:
    from gems_runtime import settings, store
    from gems_runtime.records import name_of
    from gems_runtime.store import bundle, exchange, signing

    own = store.current()
    if options.trust:
        signing.public_key(options.trust)  # a wrong option is said as one
    with settings.override(trusted_key=options.trust or settings.current().trusted_key):
        opened = bundle.Bundle(options.file)
    # all of it is verified before anything of it is kept
    theirs = {name_of(r): r for r in opened.records()}
    if options.with_kernels:
        opened.verify_kernels()
    changes = exchange.changes({name_of(r): r for r in own.records()}, theirs, options.merge)
    taken = [c.record for c in changes if c.action in ("add", "replace")]
    if not options.dry_run:
        own.require_writable()
        own.keep(taken)
    installed = 0 if options.dry_run or not options.with_kernels else _install(opened)
    counts = Counter(c.action for c in changes)
    found = {
        **{action: counts[action] for action in ("add", "replace", "keep", "same")},
        "compiled": installed,
        "devices": dict(Counter(str(r.fields["device"].get("name")) for r in theirs.values())),
        "dry_run": options.dry_run,
        "entries": [_row(c) for c in changes if c.action != "same"],
    }
    answer(options, found, "\n".join(_line(row) for row in found["entries"]))
    if not options.json:
        verb = "would be" if options.dry_run else "were"
        rest = f"{counts['keep']} of ours kept, {counts['same']} were the same; {installed} compiled kernels"
        talk(f"{len(taken)} entries {verb} taken over, {rest}")
    return DONE


def _install(opened: Bundle) -> int:
    import triton

    from gems_runtime.store import kernels

    cache = Path(triton.knobs.cache.dir)
    try:
        return kernels.install(opened, cache)
    except OSError as error:
        raise StoreError(f"Triton's cache {cache} cannot be written: {error}") from None


def _row(change: Change) -> dict[str, Json]:
    from gems_runtime.records import name_of

    record = change.record
    return {
        "action": change.action,
        "name": name_of(record),
        "kernel": record.kernel,
        "problem": record.fields["problem"].get("key"),
        "device": record.fields["device"].get("name"),
    }


def _line(row: dict[str, Json]) -> str:
    return f"{row['action']:8} {row['name'][:14]}  {row['kernel']}  {row['problem']}  {row['device']}"


_EPILOG = """\
--from fla        NAME.json of flash-linear-attention's configs/GPU, or the directory
--from triton     NAME.autotune.json, which @triton.autotune(cache_results=True) writes, or a directory of them
--from vllm-moe   E=..,N=..,device_name=...json of vLLM's and SGLang's fused mixture of experts; needs --kernel

What another tool found elsewhere decides nothing here: it is kept as seeds, which are tried, checked and timed beside the
kernel's own configurations whenever that is tuned. Those fit that set what the kernel's own set.
"""
VERB = Verb("import", "take over the entries of a bundle, or seeds of another tool's file", _run, _arguments, _EPILOG)
