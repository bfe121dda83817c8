"""Worker processes that are begun before their crew has imported anything: both import torch and Triton at the same time.

Seconds of each, which two GPUs would else wait for as long as one does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from gems_runtime import settings

_waiting: dict[tuple[str, ...], list[subprocess.Popen[str]]] = {}


def begin(arguments: Sequence[str], threads: int) -> None:
    """Start a worker that `take` will be asked for. The settings in force now are its own."""
    _waiting.setdefault(tuple(arguments), []).append(start(arguments, threads))


def take(arguments: Sequence[str], threads: int) -> subprocess.Popen[str]:
    """A worker that was begun with these arguments; else one that starts now."""
    ready = _waiting.get(tuple(arguments))
    return ready.pop() if ready else start(arguments, threads)


def dismiss() -> None:
    """End those that nobody has taken."""
    for worker in (w for workers in _waiting.values() for w in workers):
        worker.kill()
        worker.communicate()
    _waiting.clear()


def start(arguments: Sequence[str], threads: int) -> subprocess.Popen[str]:
    """One process of `gems_runtime.worker`."""
    return subprocess.Popen(
        [sys.executable, "-m", "gems_runtime.worker", *arguments],
        env=settings.environment(GEMS_COMPILE_JOBS=str(threads)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
