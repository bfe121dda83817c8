"""`gems-cache merge`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gems_runtime.cli.import_ import RULES_HELP
from gems_runtime.cli.output import DONE, aligned, answer
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import StoreError, UsageError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="the bundle to make, NAME.gemsx")
    parser.add_argument("places", metavar="PLACE", nargs="+", help="bundles and stores' directories; `here` is the store in force")
    parser.add_argument("--merge", choices=("best", "newer", "ours", "theirs"), default="best", help=RULES_HELP + " (ours is the earlier PLACE)")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.records import Record, name_of
    from gems_runtime.store import bundle, exchange

    if options.out.suffix != bundle.SUFFIX:
        raise UsageError(f"a bundle's name ends in {bundle.SUFFIX}, found {options.out}")
    held: dict[str, Record] = {}
    replaced = 0
    for place in options.places:
        for change in exchange.changes(held, exchange.entries_at(place, store.current()), options.merge):
            replaced += change.action == "replace"
            held[name_of(change.record)] = change.record
    try:
        bundle.write(options.out, held.values())
    except OSError as error:
        raise StoreError(f"{options.out} cannot be written: {error.strerror or error}") from None
    made = {"bundle": str(options.out), "entries": len(held), "replaced": replaced, "digest": exchange.digest(held)}
    answer(options, made, aligned(made))
    return DONE


VERB = Verb("merge", "make one bundle of several bundles and stores", _run, _arguments)
