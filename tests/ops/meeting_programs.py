"""Interpreted programs that meet: each runs in a thread of its own, one at a time, and stops where it would wait for others."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from triton.runtime import interpreter

from gems_ops.rows import meeting, norm_meeting, softmax, softmax_backward, weight_norm


class _Program:
    """A program as a coroutine: `resume` runs it until it stops or ends."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.ended, self.error = False, None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._body, args=(run,), daemon=True)
        self._thread.start()

    def _body(self, run: Callable[[], object]) -> None:
        self._go.acquire()
        try:
            run()
        except BaseException as error:  # noqa: BLE001  raised again by `resume`, where the test sees it
            self.error = error
        self.ended = True
        self._stopped.release()

    def resume(self) -> None:
        self._go.release()
        self._stopped.acquire()
        if self.error:
            raise self.error

    def stop(self) -> None:
        self._stopped.release()
        self._go.acquire()


class Together:
    """Runs the programs of a launch together, in a random order, while patched into the interpreter."""

    def __init__(self, seed: int) -> None:
        self.meetings, self._random = 0, random.Random(seed)
        self._arrivals: Counter[int] = Counter()
        self._programs: list[_Program] = []
        self._running: _Program | None = None
        self._executor: interpreter.GridExecutor | None = None

    def call(self, stock: Callable[..., None], executor: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
        """In place of GridExecutor.__call__."""
        self._executor = executor
        stock(executor, *args, **kwargs)

    def start(self, stock: Callable[..., None], *grid: int) -> None:
        """In place of the builder's set_grid_dim, after which the executor calls its function for each program: gather them."""
        stock(*grid)
        fn = self._executor.fn
        if "counters_ptr" in self._executor.arg_names:
            self._executor.fn = lambda **arguments: self._add(grid[0], lambda: fn(**arguments))

    def _add(self, count: int, run: Callable[[], object]) -> None:
        """One more program; with the last, all run."""
        self._programs.append(_Program(run))
        if len(self._programs) == count:
            self._run()

    def _run(self) -> None:
        for _ in range(10000):
            if not self._programs:
                self._arrivals.clear()
                return
            self._random.shuffle(self._programs)
            for self._running in self._programs:
                self._running.resume()
            self._programs = [p for p in self._programs if not p.ended]
        raise AssertionError("programs wait for ever")

    def meet(self, _counters_ptr: object, group: object, parts: object, times: object) -> None:
        """In place of the kernels' own."""
        group, needed, me = int(group), int(parts) * int(times), self._running
        self.meetings += 1
        self._arrivals[group] += 1
        me.stop()
        while self._arrivals[group] < needed:
            me.stop()


@pytest.fixture(params=[1, 2])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Together:
    """A pretended device of 16 multiprocessors on which programs may wait for each other."""
    them = Together(request.param)
    stock = interpreter.GridExecutor.__call__
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda self, *a, **k: them.call(stock, self, *a, **k))
    start = interpreter.interpreter_builder.set_grid_dim
    monkeypatch.setattr(interpreter.interpreter_builder, "set_grid_dim", lambda *grid: them.start(start, *grid))
    monkeypatch.setattr(meeting, "_may_wait", lambda: True)
    monkeypatch.setattr(meeting, "sm_count", lambda: 16)
    for module in (softmax, softmax_backward, norm_meeting, weight_norm):
        monkeypatch.setattr(module, "meet", them.meet)
    return them
