"""One small kernel launched along every path, when a process is first about to leave stock Triton's: what arrives must be the same.

The kernel writes down its arguments and its place in the grid. A path by which they arrive otherwise, on this machine,
driver and Triton, is not used: all launches are then stock Triton's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import _disable_current_modes
from triton.errors import TritonError
from triton.runtime.jit import KernelInterface

from gems_runtime import aside, device, stats

_log = logging.getLogger(__name__)
# Of a driver, a compiler, or a launcher that takes other arguments.
_ERRORS = (TritonError, RuntimeError, MemoryError, TypeError, ValueError, OSError, SubprocessError)
Launch = Callable[..., object]
# Gives the launch functions of a kernel by name, once it was launched with this grid and these arguments.
Paths = Callable[[KernelInterface, tuple[int, ...], tuple[object, ...]], dict[str, Launch]]

_GRID, _WORDS = (3, 2, 2), 10
# One of each width, sign and type that a launcher packs in a way of its own; a one and a multiple of 16 are specialised.
_NUMBERS = (17, 1, 32, -(2**40), 2**63 + 8, 2.5, True)


@triton.jit
def echo(out_ptr, x_ptr, odd, one, even, wide, huge, number, flag, WORDS: tl.constexpr):
    """Each program writes the arguments, as 64 bits, to a row of its own."""
    row = tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))
    at = out_ptr + row * WORDS
    tl.store(at, x_ptr.to(tl.int64))
    tl.store(at + 1, odd)
    tl.store(at + 2, one)
    tl.store(at + 3, even)
    tl.store(at + 4, wide)
    tl.store(at + 5, huge.to(tl.int64, bitcast=True))
    tl.store(at + 6, number.to(tl.int32, bitcast=True))
    tl.store(at + 7, flag)
    tl.store(at + 8, row)
    tl.store(at + 9, tl.num_programs(2))


_lock = threading.RLock()
_running = False
_fault: str | None = None  # None: not tried yet


def passes(paths: Paths) -> bool:
    """True if every path launches what stock Triton does. Tried once; while a graph is being captured, not now."""
    global _running, _fault
    if _fault is not None:
        return not _fault
    with _lock:
        if _running:  # the trial's own launches
            return True
        if _fault is None:
            if device.is_capturing():
                return False
            _running = True
            try:
                _fault = _try(paths)
            finally:
                _running = False
            if _fault:
                _log.warning("every launch goes through stock Triton, because a trial launch went wrong: %s", _fault)
    return not _fault


def fault() -> str | None:
    """What went wrong; "" if nothing did, None if nothing was launched yet."""
    return _fault


def precompile() -> None:
    """Compile what the trial will launch, for the target in force, whose tensors are meta tensors."""
    with stats.uncounted():
        out = torch.empty(_WORDS, dtype=torch.int64, device=device.torch_device())
        echo[_GRID](out, torch.empty_like(out, dtype=torch.float32), *_NUMBERS, _WORDS)


def _try(paths: Paths) -> str:
    # What a user has switched on for tensors (modes, overrides) is for theirs; nor is this a miss of theirs.
    with _disable_current_modes(), torch._C.DisableTorchFunction(), aside.natively(), stats.uncounted():
        try:
            return _fault_of(paths)
        except _ERRORS as error:
            return f"{type(error).__name__}: {error}"


def _fault_of(paths: Paths) -> str:
    # copied, not filled: a process that needs no filling kernel has not loaded one
    x = torch.zeros(1, dtype=torch.float32).to(device.torch_device())

    def buffer() -> torch.Tensor:
        return torch.zeros(math.prod(_GRID) * _WORDS, dtype=torch.int64).to(x.device)

    def arrives_by(launch: Launch) -> list[int]:
        out = buffer()
        launch(_GRID, out, x, *_NUMBERS, _WORDS)
        return _arrived(out)

    wanted = arrives_by(lambda grid, *args: echo[grid](*args))
    for name, launch in paths(echo, _GRID, (buffer(), x, *_NUMBERS, _WORDS)).items():
        found = arrives_by(launch)
        if found != wanted:
            return f"{name} passes {found}, stock Triton {wanted}"
    return ""


def _arrived(out: torch.Tensor) -> list[int]:
    return out.tolist()


def _forget_lock() -> None:
    """Another thread of the parent may have held it."""
    global _lock, _running
    _lock, _running = threading.RLock(), False


os.register_at_fork(after_in_child=_forget_lock)
