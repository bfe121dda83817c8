"""Many jobs, several worker processes: one for each device, or as many as are asked for where nothing is tuned.

Every worker gets its next job when it is done with the last, so a slow one holds nobody up. A worker that dies, or breaks
its device's context, is replaced. If it died of trying a configuration, or that took too long, the configuration is noted
as one that fails and the job is begun once more, which goes on from what was measured; else the job is reported as failed.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from gems_runtime import begun, records, store, warm
from gems_runtime.jobs import Job
from gems_runtime.records import Measurement
from gems_runtime.warm import Report, Result
from gems_runtime.worker import TRYING

_log = logging.getLogger(__name__)
# For checking and timing one configuration; most take a hundredth of it.
LIMIT_S = 30.0


def run(
    jobs: Sequence[Job],
    commands: Sequence[Sequence[str]],
    budget_s: float | None = None,
    threads: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Report:
    """Run every job in one of the workers, which are started with these arguments and compile with so many threads."""
    report, began = Report(), time.monotonic()
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    lock = threading.Lock()

    def keep(result: Result) -> None:
        with lock:
            report.add(result)
            progress()

    end = None if budget_s is None else began + budget_s
    loops = [threading.Thread(target=_feed, args=(list(c), waiting, keep, end, threads)) for c in commands[: len(jobs)]]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    report.left, report.seconds = waiting.qsize(), time.monotonic() - began
    return report


def _feed(
    arguments: list[str], waiting: queue.SimpleQueue[Job], keep: Callable[[Result], None], end: float | None, threads: int
) -> None:
    """Hand jobs to one worker until none is left or the time is up."""
    worker: _Worker | None = None
    while end is None or time.monotonic() < end:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            break
        result, worker = _done(job, worker, lambda: _Worker(arguments, threads))
        keep(result)
    if worker is not None:
        worker.close()


def _done(job: Job, worker: _Worker | None, start: Callable[[], _Worker]) -> tuple[Result, _Worker | None]:
    """What became of the job, and the worker that can take another. Begun once more as long as that gets any further."""
    culprits: set[str] = set()
    while True:
        worker = worker or start()
        result = worker.run(job)
        if result is not None and not result.fatal:
            return result, worker
        code, trying = worker.close(), worker.trying
        worker = None
        if result is None:
            result = Result(job.label, f"the worker that ran it ended with code {code}", again=_noted(trying))
            name = trying.key if trying else ""
        else:
            name = result.error
        if not result.again or name in culprits:
            return result, None
        culprits.add(name)


def _noted(trying: Measurement | None) -> bool:
    """Keep the failure of what a worker died of, for all processes; False if it died of something else."""
    if trying is not None:
        _log.warning("%s failed with %s: %s", trying.kernel, trying.config, trying.error)
        store.current().publish(trying)
    return trying is not None


class _Worker:
    """One process of `gems_runtime.worker`."""

    def __init__(self, arguments: list[str], threads: int) -> None:
        self.trying: Measurement | None = None
        self._process = begun.take(arguments, threads)

    def run(self, job: Job) -> Result | None:
        """What became of the job; None if the process died, and then `trying` is what it may have died of."""
        self.trying = None
        try:
            self._process.stdin.write(json.dumps(job.record) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        while (line := self._line()).endswith("\n"):
            answer = json.loads(line)
            if TRYING not in answer:
                return warm.result_from(answer)
            text = answer[TRYING]
            self.trying = None if text is None else records.decode(text)
        return None

    def _line(self) -> str:
        """What the worker says next; nothing once it has died. It is ended if it tries one configuration for too long."""
        if self.trying is None:
            return self._process.stdout.readline()
        limit = threading.Timer(LIMIT_S, self._expire)
        limit.start()
        try:
            return self._process.stdout.readline()
        finally:
            limit.cancel()

    def _expire(self) -> None:
        self.trying = replace(self.trying, status="timeout", error=f"not done after {LIMIT_S:.0f} s")
        self._process.kill()

    def close(self) -> int:
        """Let it finish; its exit code."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        code = self._process.wait()
        self._process.stdout.close()
        return code
