"""`gems-cache show`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, answer
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import GemsError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Record


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the first letters of a key that `ls` shows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the times of the candidates as a PNG")


def _run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gems_runtime import store

    found = store.current().find(options.key)
    if not found:
        raise GemsError(f"the store {store.current().where} has no entry {options.key}")
    if len(found) > 1:
        raise UsageError(f"{len(found)} entries begin with {options.key!r}; give more of the key")
    if options.plot:
        _plot(found[0], options.plot)
    entry = asdict(found[0])
    entry["when"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[0].time))
    answer(options, entry, json.dumps(entry, sort_keys=True, indent=2))
    return DONE


def _plot(record: Record, path: Path) -> None:
    from gems_runtime import store
    from gems_runtime.cli.plot import draw
    from gems_runtime.records import Decision

    if not isinstance(record, Decision):
        raise UsageError(f"{record.key} is one measurement; --plot draws those of a decision")
    draw(record, store.current(), path)


VERB = Verb("show", "one entry with everything it holds", _run, _arguments)
