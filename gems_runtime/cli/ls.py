"""`gems-cache ls`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gems_runtime.cli.output import DONE, answer, talk
from gems_runtime.cli.parser import Verb

if TYPE_CHECKING:
    from gems_runtime.records import Decision, Json


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", nargs="?", default="", help="only kernels whose name contains this")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.records import Decision

    found = [r for r in store.current().records() if isinstance(r, Decision) and options.kernel in r.kernel]
    rows = [_row(r) for r in found]
    answer(options, rows, "\n".join(map(_line, rows)))
    if not options.json:
        talk(f"{len(found)} decisions")
    return DONE


def _row(decision: Decision) -> dict[str, Json]:
    return {
        "key": decision.key,
        "kernel": decision.kernel,
        "config": short(decision.config),
        "p50_us": decision.top[0][1],
        "margin": decision.margin,
        "problem": decision.fields["problem"].get("key"),
        "device": decision.fields["device"].get("name"),
        "time": decision.time,
    }


def _line(row: dict[str, Json]) -> str:
    margin = "" if row["margin"] is None else f"{100 * row['margin']:.1f}%"
    return f"{row['key'][:12]}  {row['p50_us']:10.1f} us {margin:>7}  {row['kernel']}  {row['config']}  {row['device']}"


def short(config: dict[str, Json]) -> str:
    """A stored configuration on one line."""
    options = {n: v for n, v in config.items() if n not in ("kwargs", "pre_hook") and v is not None}
    return " ".join(f"{n}={v}" for n, v in {**config["kwargs"], **options}.items())


VERB = Verb("ls", "one line for each decision", _run, _arguments)
