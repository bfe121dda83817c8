"""PyTorch's own samples for the declared operators: our kernels against ATen's, in every form, layout and dtype.

What may differ: nothing but the last bits. dtype, shape, strides, the type of an error, gradients, in-place and out=
behaviour are compared for each sample.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from compare import check, copy_layout, layout_of, tensors, to_truth
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_map

import flag_gems
from gems_ops.layout import has_overlap
from gems_ops.op import Op, all_ops, base_name
from gems_ops.register import counters, is_routed, reset_counters
from gems_ops.variants import forms
from gems_runtime import device

ON_GPU = torch.cuda.is_available()
# The interpreter takes about 14 ms a launch. Extremal and strided samples come last, so few samples are taken evenly.
SAMPLES = int(os.environ.get("OPINFO_SAMPLES", 1000 if ON_GPU else 30))
FORMS_SAMPLES = 12 if ON_GPU else 4  # of which in-place and out= are tried
# Pointwise operators are many and share one engine, whose layouts, dtypes and special values test_pointwise_*.py cover:
# interpreted, few samples are taken of each, in one dtype of each kind, unless the number is given.
BRIEF = not ON_GPU and "OPINFO_SAMPLES" not in os.environ
KINDS = frozenset({torch.float32, torch.bfloat16, torch.int64, torch.bool})
# hardtanh's gradient at nan is 0 in ATen's CPU kernel, grad_output in torch/_decomp and in ours. On a GPU it is compared.
NAN_GRADIENT = frozenset() if ON_GPU else frozenset({"nn.functional.hardtanh"})
# Unless asked to be stable, ATen's CPU sorts leave equal elements in any order. On a GPU they never do, and are compared as called.
UNSTABLE = frozenset() if ON_GPU else frozenset({"sort", "argsort"})
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def infos_of(op: Op) -> list[OpInfo]:
    """The OpInfo entries that call a declared operator: named in its declaration, or called as it is."""
    if not op.name.startswith("aten::"):  # torch's function of that name never calls it
        return []
    names = op.opinfo or (base_name(op.name).strip("_"), f"nn.functional.{op.function_name}")
    return [info for info in op_db if info.full_name in names]


def is_brief(ops: Iterable[Op]) -> bool:
    """True for operators of which few samples are taken."""
    return BRIEF and all(o.family == "pointwise" for o in ops)


def cases() -> list[tuple[OpInfo, tuple[Op, ...], torch.dtype]]:
    by_info: dict[str, tuple[OpInfo, list[Op]]] = {}
    for op in all_ops():
        routed = any(is_routed(form, device.dispatch_key()) for form in forms(op))
        for info in infos_of(op) if routed else ():
            by_info.setdefault(info.full_name, (info, []))[1].append(op)
    found = []
    for name in sorted(by_info):
        info, ops = by_info[name]
        dtypes = set().union(*(o.dtypes for o in ops)) & info.supported_dtypes(device.torch_device().type)
        if is_brief(ops) and dtypes & KINDS:
            dtypes &= KINDS
        found += [(info, tuple(ops), dtype) for dtype in sorted(dtypes, key=str)]
    return found


CASES = cases()
IDS = [f"{info.full_name}-{str(dtype)[6:]}" for info, _, dtype in CASES]


def samples_of(info: OpInfo, dtype: torch.dtype, grad: bool, most: int) -> list[SampleInput]:
    """At most `most` samples, spread evenly over all there are."""
    here = device.torch_device().type
    try:
        every = list(itertools.islice(info.reference_inputs(here, dtype, requires_grad=grad), 4000))
    except ValueError:  # where's reference inputs ask for gradients of a bool tensor
        every = list(info.sample_inputs(here, dtype, requires_grad=grad))
    step = max(1, len(every) // most)
    return [stable(s) for s in every[::step]] if info.full_name in UNSTABLE else every[::step]


def stable(sample: SampleInput) -> SampleInput:
    """The same sort, of which equal elements stay in their order."""
    given = dict(zip(("dim", "descending"), sample.args, strict=False)) | sample.kwargs
    return SampleInput(sample.input, kwargs=given | {"stable": True})


def layouts(sample: SampleInput) -> Iterator[SampleInput]:
    yield sample
    if any(t.dim() and t.layout == torch.strided for t in tensors((sample.input, sample.args))):
        yield sample.noncontiguous()


def fresh(value: object) -> object:
    """A copy that keeps strides and requires_grad, so that one run cannot disturb the next."""
    return tree_map(
        lambda t: copy_layout(t).requires_grad_(t.requires_grad) if isinstance(t, Tensor) and t.layout == torch.strided else t,
        value,
    )


def attempt(function: Callable[[], object]) -> tuple[object, Exception | None]:
    try:
        return function(), None
    except ERRORS as error:
        return None, error


@dataclass(frozen=True)
class Trial:
    """One thing to do with ATen's kernels and again with ours. `truth` is None where ATen's own result is the truth."""

    label: str
    function: Callable[[object], object]
    arguments: object
    truth: object = None

    def run(self) -> tuple[object, Exception | None]:
        """On copies of the arguments, from a fixed seed."""
        given = fresh(self.arguments)
        torch.manual_seed(0)
        return attempt(lambda: self.function(given))


# On the interpreter they draw from another stream than ATen's CPU kernels: other operators would differ with them.
ELSEWHERE = [] if ON_GPU else [o.name for o in all_ops() if o.random]


def compare_all(trials: list[Trial], factor: float, random: Sequence[str] = ()) -> None:
    """Run every trial natively, then every one with all operators switched on, and compare. `random` names what is tested."""
    native = [t.run() for t in trials]
    with flag_gems.use_gems(exclude=[name for name in ELSEWHERE if name not in random]):
        ours = [t.run() for t in trials]
    for trial, (expected, native_error), (got, error) in zip(trials, native, ours, strict=True):
        assert type(error) is type(native_error), f"{trial.label}: raised {error!r}, ATen raised {native_error!r}"
        if error is not None:
            assert str(error) == str(native_error), f"{trial.label}: {error} instead of {native_error}"
            continue
        truth = expected if trial.truth is None or random else trial.truth
        if random and not ON_GPU:
            expected = truth = got if [layout_of(t) for t in tensors(got)] == [layout_of(t) for t in tensors(expected)] else expected
        check(trial.label, got, expected, truth, tensors(trial.arguments), factor)
        assert [t.requires_grad for t in tensors(got)] == [t.requires_grad for t in tensors(expected)], trial.label


def truth_of(info: OpInfo, sample: SampleInput) -> object:
    """ATen's result in float64 on the CPU; None if ATen has none there."""
    given = to_truth((sample.input, sample.args, sample.kwargs))
    return attempt(lambda: info(given[0], *given[1], **given[2]))[0]


