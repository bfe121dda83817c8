"""`@pointwise`: declares an operator by the scalar function that computes one element."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import torch
import triton

from gems_ops.op import DOUBLES, Op, declare
from gems_ops.plan import Planned
from gems_ops.pointwise.brief import are_halves
from gems_ops.pointwise.engine import Pointwise, Promotes
from gems_ops.promote import Promotion
from gems_ops.samples import Samples
from gems_ops.variants import Kind, forms
from gems_ops.workloads import Workload

# Schema types whose values are part of a router's key, and so may be compiled in.
_COMPILED_IN = ("bool", "int", "str", "Optional[str]", "Optional[int]")


def pointwise(
    name: str,
    *,
    samples: Samples,
    dtypes: frozenset[torch.dtype] = DOUBLES,
    bench: tuple[Workload, ...] = (),
    raw: frozenset[str] = frozenset(),
    promoting: frozenset[str] = frozenset(),
    fixed: frozenset[str] = frozenset(),
    keyed: frozenset[str] = frozenset(),
    promotion: Promotes = Promotion.DEFAULT,
    rounded: bool = False,
    contiguous: bool = False,
    casts_out: bool = True,
    order: tuple[str, ...] = (),
    when: Callable[..., str | None] | None = None,
    instead: tuple[tuple[Callable[..., bool], triton.JITFunction, frozenset[str]], ...] = (),
    brief: triton.JITFunction | None = None,
    in_place: bool = True,
    **fields: object,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declare `name`; the decorated function takes the schema's arguments, in the compute dtype, and gives one element.

    It gives a tuple for an operator of several results. `raw` names tensors that keep their own dtype, `promoting`
    numbers (or raw tensors) that, like all other tensors, take part in type promotion, whose kind `promotion` is; `fixed` are numbers
    that are compiled in, `keyed` those that `when` looks at, which gets the arguments and gives a reason to leave the
    call to the native kernel, or None; `rounded` says that ATen rounds numbers to the common dtype, `contiguous` that
    the result never follows the operands' layout, `casts_out` that a boolean result may go to an out= of another dtype,
    `order` names the operands in the order in which ATen looks at their layouts where that is not the schema's. `instead`
    has (for which arguments, another function to compute them by, its compiled-in numbers), `brief` is another function
    for 16-bit tensors. Everything else is `Op`'s.
    """

    def decorate(fn: Callable[..., object]) -> Callable[..., object]:
        record = Op(
            name=name, fn=fn, dtypes=dtypes, samples=samples, bench=bench, scalars=True, in_place=in_place,
            aliasing=True, wide=True, keyed=fixed | keyed, **fields,
        )  # fmt: skip
        schema = record.overload._schema
        names = tuple(a.name for a in schema.arguments)
        if tuple(inspect.signature(fn).parameters) != names:
            raise TypeError(f"{name}: parameters are {tuple(inspect.signature(fn).parameters)}, the schema has {names}")
        kinds = {a.name: str(a.type) for a in schema.arguments}
        tensors = frozenset(n for n in names if "Tensor" in kinds[n]) - raw
        # out= forms that torch made of the functional one cast nothing
        made = any(torch.Tag.generated in f.overload.tags for f in forms(record) if f.kind is Kind.OUT)
        engine = Pointwise(
            triton.jit(fn), names, tensors | promoting, raw, fixed | {n for n in names if kinds[n] in _COMPILED_IN},
            promotion, rounded, contiguous, len(schema.returns), order,
            frozenset(n for n in names if kinds[n] in ("float", "Optional[float]")), when,
            casts_out=casts_out and not made, common=dtypes,
        )  # fmt: skip
        choices = (*instead, (are_halves, brief, frozenset())) if brief else instead
        object.__setattr__(record, "plan", _choosing(engine, choices) if choices else engine.plan)
        declare(record)
        return fn

    return decorate


def _choosing(engine: Pointwise, choices: tuple) -> Callable[..., Planned]:
    others = [(applies, replace(engine, scalar=fn, fixed=engine.fixed | fixed)) for applies, fn, fixed in choices]

    def plan(*args: object, **kwargs: object) -> Planned:
        chosen = next((other for applies, other in others if applies(*args)), engine)
        return chosen.plan(*args, **kwargs)

    return plan
