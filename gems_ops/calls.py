"""Operator calls as JSON records: which overload, with tensors of which dtype, shape and strides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gems_ops import register
from gems_ops.op import Declined, Op
from gems_ops.variants import Form, forms
from gems_runtime import device
from gems_runtime.errors import UsageError

_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64", "half": "float16", "float": "float32"}
_NAMED = {"torch.dtype": torch.dtype, "torch.device": torch.device, "torch.memory_format": torch.memory_format}
_MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
LARGEST = 2**40  # elements of a recorded tensor: more than any device holds


def dtype_named(name: str) -> torch.dtype:
    """torch.bfloat16 for "bf16", "bfloat16" or "torch.bfloat16"."""
    found = getattr(torch, _SHORT.get(name, name.removeprefix("torch.")), None)
    if not isinstance(found, torch.dtype):
        raise UsageError(f"{name!r} is no dtype; for example bf16, fp16, fp32, int64")
    return found


def encode(value: object) -> object:
    """One argument as JSON: tensors become {"tensor": shape, "stride": ..., "dtype": ...}."""
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "stride": list(value.stride()), "dtype": str(value.dtype)[6:]}
    for kind, of in _NAMED.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise Declined(f"a {type(value).__name__} cannot be recorded")


def decode(value: object, here: torch.device) -> object:
    """The argument that `encode` described, with new tensors on the device `here`. Raises UsageError for anything else."""
    if isinstance(value, list):
        return [decode(v, here) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return _tensor(value, here)
    if "torch.dtype" in value:
        return dtype_named(str(value["torch.dtype"]))
    if "torch.device" in value:
        return here
    if getattr(torch, str(value.get("torch.memory_format")), None) in _MEMORY_FORMATS:
        return getattr(torch, value["torch.memory_format"])
    raise UsageError(f"a recorded argument has the unknown fields {sorted(value)}")


def _tensor(spec: dict, here: torch.device) -> Tensor:
    shape, dtype = spec["tensor"], dtype_named(str(spec.get("dtype", "float32")))
    stride = spec.get("stride") or list(torch.empty(shape, device="meta").stride())
    whole = all(type(n) is int and n >= 0 for n in [*shape, *stride]) and len(shape) == len(stride)
    if not whole or sum((n - 1) * s for n, s in zip(shape, stride) if n) >= LARGEST:
        raise UsageError(f"a recorded tensor has shape {shape} and strides {stride}")
    span = 1 + sum((n - 1) * s for n, s in zip(shape, stride)) if all(shape) else 0
    flat = torch.empty(span, dtype=dtype, device=here)
    if here.type != "meta":  # indices stay 0, which every table has; numbers are positive, as probabilities must be
        flat = flat.uniform_() if dtype.is_floating_point else flat.zero_()
    return flat.as_strided(shape, stride)


@dataclass(frozen=True)
class Call:
    """One call of a declared operator, ready to be made with new tensors."""

    op: Op
    form: Form
    record: dict

    @property
    def label(self) -> str:
        """ "aten::mm (4096,4096) (4096,4096) bfloat16" """
        specs = [s for a in self.record["args"] for s in (a if isinstance(a, list) else [a]) if isinstance(s, dict)]
        specs = [s for s in specs if "tensor" in s]
        shapes = " ".join("(" + ",".join(map(str, s["tensor"])) + ")" for s in specs)
        return f"{self.form.name} {shapes} {specs[0]['dtype'] if specs else ''}".strip()

    def run(self) -> None:
        """Make the tensors on the device kernels take now and call our implementation once.

        Does nothing for a call that our implementation declines: the native kernel serves it, unwarmed.
        """
        here = device.torch_device()
        given = [decode(a, here) for a in self.record["args"]]
        named = {n: decode(a, here) for n, a in self.record.get("kwargs", {}).items()}
        if not self.op.name.startswith("aten::"):
            self.op.fn(*given, **named)
            return
        values = [
            given[i] if i < len(given) else named.get(a.name, a.default_value) for i, a in enumerate(self.form.arguments)
        ]
        outs = tuple(named[a.name] for a in self.form.outputs if a.name in named)
        try:
            register.plan_call(self.form, tuple(values), outs)(*values, *outs)
        except Declined:
            return


def call_from(record: dict, by_name: dict[str, Form]) -> Call:
    """The call that a record describes. Raises UsageError naming what is wrong with it."""
    name = record.get("op")
    if name not in by_name:
        raise UsageError(f"no operator is called {name!r}; `flag_gems.all_registered_keys()` lists them")
    if not isinstance(record.get("args"), list):
        raise UsageError(f"the record of {name} has no list of arguments")
    return Call(by_name[name].op, by_name[name], record)


def forms_by_name(ops: list[Op]) -> dict[str, Form]:
    """Every form of the operators, by overload name."""
    return {f.name: f for o in ops for f in forms(o)}
