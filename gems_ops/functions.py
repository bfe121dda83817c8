"""Every declared operator as a plain function, without the dispatcher's switch: our kernel where it takes the call."""

from __future__ import annotations

from collections.abc import Callable

from gems_ops.control import use_gems
from gems_ops.op import find, plain_function


def function(name: str) -> Callable[..., object]:
    """The operator `name` as a function with ATen's signature. Raises AttributeError for a name nobody declared.

    A custom operator, or a function made of operators, is called directly. An ATen operator is called through the dispatcher with our kernel switched
    on for it, so that autograd, promotion and the native kernel for calls we decline work as always.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    if (offered := plain_function(name)) is not None:
        return offered
    found = find(name)
    if not found:
        raise AttributeError(f"flag_gems has no operator {name!r}; all_registered_ops() lists them")
    if not found[0].name.startswith("aten::"):
        return found[0].fn
    packet = found[0].overload.overloadpacket

    def call(*args: object, **kwargs: object) -> object:
        with use_gems(include=[o.name for o in found], extend=True):
            return packet(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = found[0].fn.__doc__
    return call
