"""The log of kernel calls that found no decision, written in record mode and read by `gems-cache warm --from`."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

import triton
from triton.runtime.autotuner import Autotuner, Heuristics

from gems_runtime import argspec, fingerprint, settings
from gems_runtime.candidates import Call
from gems_runtime.records import Json
from gems_runtime.store.place import append_line

_log = logging.getLogger(__name__)
_written: set[tuple[str, str]] = set()


def log_path() -> Path:
    """Where the log of the settings in force lies."""
    choice = settings.current()
    return choice.untuned if choice.untuned != Path() else choice.cache_dir / "untuned.jsonl"


def append(call: Call, candidates: Sequence[triton.Config]) -> None:
    """Add the call to the log, once per process. A log that cannot be written is said once and skipped."""
    line = json.dumps(line_of(call, candidates), sort_keys=True)
    path = log_path()
    if (str(path), line) in _written:
        return
    _written.add((str(path), line))
    try:
        append_line(path, line)
    except OSError as error:
        _log.warning("the untuned call is not recorded in %s: %s", path, error)


def line_of(call: Call, candidates: Sequence[triton.Config]) -> dict[str, Json]:
    """The call as a record; `problem` says why it cannot be made again from it, if it cannot."""
    spec = argspec.describe(call.args, call.kwargs)
    name, grid = _name(call.tuner.base_fn), _grid(call, candidates)
    line = {"kernel": name, "args": None if spec is None else str(spec), "grid": grid}
    if "<locals>" in name:
        line["problem"] = "its kernel is made inside a function, where it cannot be imported from"
    elif spec is None:
        line["problem"] = "an argument of it cannot be written as text"
    elif grid is None:
        line["problem"] = "its grid cannot be written as text"
    return line


def _name(function: FunctionType) -> str:
    """`module:attribute`, or `file.py:attribute` of a program's own kernels."""
    module = function.__module__
    if module == "__main__":
        module = str(Path(function.__code__.co_filename).absolute())
    return f"{module}:{function.__qualname__}"


def _grid(call: Call, candidates: Sequence[triton.Config]) -> Json:
    """The grid as text; for a function, its answer to each candidate as [[values of the configuration, grid], ...].

    None for a function that does not answer, or that has answered an object.
    """
    if not callable(call.grid):
        return _text(call.grid)
    try:
        rows = [[{n: fingerprint.plain(v) for n, v in c.kwargs.items()}, _text(call.grid(_meta(call, c)))] for c in candidates]
    except (fingerprint.Unstable, LookupError, TypeError):
        return None
    if len({text for _, text in rows}) == 1:
        return rows[0][1]
    # a grid does not see num_warps and its like, so configurations that differ in them alone have the same
    return [json.loads(row) for row in dict.fromkeys(map(json.dumps, rows))]


def _text(dims: Sequence[int]) -> str:
    return ",".join(str(int(n)) for n in dims)


def _meta(call: Call, config: triton.Config) -> dict[str, object]:
    """What Triton hands to a grid that is a function: every parameter by name."""
    parameters = inspect.signature(call.tuner.base_fn).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not p.empty}
    values |= {**call.named, **config.kwargs}
    inner = call.tuner.fn
    while isinstance(inner, (Autotuner, Heuristics)):
        for name, rule in getattr(inner, "values", {}).items():
            values[name] = rule(values)
        inner = inner.fn
    return values
