"""Writes the source of a router from an ATen schema: the one piece of Python that runs before every routed call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from gems_ops.native import NUMBERS
from gems_ops.op import Declined
from gems_ops.variants import Form

if TYPE_CHECKING:
    from gems_ops.register import Route


def _tensor_key(name: str) -> str:
    return f"({name}.__class__, {name}.dtype, {name}.shape, {name}.stride(), {name}.device)"


def _key_expression(name: str, type_: str, keyed: bool) -> str:
    """The part of the key that one argument gives, as Python text."""
    if keyed:
        return f"({name}.__class__, {name})"
    if type_ == "Tensor":
        return f"{name}.__class__ if {name}.__class__ in NUMBERS else {_tensor_key(name)}"
    if type_ == "Optional[Tensor]":
        return f"None if {name} is None else {_tensor_key(name)}"
    if type_ in ("List[Tensor]", "List[Optional[Tensor]]"):
        return f"tuple([None if t is None else {_tensor_key('t')} for t in {name}])"
    if "number" in type_ or "float" in type_:  # values of numbers are run-time arguments, not decisions
        return f"{name}.__class__"
    if type_.startswith(("List", "Optional[List")):
        return f"None if {name} is None else tuple({name})"
    return name


def source(form: Form) -> str:
    """The text of the router of one overload."""
    names = [a.name for a in form.arguments]
    outs = [a.name for a in form.outputs]
    declared, star = [], False
    for a in form.overload._schema.arguments:
        if a.kwarg_only and not star:
            declared.append("*")
            star = True
        declared.append(f"{a.name}=default_{a.name}" if a.has_default_value() else a.name)
    keys = [_key_expression(a.name, str(a.type), a.name in form.op.keyed) for a in form.overload._schema.arguments]
    passed = [f"{a.name}={a.name}" if a.kwarg_only else a.name for a in form.overload._schema.arguments]
    both = ", ".join(names + outs)
    return f"""def route(keyset, {', '.join(declared)}):
    key = ({', '.join(f'({k})' for k in keys)},)
    decision = table.get(key)
    if decision is None:
        decision = decide(key, ({''.join(n + ', ' for n in names)}), ({''.join(n + ', ' for n in outs)}))
    plan, native = decision
    if plan is None or state.busy:
        counts.declined += 1
        return native(keyset, {', '.join(passed)})
    state.busy = True
    try:
        result = plan({both})
    except Declined:
        counts.declined += 1
        return native(keyset, {', '.join(passed)})
    finally:
        state.busy = False
    counts.served += 1
    return result
"""


def router(form: Form, route: Route) -> Callable[..., object]:
    """The compiled router of `route`. It holds the route's parts, never its Library, so that removal frees all."""
    from gems_ops.register import busy

    scope: dict[str, object] = {
        "NUMBERS": frozenset(NUMBERS), "Declined": Declined, "state": busy,
        "table": route.table, "decide": route.decide, "counts": route.counts,
    }
    for a in form.overload._schema.arguments:
        if a.has_default_value():
            scope[f"default_{a.name}"] = a.default_value
    exec(compile(source(form), f"<router of {form.name}>", "exec"), scope)  # noqa: S102  our own text, from a schema
    return scope["route"]


def adapter(form: Form) -> Callable[..., object]:
    """Calls the declared function with values in schema order, outputs last, as a router passes them."""
    fn = form.op.fn
    parameters = inspect.signature(fn).parameters
    names = [a.name for a in form.arguments]
    by_name = [n for n in names if n in parameters and parameters[n].kind is inspect.Parameter.KEYWORD_ONLY]
    n, n_positional = len(names), len(names) - len(by_name)
    if names[n_positional:] != by_name:
        raise TypeError(f"{form.name}: keyword-only parameters of {fn.__qualname__} must be the schema's last ones")
    if form.name == form.op.name and not by_name and not form.outputs:
        return fn
    writes_self = form.overload._schema.arguments[0].alias_info is not None and not form.outputs

    @functools.wraps(fn)
    def call(*values: object) -> object:
        kwargs = dict(zip(by_name, values[n_positional:n], strict=True))
        if form.outputs:
            outs = values[n:]
            kwargs["out"] = outs[0] if len(outs) == 1 else outs
        elif writes_self and form.op.in_place:
            kwargs["out"] = values[0]
        return fn(*values[:n_positional], **kwargs)

    return call

