"""`@pointwise`: declares an operator by the scalar function that computes one element."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton

from gems_ops.op import DOUBLES, Op, declare
from gems_ops.pointwise.engine import Pointwise
from gems_ops.promote import Promotion
from gems_ops.samples import Samples
from gems_ops.workloads import Workload


def pointwise(
    name: str,
    *,
    samples: Samples,
    dtypes: frozenset[torch.dtype] = DOUBLES,
    bench: tuple[Workload, ...] = (),
    raw: frozenset[str] = frozenset(),
    fixed: frozenset[str] = frozenset(),
    promotion: Promotion = Promotion.DEFAULT,
    contiguous: bool = False,
    when: Callable[..., str | None] | None = None,
    in_place: bool = True,
    **fields: object,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declare `name`; the decorated function takes the schema's arguments, in the compute dtype, and gives one element.

    `raw` names tensors that keep their own dtype, `fixed` numbers that are compiled in, `promotion` is ATen's kind
    of type promotion, `contiguous` says that the result never follows the operands' order, `when` gets the arguments and gives a reason to leave the call to the native kernel, or None. Everything else is `Op`'s.
    """

    def decorate(fn: Callable[..., object]) -> Callable[..., object]:
        record = Op(
            name=name, fn=fn, dtypes=dtypes, samples=samples, bench=bench, scalars=True, in_place=in_place,
            aliasing=True, wide=True, keyed=fixed, **fields,
        )  # fmt: skip
        engine = Pointwise(triton.jit(fn), record.overload, raw, fixed, promotion, contiguous, when)
        names = tuple(a.name for a in record.overload._schema.arguments)
        if engine.names != names:
            raise TypeError(f"{name}: parameters are {engine.names}, the schema has {names}")
        object.__setattr__(record, "plan", engine.plan)
        declare(record)
        return fn

    return decorate
