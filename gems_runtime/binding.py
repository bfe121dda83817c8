"""The arguments of a kernel call by name, and which calls are stock Triton's to judge."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import compat, device
from gems_runtime.chain import Chain, Values
from gems_runtime.signature import CONTENTS, ODD, UNSET, Param, is_reserved, kind_of


@dataclass(frozen=True)
class Call:
    """One call's arguments by name, and their kinds in the kernel's order."""

    values: Values
    options: Values
    kinds: tuple[str, ...]


class Binder:
    """Binds the calls of one kernel."""

    def __init__(self, chain: Chain) -> None:
        # A kernel that is left to stock Triton altogether binds nothing.
        jit = None if chain.stock_reason else chain.jit
        supplied = chain.supplied()
        self.params = tuple(
            Param(p.name, p.is_constexpr, p.name in supplied, p.default if p.has_default else UNSET) for p in (jit.params if jit else ())
        )
        self._supplied = {p.name for p in self.params if p.supplied}
        first = next((i for i, p in enumerate(self.params) if p.supplied), len(self.params))
        self._positional = [p.name for p in self.params[:first]]
        self._named = {p.name for p in self.params} - self._supplied
        self._tuned_by = chain.tuning_names()

    def bind(self, args: tuple[object, ...], kwargs: Values) -> Call | None:
        """The call, or None if it is wrong or has arguments of types that only stock Triton may judge.

        Which of the two depends on the number of arguments, their names and types alone.
        """
        values, options = dict(zip(self._positional, args)), {}
        if len(args) > len(self._positional) or kwargs.keys() & self._supplied or kwargs.keys() & values.keys():
            return None
        for name, value in kwargs.items():
            (values if name in self._named else options)[name] = value
        kinds = tuple(kind_of(values.get(p.name, UNSET), p.is_constexpr) for p in self.params)
        # A config's pre_hook may change descriptors; the key is of the call as it came.
        values = {name: copy.copy(v) if type(v) is TensorDescriptor else v for name, v in values.items()}
        call = Call(values, options, kinds)
        return call if self._is_plain(call) else None

    def _is_plain(self, call: Call) -> bool:
        """True if every argument is of a kind that the launch function handles."""
        if ODD in call.kinds or any(kind_of(v, True) == ODD or is_reserved(n) for n, v in call.options.items()):
            return False
        for param, kind in zip(self.params, call.kinds):
            if kind in CONTENTS and param.name in self._tuned_by:
                return False
            if kind == "U" and not param.supplied:
                if param.default is UNSET or (not param.is_constexpr and kind_of(param.default, False) in CONTENTS | {ODD}):
                    return False
        return True

    def is_here(self, call: Call) -> bool:
        """True if every tensor is a plain one on a device of the type that kernels run on."""
        flag = compat.tensor_flag(device.torch_device().type)
        tensors = [call.values[p.name] for p, kind in zip(self.params, call.kinds) if kind in CONTENTS]
        return not tensors or (flag is not None and all(_is_here(value, flag) for value in tensors))


def _is_here(value: torch.Tensor | TensorDescriptor, flag: str) -> bool:
    if type(value) is TensorDescriptor:
        value = value.base
        if type(value) is not torch.Tensor:
            return False
    return getattr(value, flag)
