"""`gems-cache show`."""

from __future__ import annotations

import argparse
import json
import time

from gems_runtime.cli.output import DONE, answer
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import GemsError, UsageError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the first letters of a key that `ls` shows")


def _run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from gems_runtime import store

    found = store.current().find(options.key)
    if not found:
        raise GemsError(f"the store {store.current().directory} has no entry {options.key}")
    if len(found) > 1:
        raise UsageError(f"{len(found)} entries begin with {options.key!r}; give more of the key")
    entry = asdict(found[0])
    entry["when"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[0].time))
    answer(options, entry, json.dumps(entry, sort_keys=True, indent=2))
    return DONE


VERB = Verb("show", "one entry with everything it holds", _run, _arguments)
