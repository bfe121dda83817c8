"""Calls to be made ahead of use: from operators, kernels by name, a model, a file, or a recorded run of a program."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from triton.runtime.jit import KernelInterface

from gems_runtime import argspec, device, gridspec, settings
from gems_runtime.argspec import CallSpec
from gems_runtime.entry import LibEntry
from gems_runtime.errors import GemsError, UsageError
from gems_runtime.records import Json, canonical

GROUP = "gems_runtime.operators"
_STDERR = 2
# What a module may raise while it is run: told in one sentence.
_IMPORT_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError),
)


class Job(Protocol):
    """One call to be warmed."""

    label: str
    record: dict[str, Json]

    def run(self) -> None:
        """Make tensors on `device.torch_device()` and call once, launching through LibEntry."""


class Provider(Protocol):
    """A package of operators, named in the entry-point group `gems_runtime.operators`."""

    def operator_names(self) -> list[str]: ...

    def jobs_for(self, name: str, shape: str, dtype: str) -> list[Job]:
        """Jobs of one operator. Raises UsageError for a shape or dtype that is malformed or does not fit."""

    def job_from_record(self, record: dict[str, Json]) -> Job:
        """The job whose `record` this is. Raises UsageError."""

    def jobs_for_model(self, config: Path, batch: int, seq: int, decode: int, dtype: str) -> list[Job]:
        """Jobs of every call that the model makes. Raises UsageError."""


@dataclass(frozen=True)
class KernelJob:
    """One call of any kernel that Python can import. The grid is text, or the table that record mode writes."""

    name: str
    spec: CallSpec
    grid: Json

    @property
    def label(self) -> str:
        return f"{self.name}({self.spec}) grid {self.grid if isinstance(self.grid, str) else 'as recorded'}"

    @property
    def record(self) -> dict[str, Json]:
        return {"kernel": self.name, "args": str(self.spec), "grid": self.grid}

    def run(self) -> None:
        args, kwargs = self.spec.make(device.torch_device())
        _kernel(self.name)[_grid_of(self.grid)](*args, **kwargs)
        device.synchronize()


@dataclass(frozen=True)
class UnusableJob:
    """A recorded call that cannot be made again; it fails with the reason, and the others go on."""

    record: dict[str, Json]

    @property
    def label(self) -> str:
        return str(self.record.get("kernel"))

    def run(self) -> None:
        raise UsageError(f"it was recorded, but {self.record.get('problem')}")


def _grid_of(grid: Json) -> Callable[[Mapping[str, object]], tuple[int, ...]]:
    return gridspec.parse(grid) if isinstance(grid, str) else gridspec.table(grid)


@functools.lru_cache(maxsize=None)
def _kernel(name: str) -> LibEntry:
    """The kernel at `package.module:attribute` or `file.py:attribute`, behind the launch path that tunes through the store."""
    module_name, _, attribute = name.rpartition(":")
    module = _module(module_name)
    try:
        found = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise UsageError(f"module {module_name!r} has no attribute {attribute!r}") from None
    if not isinstance(found, KernelInterface):
        raise UsageError(f"{name} is a {type(found).__name__}, not a Triton kernel")
    return found if isinstance(found, LibEntry) else LibEntry(found)


def _module(name: str) -> ModuleType:
    """A module by name, or the program in a file, run as a module: not as `__main__`. Raises UsageError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answer
            return _program(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {error.name!r} for a kernel of {name}") from None
    except _IMPORT_ERRORS as error:
        raise UsageError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _program(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no program {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernel_job(name: str, args: str | None, grid: Json) -> KernelJob:
    """A job for a kernel by its text forms. Raises UsageError before anything is run."""
    if args is None or grid is None:
        raise UsageError(f"kernel {name} needs {'--args' if args is None else '--grid'}")
    job = KernelJob(name, argspec.parse(args), grid)
    _grid_of(grid)
    unknown = sorted(gridspec.names(grid) - set(_kernel(name).arg_names)) if isinstance(grid, str) else []
    if unknown:
        raise UsageError(f"grid {grid!r} names {unknown[0]}, which is no parameter of {name}")
    return job


@functools.lru_cache(maxsize=None)
def providers() -> tuple[Provider, ...]:
    """The installed packages of operators. They are imported here and not before."""
    return tuple(map(_load, importlib.metadata.entry_points(group=GROUP)))


def _load(entry: importlib.metadata.EntryPoint) -> Provider:
    try:
        return entry.load()
    except ImportError as error:
        raise GemsError(f"the operators of {entry.value} cannot be imported: {error}") from error


def operator_jobs(name: str, shapes: Iterable[str], dtypes: Iterable[str]) -> list[Job]:
    """Jobs of one operator for every shape and dtype. Raises UsageError for a name that nobody provides."""
    for provider in providers():
        if name in provider.operator_names():
            return [job for shape in shapes for dtype in dtypes for job in provider.jobs_for(name, shape, dtype)]
    known = sorted({n for provider in providers() for n in provider.operator_names()})
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {len(known)}, or give a kernel as module:attribute"
    raise UsageError(f"unknown operator {name!r}{hint}")


def model_jobs(config: Path, batch: int, seq: int, decode: int, dtype: str) -> list[Job]:
    """Jobs of every call that a model makes, from the first package that knows models."""
    if not config.is_file():
        raise UsageError(f"there is no model configuration {config}")
    if not providers():
        raise UsageError(f"no installed package provides operators (entry-point group {GROUP})")
    return providers()[0].jobs_for_model(config, batch, seq, decode, dtype)


def file_jobs(path: Path) -> list[Job]:
    """One job for each line of a shapes file. Raises UsageError naming the line that is no job."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    return [_line_job(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def _line_job(where: str, line: str) -> Job:
    try:
        record = json.loads(line)
    except ValueError:
        raise UsageError(f"{where} is not JSON") from None
    if not isinstance(record, dict):
        raise UsageError(f"{where} is not a JSON object")
    try:
        return from_record(record)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _recorded_kernel(record: dict[str, Json]) -> Job:
    name, args, grid = (record.get(part) for part in ("kernel", "args", "grid"))
    if not isinstance(name, str) or not isinstance(args, (str, type(None))):
        raise UsageError("kernel and args of a kernel's record are texts")
    return UnusableJob(record) if record.get("problem") else kernel_job(name, args, grid)


def _provided(record: dict[str, Json]) -> Job:
    refusal = UsageError(f"no installed package provides operators (entry-point group {GROUP})")
    for provider in providers():
        try:
            return provider.job_from_record(record)
        except UsageError as error:
            refusal = error
    raise refusal


def from_record(record: dict[str, Json]) -> Job:
    """The job whose `record` this is. Raises UsageError."""
    return _recorded_kernel(record) if "kernel" in record else _provided(record)


def distinct(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in order, each call once."""
    return list({canonical(job.record): job for job in jobs}.values())


def shard(jobs: list[Job], place: int, of: int) -> list[Job]:
    """Part `place` (from 1) of `of` equal parts, the same in every process that has the same list."""
    return jobs[place - 1 :: of]


def recorded(command: list[str]) -> tuple[list[Job], int]:
    """Run a program in record mode: the calls it made that no decision serves, and its exit code.

    What it prints goes to stderr. Ctrl-C ends the program alone. Raises UsageError if it cannot be started.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "untuned.jsonl"
        environment = settings.environment(GEMS_TUNE="record", GEMS_UNTUNED=str(log))
        try:
            program = subprocess.Popen(command, env=environment, stdout=_STDERR)
        except OSError as error:
            raise UsageError(f"cannot run {command[0]!r}: {error.strerror}") from None
        with program:
            try:
                code = program.wait()
            except KeyboardInterrupt:  # how a server is ended: it got the signal too
                program.wait()
                code = 0
        return (file_jobs(log) if log.exists() else []), code
