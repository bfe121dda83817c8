"""Switching on and off: scopes, errors inside them, threads, nesting, and what `explain` and the log say."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

import flag_gems
from gems_ops import register, routing
from gems_ops.op import all_ops, base_name
from gems_ops.register import counts_of
from gems_ops.routing import state
from gems_ops.tolerance import bounds
from gems_ops.variants import forms
from gems_runtime import device, settings
from gems_runtime.errors import UnsupportedOperator, UsageError

ADD = "aten::add.Tensor"


@pytest.fixture(autouse=True, params=["native", "python"])
def router_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test holds for both kinds of routers."""
    native = settings.Native.ON if request.param == "native" else settings.Native.OFF
    if request.param == "native" and routing.module() is None:
        pytest.skip("this machine has no C compiler, so routers are written in Python")
    with settings.override(native=native):
        yield request.param


def tensor(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), device=device.torch_device()).reshape(shape)


def served(name: str = ADD) -> int:
    return counts_of(name).served


def adds_with_gems() -> bool:
    """Whether an addition now reaches our kernel."""
    before = served()
    x = tensor(3)
    x + x
    return served() > before


def test_enable_and_disable_are_idempotent() -> None:
    assert not adds_with_gems()
    flag_gems.enable()
    flag_gems.enable()
    assert adds_with_gems()
    flag_gems.disable()
    flag_gems.disable()
    assert not adds_with_gems()
    assert register.installed() == frozenset()


def test_unused_names_every_overload_of_an_operator() -> None:
    flag_gems.enable(unused=["add"])
    assert not adds_with_gems()
    assert "aten::mul.Tensor" in register.installed()
    assert not {n for n in register.installed() if base_name(n) in ("add", "add_")}


@pytest.mark.parametrize("switch", [lambda: flag_gems.enable(unused=["searchsorted"]), lambda: flag_gems.only_enable(["_to_copy"])])
def test_a_kernel_that_fails_while_others_are_routed_is_not_called(switch: Callable[[], None]) -> None:
    """ATen's CUDA kernel for a number copies it on the GPU as a wrapped number, which torch.library cannot hand to Python."""
    sequence = torch.tensor([1.0, 2.0, 4.0], device=device.torch_device())
    count = register.counts_of("aten::searchsorted.Scalar")
    before = count.served, count.declined
    switch()
    assert torch.searchsorted(sequence, 3).item() == 2 and torch.bucketize(3, sequence).item() == 2
    assert (count.served, count.declined) == (before[0], before[1] + 1)
    assert "aten::searchsorted.Scalar" not in register.installed()
    flag_gems.enable()
    assert torch.searchsorted(sequence, 3).item() == 2 and count.served == before[0] + 1
    flag_gems.only_enable(["mul"])
    assert torch.searchsorted(sequence, 3).item() == 2
    assert (count.served, count.declined) == (before[0] + 1, before[1] + 1), "where nothing copies, it is ATen's"


def test_unknown_names_are_errors() -> None:
    for switch in (lambda: flag_gems.enable(unused=["ad"]), lambda: flag_gems.only_enable(["ad"])):
        with pytest.raises(UsageError, match="'ad'"):
            switch()
    assert register.installed() == frozenset()


def test_scopes_nest_and_restore_after_an_exception() -> None:
    flag_gems.only_enable(["mul"])
    with pytest.raises(ZeroDivisionError), flag_gems.use_gems(include=["add"]):
        assert adds_with_gems()
        with flag_gems.use_gems(exclude=["add"]):
            assert not adds_with_gems()
        assert adds_with_gems()
        1 / 0
    assert not adds_with_gems()
    assert "aten::mul.Tensor" in register.installed()


