"""Dtypes that no sample asks for, as `dtype=` and as that of an out= tensor: ATen's result, or its error in its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from compare import tensors
from torch import Tensor

import flag_gems
from gems_ops.op import Op, Sample, all_ops
from gems_ops.register import is_routed
from gems_ops.variants import Form, Kind, forms
from gems_runtime import device

ASKED = (
    torch.bool, torch.int64, torch.float16, torch.float64, torch.complex64, torch.complex32, torch.float8_e4m3fn, torch.uint16,
    torch.uint64,
)  # fmt: skip
GIVEN = (torch.float32, torch.int32)  # dtypes of the operands
# ATen's own kernels, which write these, break the device (torch 2.11 on an H200, 2026-11-27).
BROKEN = {("aten::exp2.out", torch.float8_e4m3fn), ("aten::erfc.out", torch.float8_e4m3fn)} if torch.cuda.is_available() else set()


OUTPUTS = [f for o in all_ops() for f in forms(o) if f.kind is Kind.OUT and is_routed(f, device.dispatch_key())]


def takes_dtype(op: Op) -> bool:
    return op.name.startswith("aten::") and any(a.name == "dtype" for a in op.overload._schema.arguments)


def attempt(function: Callable[[], object]) -> tuple[object, Exception | None]:
    torch.manual_seed(0)
    try:
        return function(), None
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        return None, error


def same(op: Op, label: str, function: Callable[[], object]) -> None:
    """The call gives the same dtypes and numbers, or raises the same error, with the operator switched on and off."""
    native, native_error = attempt(function)
    with flag_gems.use_gems(include=[op.name]):
        got, error = attempt(function)
    assert type(error) is type(native_error) and str(error) == str(native_error), f"{label}: {error!r}, ATen: {native_error!r}"
    for ours, theirs in zip(tensors(got), tensors(native), strict=True):
        assert ours.dtype == theirs.dtype, label
        if not op.random:
            torch.testing.assert_close(wide(ours), wide(theirs), rtol=1e-3, atol=1e-3, equal_nan=True, msg=label)


def wide(t: Tensor) -> Tensor:
    return t.cpu().to(torch.complex128 if t.is_complex() else torch.float64)


def with_dtype(op: Op, sample: Sample, dtype: torch.dtype) -> tuple[list[object], dict[str, object]]:
    """The sample's arguments with another `dtype`, by position where the schema wants it so."""
    names = [a.name for a in op.overload._schema.arguments]
    args, place = list(sample.args), names.index("dtype")
    kwargs = {**sample.kwargs, **op.placement, "dtype": dtype}
    if len(args) > place:
        args[place] = kwargs.pop("dtype")
    return args, kwargs


def here(values: object) -> object:
    return torch.utils._pytree.tree_map(lambda v: v.to(device.torch_device()) if isinstance(v, Tensor) else v, values)


def some(op: Op, most: int) -> Iterator[Sample]:
    for dtype in GIVEN:
        yield from list(op.samples(dtype))[:most] if dtype in op.dtypes else ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", [o for o in all_ops() if takes_dtype(o)], ids=lambda o: o.name)
def test_asked_for(op: Op) -> None:
    for dtype in ASKED:
        for sample in some(op, 3):
            args, kwargs = here(with_dtype(op, sample, dtype))
            same(op, f"{op.name} {[str(a)[:40] for a in args]} as {dtype}", lambda: op.overload(*args, **kwargs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", OUTPUTS, ids=lambda f: f.name)
def test_of_an_output(form: Form) -> None:
    for sample in some(form.op, 1):
        args, kwargs = here((sample.args, {n: v for n, v in sample.kwargs.items() if n != "out"}))
        shapes = results(form, sample)
        for dtype in (d for d in ASKED if (form.name, d) not in BROKEN):

            def call() -> object:
                outs = (torch.zeros(shape, dtype=dtype, device=device.torch_device()) for shape in shapes)
                return form.overload(*args, **kwargs, **{a.name: out for a, out in zip(form.outputs, outs, strict=True)})

            same(form.op, f"{form.name} into {dtype}", call)


def results(form: Form, sample: Sample) -> list[torch.Size]:
    """The shapes of what a form writes."""
    args, kwargs = here((sample.args, {**sample.kwargs, **form.op.placement}))
    given, error = attempt(lambda: form.op.overload(*args, **kwargs))
    return [t.shape for t in tensors(given)] if error is None else [torch.Size()] * len(form.outputs)
