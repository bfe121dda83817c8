"""Saying every few seconds that this process still lives, for locks that no kernel frees when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable

BEAT_S = 5.0
# Six beats: a busy host or a slow server misses some.
EXPIRY_S = 30.0


def start(beat: Callable[[], object]) -> Callable[[], None]:
    """Call `beat` in a thread until what is given back is called."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(BEAT_S):
            beat()

    thread = threading.Thread(target=run, name="gems lock heartbeat", daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()

    return stop