def test_the_switch_is_seen_by_other_threads() -> None:
    seen = []
    with flag_gems.use_gems(include=["add"]):
        thread = threading.Thread(target=lambda: seen.append(adds_with_gems()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_backward_runs_on_our_kernels() -> None:
    x = tensor(4).requires_grad_()
    before = served("aten::mul.Tensor")
    with flag_gems.use_gems(include=["mul"]):
        (x * x).sum().backward()
    assert served("aten::mul.Tensor") >= before + 3  # one forward, two for the gradient
    assert torch.equal(x.grad, 2 * x)


def test_in_place_bumps_the_version_counter() -> None:
    x = tensor(4)
    with flag_gems.use_gems():
        version = x._version
        x.add_(1)
        assert x._version == version + 1


def test_calls_made_by_an_implementation_go_to_the_native_kernels() -> None:
    state().busy = True
    try:
        with flag_gems.use_gems(include=["add"]):
            assert not adds_with_gems()
    finally:
        state().busy = False


def test_a_failing_implementation_leaves_the_router_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> object:
        raise RuntimeError("kernel failed")

    x, y = tensor(3), tensor(4)
    with flag_gems.use_gems(include=["add"]):
        with monkeypatch.context() as patch:
            patch.setattr(register, "plan_call", lambda *args: fail)
            with pytest.raises(RuntimeError, match="kernel failed"):
                x + x
        assert not state().busy
        assert torch.equal(y + y, 2 * y)



def test_the_second_call_of_a_signature_makes_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, original = [], register.plan_call
    monkeypatch.setattr(register, "plan_call", lambda form, *rest: planned.append(form.name) or original(form, *rest))
    x, out, index = tensor(4, 6), torch.empty_like(tensor(4, 4)), torch.zeros(3, dtype=torch.int64, device=device.torch_device())
    calls = (
        lambda: x @ x.t(), lambda: torch.mm(x, x.t(), out=out), lambda: torch.addmm(x[:, :4], x, x.t(), alpha=0.5),
        lambda: x.softmax(-1), lambda: x.sum(), lambda: x.mean(0), lambda: torch.cat([x, x]), lambda: torch.embedding(x, index),
    )  # fmt: skip
    with flag_gems.use_gems():
        for call in calls:
            call()
        assert len(planned) == len(calls)
        for call in calls:
            call()
        assert len(planned) == len(calls)
        torch.addmm(x[:, :4], x, x.t(), alpha=0.25)  # a number that the plan was built for
        assert planned[-1] == "aten::addmm" and len(planned) == len(calls) + 1


def test_subclasses_and_empty_tensors_are_left_to_aten() -> None:
    with flag_gems.use_gems():
        for x, reason in ((torch.empty(0, device=device.torch_device()), "empty"), (tensor(3).to(torch.complex64), "complex64")):
            before = served()
            x + x
            assert served() == before
            assert any(reason in r for r in counts_of(ADD).reasons)


def test_overlapping_output_is_left_to_aten() -> None:
    flag_gems.enable()
    x = tensor(8)
    before = served("aten::mul.out")
    with pytest.raises(RuntimeError, match="memory location"):
        torch.mul(x[:-1], 2.0, out=x[1:])
    assert served("aten::mul.out") == before
    torch.mul(x, 2.0, out=x)
    assert served("aten::mul.out") == before + 1


def test_a_planned_call_still_looks_for_overlap() -> None:
    """The plan was made for tensors apart; the same shapes and strides come again in one memory."""
    flag_gems.enable()
    x, y = tensor(8), tensor(9)
    torch.mul(x, 2.0, out=y[:8])
    with pytest.raises(RuntimeError, match="memory location"):
        torch.mul(y[1:], 2.0, out=y[:8])
    torch.cat([x[:2], x[2:4]], out=y[:4])
    with pytest.raises(RuntimeError, match="memory location"):
        torch.cat([x[:2], y[3:5]], out=y[:4])
    y[:4].add_(x[:4])
    with pytest.raises(RuntimeError, match="memory location"):
        y[:4].add_(y[3:7])
    before = served("aten::mul.out")
    torch.mul(y[:4], 2.0, out=y[4:8])  # side by side is apart
    torch.mul(x, 2.0, out=x)
    assert served("aten::mul.out") == before + 2


def test_composites_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="matmul"):
        register.refuse_composites(torch.ops.aten.matmul.default, "CPU")


def test_every_form_is_a_schema_that_exists() -> None:
    for op in all_ops():
        if op.name.startswith("aten::"):
            for form in forms(op):
                base, _, overload = form.name.removeprefix("aten::").partition(".")
                assert torch._C._dispatch_find_schema_or_throw(f"aten::{base}", overload)


def test_explain_names_the_reason() -> None:
    x = tensor(2, 3)
    (found,) = [e for e in flag_gems.explain("add", x, x) if e.overload == ADD]
    assert found.served_by == "gems"
    (found,) = [e for e in flag_gems.explain("add", x.cfloat(), x.cfloat()) if e.overload == ADD]
    assert (found.served_by, "complex64" in found.reason) == ("native", True)
    with pytest.raises(UsageError, match="no_such"):
        flag_gems.explain("no_such", x)


def test_record_writes_what_was_reached(tmp_path) -> None:
    path = tmp_path / "ops.log"
    with flag_gems.use_gems(include=["add"], record=True, once=True, path=path):
        x = tensor(3)
        x + x
        x + x
    assert path.read_text().splitlines() == ["GEMS ADD: aten::add.Tensor"]


def test_operators_are_functions_of_the_facade() -> None:
    x = tensor(4).requires_grad_()
    before = served()
    flag_gems.add(x, x).sum().backward()
    assert served() > before
    assert torch.equal(x.grad, torch.full_like(x, 2))
    assert register.installed() == frozenset()
    with pytest.raises(AttributeError, match="no_such"):
        flag_gems.no_such  # noqa: B018


def test_disabled_routers_are_freed() -> None:
    flag_gems.enable()
    alive = [r for r in gc.get_objects() if type(r) is register.Route]
    assert alive
    count = len(alive)
    del alive
    for _ in range(3):
        flag_gems.disable()
        flag_gems.enable()
    gc.collect()
    assert len([r for r in gc.get_objects() if type(r) is register.Route]) <= 2 * count


def test_numbers_promote_as_in_aten() -> None:
    """Python numbers reach a kernel bare; the native kernel must still see them as wrapped numbers."""
    dtypes = (torch.bool, torch.uint8, torch.int32, torch.int64, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
    for dtype in dtypes:
        for shape in ((3,), ()):
            x = torch.ones(shape, dtype=dtype, device=device.torch_device())
            for number in (True, 3, -2, 0.1, float("nan"), 0.5 + 0.25j):
                for function in (torch.add, torch.mul, torch.true_divide):
                    expected = function(x, number)
                    with flag_gems.use_gems(include=["add", "mul", "div"]):
                        got = function(x, number)
                    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                    rtol, atol = bounds(expected.dtype) if not expected.is_complex() else (0.0, 0.0)
                    close = torch.allclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
                    assert close, (dtype, shape, number, function)


def test_an_output_of_another_shape_becomes_that_of_a_number() -> None:
    """Every operand without dimensions is given one for ATen's kernel; the output must not keep it."""
    x = torch.tensor(3, device=device.torch_device())
    for shape in ((), (1,), (3,), (2, 3)):
        out = torch.zeros(shape, dtype=torch.int64, device=device.torch_device())
        with flag_gems.use_gems(include=["add"]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.add(x, 4, out=out)
        assert out.shape == () and out.item() == 7
