"""`gems-cache doctor`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gems_runtime.cli.output import DONE, ENVIRONMENT, answer
from gems_runtime.cli.parser import Verb


def _run(options: argparse.Namespace) -> int:
    from gems_runtime.doctor import checks

    found = list(checks())
    lines = [f"{check.state:5} {check.name:17} {check.text}" for check in found]
    answer(options, [asdict(check) for check in found], "\n".join(lines))
    return ENVIRONMENT if any(check.state == "bad" for check in found) else DONE


VERB = Verb("doctor", "what on this machine may spoil tuning or lose its results", _run)
