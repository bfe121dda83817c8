"""Writes the source of a router from an ATen schema: the one piece of Python that runs before every routed call."""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING

import torch

from gems_ops.native import NUMBERS
from gems_ops.op import Declined
from gems_ops.routing import TABLE_LIMIT, native_router, state
from gems_ops.variants import Form

if TYPE_CHECKING:
    from gems_ops.register import Route

EXACT = frozenset({torch.Tensor, torch.nn.Parameter})


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
    if type_ == "Optional[Generator]":  # the decision is the same for each, and a key would keep it alive
        return f"{name} is None"
    if "number" in type_ or "float" in type_:  # values of numbers are run-time arguments, not decisions
        return f"{name}.__class__"
    if type_.startswith(("List", "Optional[List")):
        return f"None if {name} is None else tuple({name})"
    return name


def _variable(a: torch.Argument) -> str:
    """The name of an argument in a router; ATen calls one of uniform_'s `from`."""
    return f"{a.name}_" if keyword.iskeyword(a.name) else a.name


def source(form: Form) -> str:
    """The text of the router of one overload."""
    arguments = form.overload._schema.arguments
    names = [_variable(a) for a in form.arguments]
    outs = [_variable(a) for a in form.outputs]
    declared, star = [], False
    for a in arguments:
        if a.kwarg_only and not star:
            declared.append("*")
            star = True
        declared.append(f"{_variable(a)}=default_{a.name}" if a.has_default_value() else _variable(a))
    keys = [_key_expression(_variable(a), str(a.type), a.name in form.op.keyed) for a in arguments]
    passed = [f"{a.name}={a.name}" if a.kwarg_only else _variable(a) for a in arguments]
    both = ", ".join(names + outs)
    return f"""def route(keyset, {', '.join(declared)}):
    key = ({', '.join(f'({k})' for k in keys)},)
    decision = table.get(key)
    if decision is None and state.busy:  # nobody asks for a plan that would not be used
        counts[1] += 1
        return native_of(({''.join(n + ', ' for n in names)}))(keyset, {', '.join(passed)})
    if decision is None:
        decision = decide(key, ({''.join(n + ', ' for n in names)}), ({''.join(n + ', ' for n in outs)}))
    plan, native = decision
    if plan is None or state.busy:
        counts[1] += 1
        return native(keyset, {', '.join(passed)})
    state.busy = True
    try:
        result = plan({both})
    except Declined:
        counts[1] += 1
        return native(keyset, {', '.join(passed)})
    finally:
        state.busy = False
    counts[0] += 1
    return result
"""


def custom_source(overload: torch._ops.OpOverload, keyed: frozenset[str]) -> str:
    """The text of the two functions that serve a custom operator: below the dispatcher, and instead of it.

    A custom operator costs some 60 us a call, all of it above the kernel (EPYC, Python 3.11, torch 2.13). The dispatcher
    is left out where it has nothing to do: no gradient, no transform, no mode, no tracing; never while compiling.
    """
    arguments = overload._schema.arguments
    names = ", ".join(a.name for a in arguments)
    declared = ", ".join(f"{a.name}=default_{a.name}" if a.has_default_value() else a.name for a in arguments)
    key = ", ".join(f"({_key_expression(a.name, str(a.type), a.name in keyed)})" for a in arguments)
    tensors = [a.name for a in arguments if str(a.type) == "Tensor"]
    return f"""def serve({declared}):
    key = ({key},)
    try:
        plan = table[key]
    except KeyError:
        if len(table) >= limit:
            table.clear()
        plan = table[key] = decide(({names},))
    if plan is None:
        counts[1] += 1
        return formula({names})
    try:
        result = plan({names})
    except Declined:
        counts[1] += 1
        return formula({names})
    counts[0] += 1
    return result

def call({declared}):
    if (
        is_dynamo_compiling() or dispatch_modes() or function_modes() or is_tracing() or transforms() is not None
        or {' or '.join(f'{t}.__class__ not in plain or {t}.is_neg()' for t in tensors)}
        or is_grad_enabled() and ({' or '.join(f'{t}.requires_grad' for t in tensors)})
    ):
        return operator({names})
    return serve({names})
"""


def custom_calls(
    overload: torch._ops.OpOverload, decide: Callable[[tuple], object], formula: Callable[..., object], counts: object,
    keyed: frozenset[str] = frozenset(),
) -> tuple[Callable[..., object], Callable[..., object]]:
    """The functions of `custom_source`: (below the dispatcher, instead of it)."""
    scope: dict[str, object] = {
        "NUMBERS": frozenset(NUMBERS), "Declined": Declined, "table": {}, "limit": TABLE_LIMIT, "decide": decide,
        "formula": formula, "counts": counts, "operator": overload, "plain": EXACT,
        "is_dynamo_compiling": torch.compiler.is_dynamo_compiling, "is_grad_enabled": torch.is_grad_enabled,
        "dispatch_modes": torch._C._len_torch_dispatch_stack, "function_modes": torch._C._len_torch_function_stack,
        "is_tracing": torch._C._is_tracing, "transforms": torch._C._functorch.peek_interpreter_stack,
    }  # fmt: skip
    for a in overload._schema.arguments:
        if a.has_default_value():
            scope[f"default_{a.name}"] = a.default_value
    exec(compile(custom_source(overload, keyed), f"<calls of {overload._name}>", "exec"), scope)  # noqa: S102  as in `router`
    decision = lambda values: (decide(values), formula, True)  # noqa: E731
    native = native_router(overload._schema.arguments, keyed, decision, scope["serve"], counts)
    scope["serve"] = native or scope["serve"]
    return scope["serve"], scope["call"]


def router(form: Form, route: Route) -> Callable[..., object]:
    """The compiled router of `route`. It holds the route's parts, never its Library, so that removal frees all."""
    scope: dict[str, object] = {
        "NUMBERS": frozenset(NUMBERS), "Declined": Declined, "state": state(),
        "table": route.table, "decide": route.decide, "counts": route.counts.cells, "native_of": route.native.for_arguments,
    }
    for a in form.overload._schema.arguments:
        if a.has_default_value():
            scope[f"default_{a.name}"] = a.default_value
    exec(_code(form), scope)  # noqa: S102  our own text, from a schema
    return scope["route"]


@functools.lru_cache(maxsize=None)
def _code(form: Form) -> CodeType:
    """Compiled once: a scope of use_gems() makes every router anew, and compiling was two thirds of its time."""
    return compile(source(form), f"<router of {form.name}>", "exec")


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