def run(info: OpInfo) -> Callable[[tuple], object]:
    return lambda given: info(given[0], *given[1], **given[2])


def gradients(info: OpInfo) -> Callable[[tuple], object]:
    """Gradients of the summed results with respect to every input that wants one."""

    def grads(given: tuple) -> object:
        outs = [t for t in tensors(info(given[0], *given[1], **given[2])) if t.requires_grad]
        ins = [t for t in tensors(given) if t.requires_grad]
        total = sum(t.sum() for t in outs)
        return torch.autograd.grad(total, ins, allow_unused=True) if outs and ins else ()

    return grads


def true_gradients(info: OpInfo, sample: SampleInput) -> object:
    """The same gradients in float64 on the CPU; None if ATen has none there."""
    given = (sample.input, sample.args, sample.kwargs)
    wide = tree_map(
        lambda t: to_truth(t).requires_grad_(t.requires_grad) if isinstance(t, Tensor) else to_truth(t), given
    )
    return attempt(lambda: gradients(info)(wide))[0]


def form_trials(info: OpInfo, sample: SampleInput, label: str) -> Iterator[Trial]:
    """The in-place form, and out= in four ways."""
    given = (sample.input, sample.args, sample.kwargs)
    # Elements that share memory are written in no defined order: on a GPU ATen does not agree with itself.
    writable = isinstance(sample.input, Tensor) and not has_overlap(sample.input.shape, sample.input.stride())
    if info.inplace_variant is not None and writable:
        # ATen adds up bfloat16 in bfloat16 on a GPU, so its own result is no truth; of integers it is, for they wrap
        truth = truth_of(info, sample) if sample.input.is_floating_point() else None
        in_place = lambda g: (info.inplace_variant(g[0], *g[1], **g[2]), g[0])  # noqa: E731
        yield Trial(f"{label} in-place", in_place, given, None if truth is None else (truth, truth))
    plain, error = attempt(lambda: run(info)(fresh(given)))
    if info.supports_out and error is None and isinstance(plain, Tensor):
        for kind in ("same", "permuted", "wrong shape", "wrong dtype"):
            # ATen's CPU gelu ignores the strides of a permuted out= (torch 2.13): its own result is no truth.
            truth = truth_of(info, sample) if kind in ("same", "permuted") else None
            yield Trial(f"{label} out= {kind}", with_out(info, plain, kind), given, truth)


