"""Declares a custom operator in one record: plan, formula for where no kernel can run, fake, gradient, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from gems_ops.op import Declined, Op, Sample, declare
from gems_ops.plan import Planned
from gems_ops.register import counts_of, on_device_of
from gems_ops.signature import custom_calls
from gems_ops.workloads import Workload
from gems_runtime import device

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, kw_only=True)
class CustomOp:
    """What `gems::name` is. The formula says the same as the plan in plain torch operators and is the suite's truth."""

    name: str  # "gems::rms_norm"
    schema: str
    plan: Callable[..., Planned]  # as Op.plan; may raise Declined
    formula: Callable[..., object]
    fake: Callable[..., object]
    dtypes: frozenset[torch.dtype]
    samples: Callable[[torch.dtype], Iterable[Sample]] | None = None  # of a declared operator
    mutates: Sequence[str] = ()
    save: Callable[..., None] | None = None  # (ctx, inputs, output): what the gradient needs
    gradient: Callable[..., object] | None = None  # (ctx, *grads)
    argument_dtypes: dict[str, frozenset[torch.dtype]] | None = None
    keyed: frozenset[str] = frozenset()  # floating point arguments whose values decide the plan
    bench: tuple[Workload, ...] = ()
    call: Callable[..., object] = field(init=False)  # the operator, for a caller who need not go through the dispatcher

    def define(self) -> CustomOp:
        """Define the torch operator."""
        late: dict[str, Callable[..., object]] = {}  # what needs the schema that defining parses

        def serve(*args: object) -> object:
            return late["serve"](*args)

        def fake(*args: object) -> object:
            # plain meta tensors stand for a device while kernels are compiled for a target that is not here
            if type(args[0]) is Tensor and kernels_run_on(args[0].device):
                return serve(*args)
            return self.fake(*args, *defaults[len(args) :])

        operator = torch.library.custom_op(self.name, serve, mutates_args=tuple(self.mutates), schema=self.schema)
        operator.register_fake(fake)
        if self.gradient is not None:
            operator.register_autograd(self.gradient, setup_context=self.save)
        elif not self.mutates:
            operator.register_autograd(self._gradient_of_formula, setup_context=_save_all)
        overload = operator._opoverload
        defaults = [a.default_value for a in overload._schema.arguments]
        late["serve"], call = custom_calls(overload, self.decide, self.formula, counts_of(self.name).cells, self.keyed)
        object.__setattr__(self, "call", call)
        return self

    def decide(self, args: tuple) -> Planned | None:
        """The plan for calls like this one; None if the formula serves them."""
        try:
            self._check(args)
            return on_device_of(args, self.plan(*args))
        except Declined as reason:
            counts_of(self.name).reasons[str(reason)] += 1
            return None

    def _gradient_of_formula(self, ctx: torch.autograd.function.FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """For gradients of gradients: rare, and not worth kernels."""
        needed = [i for i, wants in enumerate(ctx.needs_input_grad) if wants]
        inputs = _saved_all(ctx)
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() if i in needed else t for i, t in enumerate(inputs)]
            results = self.formula(*leaves)
            pairs = zip(results if isinstance(results, tuple) else (results,), grads, strict=True)
            used = [(r, g) for r, g in pairs if r.requires_grad and g is not None]
            results, grads = zip(*used, strict=True)
            found = torch.autograd.grad(results, [leaves[i] for i in needed], grads, allow_unused=True)
        by_place = dict(zip(needed, found, strict=True))
        return tuple(by_place.get(i) for i in range(len(inputs)))

    def declare(self) -> Callable[[F], F]:
        """Enter the defined operator in the registry; the decorated function, which calls it, is what users call."""
        return self._record

    def _record(self, function: F) -> F:
        declare(
            Op(
                name=self.name, fn=function, dtypes=self.dtypes, samples=self.samples, bench=self.bench,
                argument_dtypes=self.argument_dtypes or {}, reference=self.formula, writes_out=False,
            )
        )  # fmt: skip
        return function

    def _check(self, args: Sequence[object]) -> None:
        """Decline what no plan is asked to take."""
        allowed = self.dtypes.union(*(self.argument_dtypes or {}).values())
        for t in args:
            if not isinstance(t, Tensor):
                continue
            if not kernels_run_on(t.device) or t.device != args[0].device:
                raise Declined(f"kernels do not run on {t.device}")
            if t.dtype not in allowed or t.numel() == 0 or t.is_neg():
                raise Declined(f"a tensor of {t.dtype} with {t.numel()} elements")


def _save_all(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: object) -> None:
    ctx.others = [None if isinstance(v, Tensor) else v for v in inputs]
    ctx.places = [i for i, v in enumerate(inputs) if isinstance(v, Tensor)]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))


def _saved_all(ctx: torch.autograd.function.FunctionCtx) -> list[object]:
    found = list(ctx.others)
    for i, t in zip(ctx.places, ctx.saved_tensors, strict=True):
        found[i] = t
    return found


def kernels_run_on(where: torch.device) -> bool:
    """True if kernels can be launched on tensors of this device here."""
    try:
        return where.type == device.torch_device().type
    except RuntimeError:  # Triton finds no driver
        return False


def wide(x: Tensor) -> Tensor:
    """The tensor in the type that kernels compute in."""
    return x if x.dtype == torch.float64 else x.float()
