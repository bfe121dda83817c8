"""The native router: one C file in front of every routed call, where a compiler is at hand; else routers are Python.

torch.add of 64 x 64 on a driver that does nothing: 4.7 us with a router in Python, 2.8 with the native one, ATen's CPU
kernel 1.7 (EPYC, Python 3.11, torch 2.13, 2026-11-22).
"""

from __future__ import annotations

import functools
import logging
import sysconfig
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from gems_ops.op import Declined
from gems_runtime import settings
from gems_runtime.native import BuildError, Source, find

_log = logging.getLogger(__name__)
ROUTE = Source("gems_ops.routing._route", Path(__file__).with_name("route.c"))
TABLE_LIMIT = 4096  # decisions that a router keeps; past it the table starts over
# As route.c numbers them.
_TENSOR, _TENSORS, _NUMBER, _VALUE, _INTS = range(5)
# Values that take part in a key as they are.
_PLAIN = (str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Busy(threading.local):
    """Set while an implementation runs on this thread: calls it makes itself go to the native kernels."""

    busy = False


def is_wanted() -> bool:
    """False if the user chose Python (GEMS_NATIVE=0)."""
    return settings.current().native is not settings.Native.OFF


@functools.cache
def module() -> ModuleType | None:
    """The native module; None if there is none to be had."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    try:
        found, _ = find(ROUTE)
        found.open(torch.Tensor, torch.nn.Parameter, _PLAIN, capsule)
    except (BuildError, ImportError, ValueError) as error:
        _log.warning("calls are routed by Python, because the native router cannot be had: %s", error)
        return None
    return found


@functools.cache
def state() -> _Busy:
    """This process's one switch, per thread, that both kinds of routers read: `state().busy`."""
    found = module() if is_wanted() else None
    return found.Busy() if found else _Busy()


def native_router(
    arguments: list[torch.Argument],
    keyed: frozenset[str],
    decide: Callable[[tuple], tuple[object, Callable, bool]],
    fallback: Callable[..., object],
    cells: array,
    keyset: torch._C.DispatchKeySet | None = None,
) -> Callable[..., object] | None:
    """A router for an overload's arguments, in front of `fallback`, which takes the calls it cannot read.

    `decide` gets all values in schema order and gives (plan or None, native kernel, whether to remember that). `cells`
    are two int64, served and declined. `keyset`, if given, precedes the arguments that fallback and native kernel get.
    """
    if not is_wanted() or isinstance(state(), _Busy):
        return None
    return module().Router(
        names=tuple(a.name for a in arguments),
        defaults=tuple(a.default_value if a.has_default_value() else NotImplemented for a in arguments),
        kinds=bytes(_VALUE if a.name in keyed else _kind(str(a.type)) for a in arguments),
        positional=sum(not a.kwarg_only for a in arguments),
        decide=decide, fallback=fallback, declined=Declined, keyset=keyset, counts=cells, limit=TABLE_LIMIT,
    )  # fmt: skip


def _kind(type_: str) -> int:
    """How an argument of a schema type takes part in the key; see signature.key_expression for the same in Python."""
    if type_ in ("Tensor", "Optional[Tensor]"):
        return _TENSOR
    if type_ in ("List[Tensor]", "List[Optional[Tensor]]"):
        return _TENSORS
    if "number" in type_ or "float" in type_:
        return _NUMBER
    return _INTS if type_.startswith(("List", "Optional[List")) else _VALUE
