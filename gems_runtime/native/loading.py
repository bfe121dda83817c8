"""Which native module serves this process, or why none does. Decided once, when a kernel is first launched."""

from __future__ import annotations

import logging
import sysconfig
import threading
from dataclasses import dataclass
from types import ModuleType

import torch
import triton.language as tl
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import aside, settings
from gems_runtime.native.build import LAUNCH, BuildError
from gems_runtime.native.finding import find
from gems_runtime.native.selftest import fault_of

_log = logging.getLogger(__name__)
# The number that launch.c has for what the two sides pass each other.
_INTERFACE = 3


@dataclass(frozen=True)
class NativeStatus:
    """Whether launches are native, and why."""

    serves: bool
    reason: str


@dataclass(frozen=True)
class _State:
    module: ModuleType | None
    reason: str


_lock = threading.Lock()
_state: _State | None = None


def module() -> ModuleType | None:
    """The native module, loaded and tried on first use; None if launches are made from Python."""
    global _state
    if settings.current().native is settings.Native.OFF:
        return None
    with _lock:
        if _state is None:
            _state = _load()
        return _state.module


def native_status() -> NativeStatus:
    """Which path serves launches in this process, and why. Loads the native module if nothing has yet."""
    if settings.current().native is settings.Native.OFF:
        return NativeStatus(False, "GEMS_NATIVE=0")
    serves = module() is not None
    assert _state is not None
    return NativeStatus(serves, _state.reason)


def _load() -> _State:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return _State(None, "this Python has no global lock, which the native module relies on")
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return _State(None, f"torch {torch.__version__} has no DLPack exchange interface; it is in 2.10 and later")
    try:
        found, origin = find(LAUNCH)
        if found.INTERFACE != _INTERFACE:
            raise ImportError(f"{found.__file__} has interface {found.INTERFACE}, {_INTERFACE} is wanted; install the package again")
        found.open(torch.Tensor, torch.nn.Parameter, tl.dtype, JITFunction, TensorDescriptor, capsule)
    except (BuildError, ImportError, ValueError) as error:
        _log.warning("launches are made from Python, because the native module cannot be had: %s", error)
        return _State(None, str(error))
    # on plain tensors, whatever the caller has switched on for its own
    with _disable_current_modes(), torch._C.DisableTorchFunction(), aside.natively():
        fault = fault_of(found)
    if fault:
        _log.warning("launches are made from Python, because the native module failed its self-test: %s", fault)
        return _State(None, f"self-test: {fault}")
    return _State(found, origin)
