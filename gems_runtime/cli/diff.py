"""`gems-cache diff`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gems_runtime.cli.ls import short
from gems_runtime.cli.output import DONE, FINDINGS, answer, talk
from gems_runtime.cli.parser import Verb

if TYPE_CHECKING:
    from gems_runtime.records import Decision, Json
    from gems_runtime.store.exchange import Difference


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a bundle, a store's directory, or `here` for the store in force")
    parser.add_argument("b", metavar="B", nargs="?", default="here", help="the same; `here` if it is left out")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.store import exchange

    a, b = (exchange.entries_at(place, store.current()) for place in (options.a, options.b))
    rows = [_row(difference) for difference in exchange.differences(a, b)]
    digests = [exchange.digest(a), exchange.digest(b)]
    answer(options, {"digests": digests, "differences": rows}, "\n".join(map(_text, rows)))
    if not options.json:
        talk(f"{len(rows)} problems differ; the digests are {' and '.join(digests)}")
    return FINDINGS if rows else DONE


def _row(difference: Difference) -> dict[str, Json]:
    known = difference.a or difference.b
    return {
        "key": difference.key,
        "kernel": difference.kernel,
        "problem": known.fields["problem"].get("key"),
        "device": known.fields["device"].get("name"),
        "a": _side(difference.a),
        "b": _side(difference.b),
    }


def _side(decision: Decision | None) -> Json:
    return None if decision is None else {"config": short(decision.config), "p50_us": decision.top[0][1]}


def _text(row: dict[str, Json]) -> str:
    sides = [f"  {name}  {_side_text(row[name])}" for name in ("a", "b")]
    return "\n".join([f"{row['key'][:12]}  {row['kernel']}  {row['problem']}  {row['device']}", *sides])


def _side_text(side: Json) -> str:
    return "-" if side is None else f"{side['p50_us']:10.1f} us  {side['config']}"


VERB = Verb("diff", "where two stores or bundles decide differently", _run, _arguments)
