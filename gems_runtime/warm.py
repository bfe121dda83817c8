"""Tuning and compiling before anyone waits for it: one call after the other, and a report of what that took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import triton

from gems_runtime import device, journal, stats, store, target, trial, tuner
from gems_runtime.candidates import LAUNCH_ERRORS, compile_all
from gems_runtime.errors import DeviceLost, GemsError, StoreError
from gems_runtime.jobs import Job
from gems_runtime.launch import count_compiles
from gems_runtime.records import Json, canonical
from gems_runtime.store import place

DEFAULT_TARGET = "cuda:90"
# What one bad call raises (a compiler's assertion, a full device, a wrong argument): named at the end, the rest go on.
JOB_ERRORS = (
    *(GemsError, *LAUNCH_ERRORS, AssertionError, TypeError, ValueError),
    *(ArithmeticError, AttributeError, LookupError, OSError),
)


@dataclass(frozen=True)
class Result:
    """What became of one job. `error` is empty if all went well."""

    label: str
    error: str = ""
    skipped: bool = False
    fatal: bool = False  # the process can use its device no more
    again: bool = False  # what broke the device is noted: another process gets past it
    tuned: int = 0
    benchmarks: int = 0
    compiles: int = 0
    loads: int = 0
    store_hits: int = 0


# Field of a result and a report -> the counter it adds up.
_COUNTED = {"tuned": "tune", "benchmarks": "benchmark", "compiles": "compile", "loads": "load", "store_hits": "store_hit"}


@dataclass
class Report:
    """What a warm did. The counts are of this run."""

    calls: int = 0
    skipped: int = 0
    left: int = 0  # not begun: the time was spent, or the device's context broken
    tuned: int = 0
    benchmarks: int = 0
    compiles: int = 0
    loads: int = 0
    store_hits: int = 0
    seconds: float = 0.0
    target: str = ""
    failed: list[dict[str, str]] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.calls += not result.skipped
        self.skipped += result.skipped
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(result, name))
        if result.error:
            self.failed.append({"label": result.label, "error": result.error})

    def __str__(self) -> str:
        text = (
            f"{self.calls} calls, {self.tuned} tuned, {self.benchmarks} benchmarks, {self.compiles} compiles, "
            f"{self.loads} already compiled, {self.store_hits} store hits, {self.seconds:.1f} s"
        )
        ends = [(self.skipped, "done before"), (self.left, "LEFT"), (len(self.failed), "FAILED")]
        return text + "".join(f", {n} {what}" for n, what in ends if n)

    def fields(self) -> dict[str, Json]:
        return asdict(self)


def require_places() -> None:
    """Raise StoreError if what warming finds could not be kept. Makes nothing."""
    store.current().require_writable()
    kernels = Path(triton.knobs.cache.dir)
    problem = place.why_unwritable(kernels)
    if problem:
        raise StoreError(f"Triton's cache {kernels} cannot be written: {problem}")


class Runner:
    """Runs jobs on the device that is current, or compiles them for a target that is in force."""

    def __init__(self, resume: bool) -> None:
        count_compiles()
        self._where = journal.here()
        self._done = journal.done(self._where) if resume else {}

    def run(self, job: Job) -> Result:
        """Run it, unless an earlier run has. An error of the job is in the result."""
        if canonical(job.record) in self._done:
            return Result(job.label, skipped=True)
        before, error, again = stats.snapshot(), "", False
        try:
            job.run()
            if stats.snapshot()["disturbed"] > before["disturbed"]:
                error = "the GPU was disturbed while it was tuned, and the result is not kept"
            else:
                journal.add(job.record, self._where)
        except JOB_ERRORS as failure:
            error, again = f"{type(failure).__name__}: {failure}"[:500], isinstance(failure, DeviceLost)
        after = stats.snapshot()
        fatal = bool(error) and not device.works()
        return Result(job.label, error, fatal=fatal, again=again, **{name: after[c] - before[c] for name, c in _COUNTED.items()})


@contextlib.contextmanager
def working_for(compile_target: str | None, resume: bool = False) -> Iterator[Runner]:
    """A runner for the current device, or for a target with no device: then every candidate of a tuned kernel is
    compiled, because which will win is found out there."""
    if compile_target is None:
        yield Runner(resume)
        return
    with target.compiling_for(compile_target), tuner.watching(_compile_candidates):
        trial.precompile()
        yield Runner(resume)


def _compile_candidates(choice: tuner.Choice) -> None:
    compile_all(choice.problem.call, choice.problem.contenders)


def run(
    jobs: Iterable[Job], compile_target: str | None, resume: bool = False, budget_s: float | None = None
) -> Report:
    """Run every job in this process. A job that fails is reported, and the rest go on; after `budget_s`, and after one
    that broke the device's context, none is begun."""
    report, began, is_broken = Report(target=compile_target or ""), time.monotonic(), False
    with working_for(compile_target, resume) as runner:
        for job in jobs:
            if is_broken or (budget_s is not None and time.monotonic() - began > budget_s):
                report.left += 1
                continue
            result = runner.run(job)
            report.add(result)
            is_broken = result.fatal
    report.seconds = time.monotonic() - began
    return report


def result_from(answer: dict[str, Json]) -> Result:
    """The result that a worker sent as JSON."""
    return Result(**{f.name: answer[f.name] for f in fields(Result)})
