"""From a call of an autotuned kernel to its configuration: read from the store, or benchmarked once and kept there."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import triton
from triton.runtime.autotuner import Autotuner

from gems_runtime import device, fingerprint, settings, stats, together, untuned
from gems_runtime.candidates import Call, first_usable
from gems_runtime.errors import StoreMiss
from gems_runtime.problem import Problem
from gems_runtime.settings import Mode

_log = logging.getLogger(__name__)
# One tuning at a time: two would disturb each other's timings, and pruning leaves its arguments in the autotuner.
_tuning = threading.RLock()


def _unlock_in_child() -> None:
    """The thread that held the lock is not there after a fork."""
    global _tuning
    _tuning = threading.RLock()


os.register_at_fork(after_in_child=_unlock_in_child)


@dataclass(frozen=True)
class Choice:
    """What one call got: its configuration and why (only, default, stored, transferred, tuned, refreshed)."""

    problem: Problem
    config: triton.Config
    source: str

    @property
    def lasts(self) -> bool:
        """False for a default that stands in because a CUDA graph is being captured: the next call may be tuned."""
        return self.source not in ("default", "transferred") or not device.is_capturing()


Watcher = Callable[[Choice], None]
_watchers: list[Watcher] = []


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """In the `with` block, `watcher(choice)` is called for every call that was not yet decided in this process."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def prime(tuner: Autotuner, args: tuple[object, ...], kwargs: dict[str, object], grid: object) -> triton.Config:
    """The configuration for this call, left where `tuner.run` looks for it, so that stock Triton benchmarks nothing.

    While a CUDA graph is being captured nothing is benchmarked, and a default is not left there; launch it with `launch_with`.
    Raises StoreMiss in strict mode, and NoValidConfig if every candidate fails.
    """
    call = Call(tuner, args, kwargs, grid)
    with _tuning:
        choice = _choose(Problem(call, call.candidates()))
        for watcher in _watchers:
            watcher(choice)
        if choice.lasts:
            tuner.cache[call.stock_key()] = choice.config
    return choice.config


def launch_with(config: triton.Config, tuner: Autotuner, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Launch with a configuration that the tuner does not hold for this call; `kwargs` has the grid."""
    if config.pre_hook is not None:
        config.pre_hook({**dict(zip(tuner.arg_names, args)), **kwargs, **config.all_kwargs()})
    return tuner.fn.run(*args, **kwargs, **config.all_kwargs())


def _choose(problem: Problem) -> Choice:
    mode = settings.current().tune
    if len(problem.candidates) == 1:
        return Choice(problem, problem.candidates[0], "only")
    if mode is Mode.OFF or not _can_time(problem.call.tuner):
        return _untimed(problem, mode)
    try:
        problem.key  # noqa: B018 - raises if the call has none
    except fingerprint.Unstable as error:
        return _without_key(problem, mode, str(error))
    return _looked_up(problem, mode)


def _looked_up(problem: Problem, mode: Mode) -> Choice:
    """From the store; else what the mode says."""
    if mode is Mode.REFRESH and _may_tune(mode, problem):
        return Choice(problem, problem.refresh(), "refreshed")
    team = together.team()
    if team is not None and mode is Mode.AUTO and not settings.current().deterministic:
        return Choice(problem, together.tune(problem, team), "tuned")
    found = problem.stored()
    if found is not None:
        stats.count("store_hit")
        return Choice(problem, found, "stored")
    stats.count("store_miss")
    if mode is Mode.STRICT:
        raise StoreMiss(problem.explain_miss())
    if _may_tune(mode, problem):
        return Choice(problem, problem.tune(), "tuned")
    if mode is Mode.RECORD:
        untuned.append(problem.call, problem.candidates)
    found = problem.transferred()
    if found is not None:
        stats.count("transfer")
        return Choice(problem, found, "transferred")
    return _default(problem)


def _without_key(problem: Problem, mode: Mode, reason: str) -> Choice:
    """For a call with an argument that no other process would recognise."""
    _log.info("the tuning of %s is not kept: %s", problem.kernel, reason)
    if mode is Mode.STRICT:
        raise StoreMiss(f"the store cannot have a decision for {problem.kernel}: {reason}")
    if _may_tune(mode, problem):
        return Choice(problem, problem.tune_for_this_process(), "tuned")
    return _untimed(problem, mode)


def _untimed(problem: Problem, mode: Mode) -> Choice:
    """Without the store; in record mode the call is written down for `gems-cache warm`."""
    if mode is Mode.RECORD:
        untuned.append(problem.call, problem.candidates)
    return _default(problem)


def _default(problem: Problem) -> Choice:
    """The first candidate, or the first that the device takes if that one does not compile or fit."""
    stats.count("default")
    return Choice(problem, first_usable(problem.call, problem.candidates), "default")


def _can_time(tuner: Autotuner) -> bool:
    """True if there is a device to time on, or a benchmark function of the user's that needs none."""
    return device.can_benchmark() and (tuner._do_bench is not None or device.has_gpu())


def _may_tune(mode: Mode, problem: Problem) -> bool:
    if mode not in (Mode.AUTO, Mode.REFRESH) or settings.current().deterministic or device.is_capturing():
        return False
    has_room = problem.has_room()
    if not has_room:
        _log.warning("%s is not tuned: the device has too little memory left to time it", problem.kernel)
    return has_room
