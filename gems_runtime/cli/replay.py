"""`gems-cache replay`."""

from __future__ import annotations

import argparse
from statistics import median
from typing import TYPE_CHECKING

from gems_runtime.cli.ls import short
from gems_runtime.cli.output import DONE, FINDINGS, answer, talk
from gems_runtime.cli.parser import Verb

if TYPE_CHECKING:
    from gems_runtime.replay import Replayed


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", nargs="?", default="", help="only kernels whose name contains this")


def _run(options: argparse.Namespace) -> int:
    from gems_runtime import store
    from gems_runtime.replay import replay

    found = [one for one in replay(store.current()) if options.kernel in one.kernel]
    flips = [one for one in found if one.flips]
    regrets = [one.regret for one in found if one.regret is not None]
    summary = {
        "decisions": len(found),
        "without_measurements": sum(one.best is None for one in found),
        "flips": len(flips),
        "median_regret": median(regrets) if regrets else None,
        "largest_regret": max(regrets, default=None),
    }
    answer(options, {**summary, "flipped": [one.fields() for one in flips]}, "\n".join(map(_line, flips)))
    talk(_sentence(summary))
    return FINDINGS if flips else DONE


def _line(one: Replayed) -> str:
    regret = "not measured" if one.regret is None else f"{100 * one.regret:.1f}% slower"
    return f"{one.key[:12]}  {one.kernel}  {short(one.config)} is {regret}; now {short(one.best)}"


def _sentence(summary: dict[str, object]) -> str:
    regret = ""
    if summary["median_regret"] is not None:
        regret = f", regret {100 * summary['median_regret']:.2f}% median, {100 * summary['largest_regret']:.2f}% at most"
    without = f", {summary['without_measurements']} without measurements" if summary["without_measurements"] else ""
    return f"{summary['decisions']} decisions, {summary['flips']} flips{regret}{without}"


VERB = Verb("replay", "decide again from the measurements, with no GPU: flips and regret", _run, _arguments)
