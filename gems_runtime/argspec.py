"""The arguments of a kernel call as text: `*bf16[1024,1024], 1024, BLOCK=256`."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton.language as tl

from gems_runtime.errors import UsageError

_DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i1": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_TL_NAMES = {getattr(tl, name).name: name for name in dir(tl) if isinstance(getattr(tl, name), tl.dtype)}
_TENSOR = re.compile(r"\*(\w+)\[([\d,\s]*)\](?::\[([\d,\s]*)\])?(?:\+(\d+))?")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be made: dtype, shape, strides in elements, and where in its memory it begins."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def make(self, device: torch.device) -> torch.Tensor:
        extent = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides)) if 0 not in self.shape else 0
        memory = torch.zeros(self.offset + extent, dtype=self.dtype, device=device)
        if self.dtype.is_floating_point and device.type != "meta":
            memory.copy_(torch.randn(memory.shape, device=device, dtype=torch.float32))
        return memory.as_strided(self.shape, self.strides, self.offset)

    def __str__(self) -> str:
        join = lambda numbers: ",".join(map(str, numbers))
        strides = "" if self.strides == _dense(self.shape) else f":[{join(self.strides)}]"
        offset = f"+{self.offset}" if self.offset else ""
        return f"*{_DTYPE_NAMES[self.dtype]}[{join(self.shape)}]{strides}{offset}"


@dataclass(frozen=True)
class CallSpec:
    """The arguments of one kernel call; tensors as what they are made from."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def make(self, device: torch.device) -> tuple[list[object], dict[str, object]]:
        """The arguments, with tensors on `device`."""
        real = lambda value: value.make(device) if isinstance(value, TensorSpec) else value
        return [real(v) for v in self.args], {n: real(v) for n, v in self.kwargs.items()}

    def __str__(self) -> str:
        return ", ".join([*map(_text, self.args), *(f"{n}={_text(v)}" for n, v in self.kwargs.items())])


def parse(text: str) -> CallSpec:
    """The call that the text describes. Raises UsageError."""
    args: list[object] = []
    kwargs: dict[str, object] = {}
    for part in _split(text):
        name = re.match(r"([A-Za-z_]\w*)\s*=(?!=)", part)
        if name:
            kwargs[name[1]] = _value(part[name.end() :].strip())
        elif kwargs:
            raise UsageError(f"argument {part!r} has no name but follows one that has")
        else:
            args.append(_value(part))
    return CallSpec(tuple(args), kwargs)


def describe(args: tuple[object, ...], kwargs: Mapping[str, object]) -> CallSpec | None:
    """The text form's call for live arguments, or None if one of them cannot be written down."""
    spec = CallSpec(tuple(map(_spec, args)), {name: _spec(value) for name, value in kwargs.items()})
    try:
        return spec if parse(str(spec)) == spec else None
    except UsageError:
        return None


def _spec(value: object) -> object:
    if not isinstance(value, torch.Tensor) or value.dtype not in _DTYPE_NAMES:
        return value
    offset = value.data_ptr() % 16 // value.element_size()
    return TensorSpec(value.dtype, tuple(value.shape), tuple(value.stride()), offset)


def _split(text: str) -> list[str]:
    """Parts between commas that are not inside brackets or quotes."""
    parts = re.findall(r"(?:\[[^\]]*\]|\([^)]*\)|'[^']*'|[^,\[\]()'])+", text)
    if ",".join(parts).replace(" ", "") != text.strip().strip(",").replace(" ", ""):
        raise UsageError(f"cannot split {text!r} into arguments; check brackets, quotes and commas")
    return [part.strip() for part in parts]


def _value(text: str) -> object:
    if text.startswith("*"):
        return _tensor(text)
    if text.startswith("tl.") and isinstance(getattr(tl, text[3:], None), tl.dtype):
        return getattr(tl, text[3:])
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise UsageError(f"argument {text!r} is not understood; see gems-cache warm --help") from None
    if value is not None and not isinstance(value, (bool, int, float, str, tuple)):
        raise UsageError(f"argument {text!r} is a {type(value).__name__}, which no kernel takes")
    return value


def _tensor(text: str) -> TensorSpec:
    found = _TENSOR.fullmatch(text)
    if not found:
        raise UsageError(f"tensor {text!r} is not understood; write *bf16[1024,1024] or *bf16[64,64]:[1,64]")
    if found[1] not in _DTYPES:
        raise UsageError(f"unknown type {found[1]!r} in {text!r}; known: {' '.join(_DTYPES)}")
    numbers = lambda inner: tuple(int(n) for n in inner.split(",") if n.strip())
    shape = numbers(found[2])
    strides = _dense(shape) if found[3] is None else numbers(found[3])
    if len(strides) != len(shape):
        raise UsageError(f"tensor {text!r} has {len(shape)} dimensions and {len(strides)} strides")
    return TensorSpec(_DTYPES[found[1]], shape, strides, int(found[4] or 0))


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape)))


def _text(value: object) -> str:
    if isinstance(value, tl.dtype):
        return f"tl.{_TL_NAMES[value.name]}"
    return str(value) if isinstance(value, TensorSpec) else repr(value)

