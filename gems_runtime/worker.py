"""A process of a crew: reads jobs as JSON lines, runs them on one device or for one target, answers with a line each.

Between the answers it says which configuration it is about to try, and null when it has: its crew may have to note that
it died of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict

from gems_runtime import device, jobs, native_status, records, vigil, warm
from gems_runtime.errors import GemsError, UsageError
from gems_runtime.records import Measurement
from gems_runtime.warm import Result

# The name under which such a line has the measurement, as the store has it.
TRYING = "trying"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gems_runtime.worker", description=__doc__)
    parser.add_argument("--device", type=int)
    parser.add_argument("--target")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(argv)
    # what a kernel's module prints must not stand between the answers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    here = contextlib.nullcontext() if options.device is None else device.using(options.device)

    def tell(measurement: Measurement | None) -> None:
        print(json.dumps({TRYING: _text(measurement)}), file=answers)

    with here, warm.working_for(options.target, options.resume) as runner, vigil.watched_by(tell):
        _prepare(with_device=options.device is not None)
        for line in sys.stdin:
            print(json.dumps(asdict(_run(runner, json.loads(line)))), file=answers)
    return 0


def _prepare(with_device: bool) -> None:
    """What the first job would wait for, while the crew is still importing what it takes to say which that is."""
    with contextlib.suppress(GemsError):  # the job that needs what cannot be imported will say so
        for provider in jobs.providers():
            provider.operator_names()
    if with_device:
        native_status()
        device.synchronize()


def _text(measurement: Measurement | None) -> str | None:
    try:
        return None if measurement is None else records.encode(measurement)
    except ValueError:  # one with an enormous argument is kept nowhere
        return None


def _run(runner: warm.Runner, record: dict) -> Result:
    try:
        return runner.run(jobs.from_record(record))
    except UsageError as error:
        return Result(str(record)[:200], str(error))


if __name__ == "__main__":
    raise SystemExit(main())
