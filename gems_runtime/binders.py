"""The function by which Triton looks at a call's arguments, written once for all kernels whose parameters are alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import triton
from triton.runtime import jit

from gems_runtime import compat

if TYPE_CHECKING:
    from triton.backends.compiler import BaseBackend
    from triton.runtime.jit import KernelParam

_ARGUMENTS = ["sig", "kparams", "backend"]


def share() -> None:
    """Have Triton write it once: it compiles one for each kernel, and generated kernels are alike by the dozen.

    0.4 ms of the 6 of a first call whose kernel was compiled before (EPYC, Python 3.11, 2026-11-27). Ends when Triton
    does so itself (3.6 to 3.9 do not).
    """
    stock = jit.create_function_from_signature
    known_form = list(inspect.signature(stock).parameters) == _ARGUMENTS and compat.release(triton.__version__) < compat.UNTRIED
    if known_form and stock.__module__ != __name__:
        jit.create_function_from_signature = _sharing(stock)


def _sharing(stock: Callable[..., Callable[..., object]]) -> Callable[..., Callable[..., object]]:
    known: dict[tuple[object, ...], Callable[..., object]] = {}

    def create_function_from_signature(sig: inspect.Signature, kparams: list[KernelParam], backend: BaseBackend) -> Callable[..., object]:
        if any(p.has_default for p in kparams):
            return stock(sig, kparams, backend)
        # all that it is written from: what else a KernelParam says follows from its annotation
        parts = [(p.annotation, p.do_not_specialize, p.do_not_specialize_on_alignment) for p in kparams]
        key = type(backend), backend.target, *((p.name, p.kind) for p in sig.parameters.values()), *parts
        if key not in known:
            known[key] = stock(sig, kparams, backend)
        return known[key]

    return create_function_from_signature
