"""Tells `gems-cache warm` which operators there are, and what a shape or a model means for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gems_ops.calls import Call, call_from, dtype_named, encode, forms_by_name
from gems_ops.op import Declined, Op, all_ops, find
from gems_ops.variants import Form
from gems_runtime.errors import UsageError


def operator_names() -> list[str]:
    """What `gems-cache warm NAME` takes."""
    return sorted({o.function_name for o in all_ops()})


def job_from_record(record: dict) -> Call:
    """The call that one line of a shapes file describes."""
    return call_from(record, forms_by_name(all_ops()))


def jobs_for(name: str, shape: str, dtype: str) -> list[Call]:
    """Calls of every overload that `name` means, for a shape such as 4096x4096x4096 and a dtype such as bf16.

    Matrix products take MxNxK (bmm: BxMxNxK); every other operator takes the shape of its tensors, in the form of
    its first declared sample. An unknown name, shape or dtype is a UsageError.
    """
    found = find(name)
    if not found:
        raise UsageError(f"no operator is called {name!r}; known: {', '.join(operator_names())}")
    sizes, kind = parse_shape(shape), dtype_named(dtype)
    return [_call(op, sizes, kind) for op in found if kind in op.dtypes] or _no_dtype(name, dtype)


def _no_dtype(name: str, dtype: str) -> list[Call]:
    raise UsageError(f"{name} takes no {dtype}")


def parse_shape(text: str) -> tuple[int, ...]:
    """(4096, 1024) from "4096x1024"."""
    if not re.fullmatch(r"[1-9]\d{0,11}(x[1-9]\d{0,11})*", text):
        raise UsageError(f"{text!r} is no shape; write sizes joined by x, for example 4096x4096")
    return tuple(int(n) for n in text.split("x"))


# Operators whose arguments differ in shape; the sizes are those of the problem, outermost first.
_PRODUCTS = {
    "aten::mm": (("M", "K"), ("K", "N")),
    "aten::addmm": (("N",), ("M", "K"), ("K", "N")),
    "aten::bmm": (("B", "M", "K"), ("B", "K", "N")),
}


def _call(op: Op, sizes: tuple[int, ...], dtype: torch.dtype) -> Call:
    form = forms_by_name([op])[op.overload._name]
    if op.name in _PRODUCTS:
        letters = "BMNK" if op.name == "aten::bmm" else "MNK"
        if len(sizes) != len(letters):
            raise UsageError(f"{op.function_name} takes {'x'.join(letters)}, got {'x'.join(map(str, sizes))}")
        named = dict(zip(letters, sizes, strict=True))
        args = [torch.empty([named[x] for x in operand], dtype=dtype, device="meta") for operand in _PRODUCTS[op.name]]
        return Call(op, form, {"op": form.name, "args": [encode(a) for a in args], "kwargs": {}})
    return Call(op, form, {"op": form.name, **_like_first_sample(op, form, sizes, dtype)})


def _like_first_sample(op: Op, form: Form, sizes: tuple[int, ...], dtype: torch.dtype) -> dict:
    """The first sample with tensors of two or more elements, its tensors replaced by ones of the wanted shape."""
    for sample in op.samples(dtype):
        tensors = [a for a in sample.args if isinstance(a, torch.Tensor)]
        if tensors and all(t.shape == tensors[0].shape and t.numel() > 1 for t in tensors):
            wanted = [
                torch.empty(sizes, dtype=a.dtype, device="meta") if isinstance(a, torch.Tensor) else a for a in sample.args
            ]
            named = {k: encode(v) for k, v in sample.kwargs.items()}
            return {"args": [encode(a) for a in wanted], "kwargs": named}
    raise UsageError(f"{op.function_name} has arguments of several shapes: warm it with --model or a shapes file")


class Recorder(TorchDispatchMode):
    """Collects the distinct calls of declared operators made below it, as records, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, Form] = forms_by_name(all_ops())
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's own protocol
        form = self.forms.get(func._name)
        if form is not None:
            self._note(form, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _note(self, form: Form, args: tuple, kwargs: dict) -> None:
        try:
            record = {"op": form.name, "args": encode(args), "kwargs": {k: encode(v) for k, v in kwargs.items()}}
        except Declined:
            return
        self.calls.setdefault(json.dumps(record, sort_keys=True), Call(form.op, form, record))


def jobs_for_model(config: Path, batch: int, seq: int, decode: int, dtype: str) -> list[Call]:
    """The distinct operator calls of a causal language model: prefill of `seq` tokens, then `decode` steps.

    The model is built from its transformers configuration on the meta device: no weights, no memory.
    """
    from gems_ops.models import generate_on_meta

    with Recorder() as recorder:
        generate_on_meta(config, batch, seq, decode, dtype_named(dtype))
    return list(recorder.calls.values())
