"""Is what was warmed still good: nothing left to tune or compile, right answers, and the fastest configuration in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import triton

from gems_runtime import aside, device, entry, fingerprint, numerics, settings, stats, tuner
from gems_runtime.candidates import LAUNCH_ERRORS
from gems_runtime.contest import time_together
from gems_runtime.jobs import Job
from gems_runtime.launch import count_compiles
from gems_runtime.records import Json, canonical
from gems_runtime.settings import Mode
from gems_runtime.warm import JOB_ERRORS


@dataclass(frozen=True)
class Finding:
    """Something about one call that is not as it should be. `kind`: fails, untuned, compiles, numerics, slow."""

    call: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind:9} {self.call}: {self.text}"


def audit(jobs: Iterable[Job], fresh: bool, slack: float | None) -> Iterator[Finding]:
    """Findings of all jobs, made frozen. `fresh` also finds what would be tuned or compiled; `slack` is the share by
    which a stored winner may be slower than its runner-up or the default, None to time nothing."""
    count_compiles()
    for job in jobs:
        try:
            yield from _freshness(job) if fresh else ()
            yield from _correctness(job, slack)
        except JOB_ERRORS as error:
            yield Finding(job.label, "fails", f"{type(error).__name__}: {error}"[:500])


def _made(job: Job, watcher: tuner.Watcher) -> None:
    """Make the call as a process would that has not made it before and may not tune."""
    entry.clear_all()
    with settings.override(tune=Mode.FROZEN), tuner.watching(watcher):
        job.run()


def _freshness(job: Job) -> Iterator[Finding]:
    choices: list[tuner.Choice] = []
    before = stats.snapshot()["compile"]
    _made(job, choices.append)
    compiled = stats.snapshot()["compile"] - before
    # where nothing can be timed every tuned kernel takes its default, and nobody expects anything else
    for choice in choices if device.can_benchmark() else ():
        if choice.source in ("default", "transferred"):
            yield Finding(job.label, "untuned", f"no decision for {choice.problem.kernel}")
    if compiled:
        yield Finding(job.label, "compiles", f"{compiled} kernels were not compiled ahead")


def _correctness(job: Job, slack: float | None) -> Iterator[Finding]:
    found: list[Finding] = []
    _made(job, lambda choice: found.extend(_look(job.label, choice, slack)))
    yield from found


def _look(call: str, choice: tuner.Choice, slack: float | None) -> Iterator[Finding]:
    if choice.source != "stored":
        return
    with aside.natively():
        if settings.current().check_numerics and not _agrees(choice):
            yield Finding(call, "numerics", f"{choice.config} does not give the default configuration's answer")
        if slack is not None:
            yield from _slower(call, choice, slack)


def _agrees(choice: tuner.Choice) -> bool:
    """True if the stored configuration leaves in the arguments what the default leaves."""
    call = choice.problem.call
    if not numerics.fits(call.named):
        return True
    gate = numerics.Gate(call.named)
    try:
        gate.passes(call.launch(choice.problem.candidates[0]))
        return gate.passes(call.launch(choice.config))
    except LAUNCH_ERRORS:
        return False
    finally:
        gate.restore()


def _slower(call: str, choice: tuner.Choice, slack: float) -> Iterator[Finding]:
    """A finding if the runner-up or the default is faster now than the winner, by more than the slack."""
    rivals = _rivals(choice)
    times = [timing.p50_us for timing in time_together(choice.problem.call, [choice.config, *rivals])]
    if times[0] > (1 + slack) * min(times):
        best = rivals[times.index(min(times)) - 1]
        yield Finding(call, "slow", f"{choice.config} takes {times[0]:.1f} us, {best} {min(times):.1f} us")


def _rivals(choice: tuner.Choice) -> list[triton.Config]:
    problem = choice.problem
    second: list[Json] = [row[0] for row in problem.decision.top[1:2]]
    found = [fingerprint.find_config(config, problem.contenders) for config in second] + [problem.candidates[0]]
    own = canonical(fingerprint.config_fields(choice.config))
    return [c for c in found if c is not None and canonical(fingerprint.config_fields(c)) != own]
