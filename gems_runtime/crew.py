"""Many jobs, several worker processes: one for each device, or as many as are asked for where nothing is tuned.

Every worker gets its next job when it is done with the last, so a slow one holds nobody up. A worker that dies takes
its job with it: that job is reported as failed, and another worker is started; so it is after one whose job broke the
device's context.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from gems_runtime import settings, warm
from gems_runtime.jobs import Job
from gems_runtime.warm import Report, Result


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
        worker = worker or _Worker(arguments, threads)
        result = worker.run(job)
        if result is None:
            result, worker = Result(job.label, f"the worker that ran it ended with code {worker.close()}"), None
        elif result.fatal:
            worker.close()
            worker = None
        keep(result)
    if worker is not None:
        worker.close()


class _Worker:
    """One process of `gems_runtime.worker`."""

    def __init__(self, arguments: list[str], threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gems_runtime.worker", *arguments],
            env=settings.environment(GEMS_COMPILE_JOBS=str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: Job) -> Result | None:
        """What became of the job; None if the process died."""
        try:
            self._process.stdin.write(json.dumps(job.record) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._process.stdout.readline()
        return warm.result_from(json.loads(answer)) if answer.endswith("\n") else None

    def close(self) -> int:
        """Let it finish; its exit code."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        code = self._process.wait()
        self._process.stdout.close()
        return code
