"""Which native module serves this process, or why none does. Decided once, when a kernel is first launched."""

from __future__ import annotations

import importlib.util
import logging
import sys
import sysconfig
import threading
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

import torch
import triton.language as tl
from triton.runtime.jit import JITFunction

from gems_runtime import settings
from gems_runtime.native.build import BuildError, built, source_hash
from gems_runtime.native.selftest import fault_of

_log = logging.getLogger(__name__)
_NAME = "gems_runtime.native._launch"
# The number that launch.c has for what the two sides pass each other.
_INTERFACE = 1


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
        found, origin = _find()
        found.open(torch.Tensor, torch.nn.Parameter, tl.dtype, JITFunction, capsule)
    except (BuildError, ImportError, ValueError) as error:
        _log.warning("launches are made from Python, because the native module cannot be had: %s", error)
        return _State(None, str(error))
    fault = fault_of(found)
    if fault:
        _log.warning("launches are made from Python, because the native module failed its self-test: %s", fault)
        return _State(None, f"self-test: {fault}")
    return _State(found, origin)


def _find() -> tuple[ModuleType, str]:
    """The installed module if it was built from this source, else one built now."""
    spec = importlib.util.find_spec(_NAME)
    if spec is not None and spec.origin and settings.current().native is settings.Native.ON:
        try:
            installed = _import(Path(spec.origin))
            _require_current(installed)
            return installed, f"built at installation: {spec.origin}"
        except ImportError as error:
            # An editable installation keeps its module when the source changes.
            _log.info("the installed native module is not used: %s", error)
    path = built(settings.current().cache_dir / "native")
    module = _import(path)
    _require_current(module)
    return module, f"built on demand: {path}"


def _import(path: Path) -> ModuleType:
    loader = ExtensionFileLoader(_NAME, str(path))
    spec = importlib.util.spec_from_file_location(_NAME, path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    sys.modules[_NAME] = found
    return found


def _require_current(found: ModuleType) -> None:
    if (found.INTERFACE, found.SOURCE_HASH) != (_INTERFACE, source_hash()):
        raise ImportError(f"{found.__file__} was built from another launch.c; install the package again")
