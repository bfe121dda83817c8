"""`gems-cache verify`."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from gems_runtime.cli import selection
from gems_runtime.cli.output import DONE, FINDINGS, answer, bar, talk
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import GemsError

if TYPE_CHECKING:
    from gems_runtime.jobs import Job
    from gems_runtime.records import Json

_EPILOG = f"""Without a selection, the calls that were warmed on this device.

{selection.HELP}
examples:
  gems-cache verify --fresh                  # the gate of an image: nothing left to tune or compile
  gems-cache verify --from calls.jsonl --perf 5%

Exits with 1 if something is found.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    selection.add_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="also find calls that would be tuned or compiled")
    parser.add_argument("--perf", type=_share, metavar="N%", help="also find winners that are slower by this than another")


def _share(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?%", text):
        raise argparse.ArgumentTypeError(f"expected a percentage such as 5%, not {text!r}")
    return float(text[:-1]) / 100


def _run(options: argparse.Namespace) -> int:
    selection.require_compiler()
    target = selection.target_of(options)
    chosen = selection.jobs_of(options)
    from gems_runtime import audit
    from gems_runtime.target import running_for

    bad = _bad_entries()
    with running_for(target):
        jobs = chosen or _warmed()
        if options.fresh and not jobs:
            raise GemsError("nothing was warmed for this device, compiler and cache of kernels: give the calls to check, or warm them")
        found = list(audit.audit(bar(jobs, "verifying", "call"), options.fresh, options.perf))
    rows = [{"call": one.call, "kind": one.kind, "text": one.text} for one in found]
    lines = [f"{b['layer']} {b['name']}: {b['problem']}" for b in bad] + [str(one) for one in found]
    answer(options, {"calls": len(jobs), "bad_entries": bad, "findings": rows}, "\n".join(lines))
    talk(f"{len(jobs)} calls, {len(found) + len(bad)} findings")
    return FINDINGS if found or bad else DONE


def _warmed() -> list[Job]:
    from gems_runtime import jobs, journal

    return [jobs.from_record(record) for record in journal.done(journal.here()).values()]


def _bad_entries() -> list[dict[str, Json]]:
    """Entries of the store's layers that are torn, foreign or unsafe, and layers that cannot be read."""
    from gems_runtime import store

    own = store.current()
    bad = [{"layer": layer, "name": name, "problem": problem} for layer, name, problem in own.bad_entries()]
    return bad + [{"layer": layer.name, "name": layer.where, "problem": layer.problem} for layer in own.layers if layer.problem]


VERB = Verb("verify", "check entries, answers and speed of what was warmed", _run, _arguments, _EPILOG)
