"""The log of kernel calls that found no decision, written in record mode and read by `gems-cache warm --from`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from gems_runtime import argspec, fingerprint, settings
from gems_runtime.candidates import Call
from gems_runtime.records import Json
from gems_runtime.store.place import make_private

_log = logging.getLogger(__name__)
_written: set[tuple[str, str]] = set()


def log_path() -> Path:
    """Where the log of the settings in force lies."""
    return settings.current().cache_dir / "untuned.jsonl"


def append(call: Call) -> None:
    """Add the call to the log, once per process. A log that cannot be written is said once and skipped."""
    line = json.dumps(line_of(call), sort_keys=True)
    path = log_path()
    if (str(path), line) in _written:
        return
    _written.add((str(path), line))
    try:
        make_private(path.parent)
        # one write of a short line to a file opened for appending: several processes do not mix theirs
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)
    except OSError as error:
        _log.warning("the untuned call is not recorded in %s: %s", path, error)


def line_of(call: Call) -> dict[str, Json]:
    """The call as a record. What cannot be written down (an object, a grid that is a function) is null."""
    jit = fingerprint.jit_of(call.tuner)
    spec = argspec.describe(call.args, call.kwargs)
    grid = None if callable(call.grid) else ",".join(map(str, call.grid))
    return {"kernel": f"{jit.__module__}:{jit.__qualname__}", "args": None if spec is None else str(spec), "grid": grid}
