"""Tuning and compiling before anyone waits for it: jobs from operators, kernels or a file, run one after the other."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import triton
from triton.runtime.jit import KernelInterface

from gems_runtime import argspec, device, gridspec, stats, store, target
from gems_runtime.argspec import CallSpec
from gems_runtime.candidates import LAUNCH_ERRORS
from gems_runtime.entry import LibEntry
from gems_runtime.errors import GemsError, StoreError, UsageError
from gems_runtime.launch import count_compiles
from gems_runtime.records import Json
from gems_runtime.store import place

GROUP = "gems_runtime.operators"
DEFAULT_TARGET = "cuda:90"
# What one bad call raises (a compiler's assertion, a full device, a wrong argument): named at the end, the rest go on.
JOB_ERRORS = (
    *(GemsError, *LAUNCH_ERRORS, AssertionError, TypeError, ValueError),
    *(ArithmeticError, AttributeError, LookupError, OSError),
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
    """One call of any kernel that Python can import."""

    name: str
    spec: CallSpec
    grid: str

    @property
    def label(self) -> str:
        return f"{self.name}({self.spec}) grid {self.grid}"

    @property
    def record(self) -> dict[str, Json]:
        return {"kernel": self.name, "args": str(self.spec), "grid": self.grid}

    def run(self) -> None:
        args, kwargs = self.spec.make(device.torch_device())
        _kernel(self.name)[gridspec.parse(self.grid)](*args, **kwargs)
        device.synchronize()


@functools.lru_cache(maxsize=None)
def _kernel(name: str) -> LibEntry:
    """The kernel at `package.module:attribute`, behind the launch path that tunes through the store."""
    module_name, _, attribute = name.partition(":")
    try:
        found = functools.reduce(getattr, attribute.split("."), importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {error.name!r} for the kernel {name!r}") from None
    except AttributeError:
        raise UsageError(f"module {module_name!r} has no attribute {attribute!r}") from None
    if not isinstance(found, KernelInterface):
        raise UsageError(f"{name} is a {type(found).__name__}, not a Triton kernel")
    return found if isinstance(found, LibEntry) else LibEntry(found)


def kernel_job(name: str, args: str | None, grid: str | None) -> KernelJob:
    """A job for a kernel by its text forms. Raises UsageError before anything is run."""
    if args is None or grid is None:
        missing = "--args" if args is None else "--grid"
        raise UsageError(f"kernel {name} needs {missing}, which a record leaves out when it cannot be written as text")
    job = KernelJob(name, argspec.parse(args), grid)
    unknown = sorted(gridspec.names(grid) - set(_kernel(name).arg_names))
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
        return _recorded_kernel(record) if "kernel" in record else _provided(record)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _recorded_kernel(record: dict[str, Json]) -> KernelJob:
    parts = record["kernel"], record.get("args"), record.get("grid")
    if not all(part is None or isinstance(part, str) for part in parts) or parts[0] is None:
        raise UsageError("kernel, args and grid of a kernel's record are texts")
    return kernel_job(*parts)


def _provided(record: dict[str, Json]) -> Job:
    refusal = UsageError(f"no installed package provides operators (entry-point group {GROUP})")
    for provider in providers():
        try:
            return provider.job_from_record(record)
        except UsageError as error:
            refusal = error
    raise refusal


@dataclass
class Report:
    """What a warm did. The counts are of this run."""

    calls: int = 0
    tuned: int = 0
    benchmarks: int = 0
    compiles: int = 0
    loads: int = 0
    store_hits: int = 0
    seconds: float = 0.0
    target: str = ""
    failed: list[dict[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.calls} calls, {self.tuned} tuned, {self.benchmarks} benchmarks, {self.compiles} compiles, "
            f"{self.loads} already compiled, {self.store_hits} store hits, {self.seconds:.1f} s"
        )
        return text + (f", {len(self.failed)} FAILED" if self.failed else "")

    def fields(self) -> dict[str, Json]:
        return asdict(self)


def require_places() -> None:
    """Raise StoreError if what warming finds could not be kept. Makes nothing."""
    store.current().require_writable()
    kernels = Path(triton.knobs.cache.dir)
    problem = place.why_unwritable(kernels)
    if problem:
        raise StoreError(f"Triton's cache {kernels} cannot be written: {problem}")


def run(jobs: Iterable[Job], compile_target: str | None) -> Report:
    """Run every job, on the device, or for a target with no device. A job that fails is reported; the rest go on."""
    report = Report(target=compile_target or "")
    count_compiles()
    before, began = stats.snapshot(), time.monotonic()
    with target.compiling_for(compile_target) if compile_target else contextlib.nullcontext():
        for job in jobs:
            report.calls += 1
            try:
                job.run()
            except JOB_ERRORS as error:
                report.failed.append({"label": job.label, "error": f"{type(error).__name__}: {error}"[:500]})
    counts = {name: n - before[name] for name, n in stats.snapshot().items()}
    report.tuned, report.benchmarks = counts["tune"], counts["benchmark"]
    report.compiles, report.loads = counts["compile"], counts["load"]
    report.store_hits, report.seconds = counts["store_hit"], time.monotonic() - began
    return report