def with_out(info: OpInfo, like: Tensor, kind: str) -> Callable[[tuple], object]:
    return lambda g: info(g[0], *g[1], **g[2], out=out_like(like, kind))


def out_like(t: Tensor, kind: str) -> Tensor:
    if kind == "permuted":
        return torch.zeros(t.shape[::-1], dtype=t.dtype, device=t.device).permute(*range(t.dim() - 1, -1, -1))
    shape = (3, *t.shape) if kind == "wrong shape" else t.shape
    other = torch.int8 if t.dtype != torch.int8 else torch.bool
    return torch.zeros(shape, dtype=other if kind == "wrong dtype" else t.dtype, device=t.device)


def trials_of(info: OpInfo, dtype: torch.dtype, few: bool) -> Iterator[Trial]:
    """Values and gradients of every sample in every layout, then the forms of some."""
    grad = info.supports_autograd and dtype in info.supported_backward_dtypes(device.torch_device().type)
    for i, base in enumerate(samples_of(info, dtype, grad, 3 if few else SAMPLES)):
        for sample in layouts(base):
            given = (sample.input, sample.args, sample.kwargs)
            label = f"{info.full_name} {dtype} sample {i} {[tuple(t.shape) for t in tensors(given)]}"
            yield Trial(label, run(info), given, truth_of(info, sample))
            if grad and not (info.full_name in NAN_GRADIENT and sample.input.isnan().any()):
                yield Trial(f"{label} gradient", gradients(info), given, true_gradients(info, sample))
    for i, sample in enumerate(samples_of(info, dtype, False, 1 if few else FORMS_SAMPLES)):
        yield from form_trials(info, sample, f"{info.full_name} {dtype} sample {i}")


@pytest.mark.filterwarnings("ignore")  # ATen warns about resized outputs, with and without us
@pytest.mark.parametrize("info, ops, dtype", CASES, ids=IDS)
def test_samples(info: OpInfo, ops: tuple[Op, ...], dtype: torch.dtype) -> None:
    trials = list(trials_of(info, dtype, is_brief(ops)))
    reset_counters()
    compare_all(trials, max(o.error_factor for o in ops), [o.name for o in ops if o.random])
    bases = {base_name(o.name).rstrip("_") for o in ops if dtype in o.dtypes}
    assert any(c.served for name, c in counters().items() if base_name(name).rstrip("_") in bases), counters()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("info", {c[0].full_name: c[0] for c in CASES if c[0].error_inputs_func}.values(), ids=lambda i: i.full_name)
def test_errors(info: OpInfo) -> None:
    cases = enumerate(info.error_inputs(device.torch_device().type))
    samples = [(i, case.sample_input) for i, case in cases]
    compare_all([Trial(f"{info.full_name} error {i}", run(info), (s.input, s.args, s.kwargs)) for i, s in samples], 1.0)
