"""`gems-cache explain`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gems_runtime.cli import selection
from gems_runtime.cli.ls import short
from gems_runtime.cli.output import DONE, FINDINGS, answer, talk
from gems_runtime.cli.parser import Verb
from gems_runtime.errors import UsageError

if TYPE_CHECKING:
    from gems_runtime.explain import Answer

_EPILOG = f"""{selection.HELP}
example:
  gems-cache explain mm --shape 4096x4096x4096

Exits with 1 if a call would be tuned, or has to do with its default configuration.
"""


def _run(options: argparse.Namespace) -> int:
    selection.require_compiler()
    jobs, target = selection.jobs_of(options), selection.target_of(options)
    if not jobs:
        raise UsageError("nothing to explain: name an operator or a kernel, or give --from or --model")
    from gems_runtime import explain
    from gems_runtime.target import running_for

    if target and not options.target:
        talk(f"no GPU here: asking as a device of {target} whose name is not known")
    with running_for(target):
        found = [one for job in jobs for one in explain.explain(job)]
    answer(options, [one.fields() for one in found], "\n".join(map(_text, found)))
    if not found:
        talk("no tuned kernel is launched")
    return DONE if all(one.is_stored for one in found) else FINDINGS


def _text(one: Answer) -> str:
    key = f" {one.key[:12]}" if one.key else ""
    lines = [f"{one.call}: {one.kernel}{key}: {one.source}: {short(one.config)}"]
    if one.nearest:
        lines.append(f"  nearest entry {one.nearest[:12]}, which differs in")
    return "\n".join([*lines, *(f"    {difference}" for difference in one.differs)])


VERB = Verb("explain", "which layer answers a call, or the nearest entry and how it differs", _run, selection.add_arguments, _EPILOG)
