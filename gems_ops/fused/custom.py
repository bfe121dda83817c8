"""Declares a custom operator in one record: kernel, formula for where the kernel cannot run, fake, gradient, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from gems_ops.op import Declined, Op, Sample, declare
from gems_ops.register import counts_of
from gems_ops.workloads import Workload
from gems_runtime import device

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, kw_only=True)
class CustomOp:
    """What `gems::name` is. The formula says the same as the kernel in plain torch operators and is the suite's truth."""

    name: str  # "gems::rms_norm"
    schema: str
    kernel: Callable[..., object]  # may raise Declined before it launches anything
    formula: Callable[..., object]
    fake: Callable[..., object]
    dtypes: frozenset[torch.dtype]
    samples: Callable[[torch.dtype], Iterable[Sample]] | None = None  # of a declared operator
    mutates: Sequence[str] = ()
    save: Callable[..., None] | None = None  # (ctx, inputs, output): what the gradient needs
    gradient: Callable[..., object] | None = None  # (ctx, *grads)
    argument_dtypes: dict[str, frozenset[torch.dtype]] | None = None
    bench: tuple[Workload, ...] = ()

    def define(self) -> None:
        """Define the torch operator."""
        counts = counts_of(self.name)
        defaults: list[object] = []

        def serve(*args: object) -> object:
            args = (*args, *defaults[len(args) :])  # the dispatcher leaves trailing defaults out
            try:
                self._check(args)
                result = self.kernel(*args)
            except Declined as reason:
                counts.declined += 1
                counts.reasons[str(reason)] += 1
                return self.formula(*args)
            counts.served += 1
            return result

        def fake(*args: object) -> object:
            # plain meta tensors stand for a device while kernels are compiled for a target that is not here
            if type(args[0]) is Tensor and kernels_run_on(args[0].device):
                return serve(*args)
            return self.fake(*args, *defaults[len(args) :])

        operator = torch.library.custom_op(self.name, serve, mutates_args=tuple(self.mutates), schema=self.schema)
        operator.register_fake(fake)
        if self.gradient is not None:
            operator.register_autograd(self.gradient, setup_context=self.save)
        defaults += [a.default_value for a in operator._opoverload._schema.arguments]

    def declare(self) -> Callable[[F], F]:
        """Define the operator and enter it in the registry; the decorated function, which calls it, is what users call."""
        self.define()
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
        allowed = self.dtypes.union(*(self.argument_dtypes or {}).values())
        for t in args:
            if not isinstance(t, Tensor):
                continue
            if not kernels_run_on(t.device) or t.device != args[0].device:
                raise Declined(f"kernels do not run on {t.device}")
            if t.dtype not in allowed or t.numel() == 0 or t.is_neg():
                raise Declined(f"a tensor of {t.dtype} with {t.numel()} elements")


def kernels_run_on(where: torch.device) -> bool:
    """True if kernels can be launched on tensors of this device here."""
    if device.interpreted() or where.type == "cpu":
        return device.interpreted() and where.type == "cpu"
    try:
        return where.type == device.torch_device().type
    except RuntimeError:  # Triton finds no driver
        return False


def wide(x: Tensor) -> Tensor:
    """The tensor in the type that kernels compute in."""
    return x if x.dtype == torch.float64 else x.float()
