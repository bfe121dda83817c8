"""Every declared operator, in every form and dtype, on its declared samples, against ATen in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch
from compare import check, copy_layout, layout_of, tensors, to_truth
from torch import Tensor
from torch.utils._pytree import tree_map

import flag_gems
from gems_ops.layout import has_overlap
from gems_ops.op import Op, Sample, all_ops
from gems_ops.register import counts_of, is_routed
from gems_ops.variants import Form, Kind, forms
from gems_runtime import device

# One dtype of each kind: the forms of an operator differ in what is written, not in how it is computed.
KINDS = frozenset({torch.float32, torch.bfloat16, torch.int64, torch.bool})


def dtypes_of(op: Op, form: Form) -> list[torch.dtype]:
    """Every dtype for the functional form, one of each kind for the others."""
    every = form.kind is Kind.FUNCTIONAL or not op.dtypes & KINDS
    return sorted(op.dtypes if every else op.dtypes & KINDS, key=str)


EVERY = [
    (o, f, d)
    for o in all_ops() for f in forms(o) if is_routed(f, device.dispatch_key())
    for d in dtypes_of(o, f)
]  # fmt: skip


def place(value: object) -> object:
    """Arguments on the device under test, layouts kept."""
    here = device.torch_device()
    return tree_map(lambda v: copy_layout(v, here) if isinstance(v, Tensor) else v, value)


def chosen(op: Op, form: Form, dtype: torch.dtype) -> list[Sample]:
    """All samples for the functional form in the main dtypes; every third for the rest, which share the kernels."""
    samples = list(op.samples(dtype))
    thorough = form.kind is Kind.FUNCTIONAL and dtype in (torch.float32, torch.bfloat16)
    return samples if thorough or not torch.cuda.is_available() and len(samples) < 9 else samples[::3]


def call(form: Form, sample: Sample, like: object = None) -> object:
    """Run one form; out= tensors are filled with nan first, so that an element nobody writes shows."""
    args, kwargs = place(sample.args), {**place(sample.kwargs), **form.op.placement}
    if form.kind is Kind.OUT:
        outs = [poisoned(t) for t in tensors(like)]
        kwargs.update({a.name: t for a, t in zip(form.outputs, outs)})
    result = form.overload(*args, **kwargs)
    if form.kind is Kind.IN_PLACE:
        assert result is args[0], f"{form.name} must return its first argument"
    return result


def poisoned(t: Tensor) -> Tensor:
    """A tensor of the same layout that holds nan, or the largest integer."""
    filled = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
    return filled.fill_(float("nan") if t.is_floating_point() else 1 if t.dtype == torch.bool else torch.iinfo(t.dtype).max)


def attempt(function, *args):
    """(result, None) or (None, the error), with the generators at a fixed seed."""
    torch.manual_seed(0)
    try:
        return function(*args), None
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        return None, error


def check_drawn(label: str, got: object, native: object) -> None:
    """On a GPU we draw ATen's own numbers; the interpreter's stand beside those of another generator (test_random.py)."""
    for ours, theirs in zip(tensors(got), tensors(native), strict=True):
        assert layout_of(ours) == layout_of(theirs), f"{label}: {layout_of(ours)}, ATen gives {layout_of(theirs)}"
        if torch.cuda.is_available():
            assert torch.equal(ours, theirs), f"{label}: {(ours != theirs).sum()} numbers are not ATen's"


@pytest.mark.parametrize("op, form, dtype", EVERY, ids=[f"{f.name}-{str(d)[6:]}" for o, f, d in EVERY])
def test_agrees_with_aten(op: Op, form: Form, dtype: torch.dtype) -> None:
    counts = counts_of(form.name)
    served, compared, raised = counts.served, 0, 0
    for i, sample in enumerate(chosen(op, form, dtype)):
        reference = op.reference or op.overload
        plain = (lambda s: op.reference(*place(s.args), **place(s.kwargs))) if op.reference else (lambda s: call(form, s, base))
        base = None
        if form.kind is Kind.OUT:
            base, error = attempt(lambda s: op.overload(*place(s.args), **place(s.kwargs)), sample)
            if error:
                continue
        native, native_error = attempt(plain, sample)
        repeats, before = form.kind is Kind.IN_PLACE and has_overlap(sample.args[0].shape, sample.args[0].stride()), counts.served
        with flag_gems.use_gems(include=[op.name]):
            got, error = attempt(call, form, sample, base)
        label = f"{form.name} {dtype} sample {i} {[tuple(t.shape) for t in tensors(sample.args)]}"
        assert type(error) is type(native_error), f"{label}: raised {error!r}, ATen raised {native_error!r}"
        if repeats:
            # ATen writes it on both sides, and its threads in any order: baddbmm_ gives 3 results in 20 runs of 2 threads.
            assert counts.served == before, f"{label}: elements share memory, and our kernel wrote them"
        elif error is None and op.random:
            check_drawn(label, got, native)
        elif error is None:
            truth = reference(*to_truth(sample.args), **to_truth(sample.kwargs))
            if form.kind is Kind.IN_PLACE and not truth.is_floating_point():
                truth = truth.to(native.dtype)  # what does not fit wraps, as cumsum_ of int8
            check(label, got, native, truth, tensors(sample.args), op.error_factor)
        compared, raised = compared + (error is None), raised + (error is not None)
    assert compared or raised, f"{form.name} {dtype}: no sample ran"
    assert counts.served > served or not compared, f"{form.name} {dtype}: every call went to the native kernel: {counts.reasons}"
