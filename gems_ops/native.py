"""Calling the captured native kernel, also with the bare Python numbers that torch hands to a Python kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gems_ops.variants import Form, Kind

NUMBERS = (bool, int, float, complex)


class Native:
    """The kernel that served an overload before us. Calling it never goes back to the dispatcher."""

    def __init__(self, form: Form, kernel: torch.library.SafeKernelFunction) -> None:
        self.call = _without_keyset(form.op.native) if form.op.native else kernel.call_boxed
        self.form = form
        self.tensor_positions = [i for i, a in enumerate(form.arguments) if str(a.type) == "Tensor"]

    def for_arguments(self, args: tuple) -> object:
        """The way to call the kernel for arguments of these types."""
        numbers = any(isinstance(args[i], NUMBERS) for i in self.tensor_positions)
        return self.call_with_numbers if numbers else self.call

    def call_with_numbers(self, keyset: torch._C.DispatchKeySet, *args: object, **kwargs: object) -> object:
        """As `call`, for Python numbers where the schema says Tensor; promotion stays that of wrapped numbers.

        A wrapped number ranks below a 0-dim tensor, which a 0-dim tensor of ours cannot say; so when every
        tensor is 0-dim they are given a dimension for the call.
        """
        tensors = [a for a in args if isinstance(a, Tensor)]
        lift = all(t.dim() == 0 for t in tensors)
        floating = any(t.is_floating_point() or t.is_complex() for t in tensors)
        converted = tuple(
            wrap_number(a, floating) if i in self.tensor_positions and isinstance(a, NUMBERS)
            else a.unsqueeze(0) if lift and isinstance(a, Tensor)
            else a
            for i, a in enumerate(args)
        )
        if lift and isinstance(out := kwargs.get("out"), Tensor):
            self.call(keyset, *converted, **{**kwargs, "out": out if out.dim() else out.unsqueeze(0)})
            return out.resize_(()) if out.dim() else out
        result = self.call(keyset, *converted, **kwargs)
        if self.form.kind is Kind.IN_PLACE:
            return args[0]
        return result.squeeze(0) if lift and self.form.kind is Kind.FUNCTIONAL else result



def _without_keyset(function: Callable[..., object]) -> Callable[..., object]:
    return lambda keyset, *args, **kwargs: function(*args, **kwargs)


def wrap_number(number: bool | int | float | complex, with_floats: bool) -> Tensor:
    """A 0-dim CPU tensor that promotes, beside tensors with dimensions, as the bare number does."""
    if isinstance(number, bool):
        return torch.tensor(number)
    if isinstance(number, int):
        return torch.tensor(number, dtype=torch.int64)
    if isinstance(number, float):
        return torch.tensor(number, dtype=torch.float64 if with_floats else torch.get_default_dtype())
    return torch.tensor(number, dtype=torch.complex128 if with_floats else torch.get_default_dtype().to_complex())
