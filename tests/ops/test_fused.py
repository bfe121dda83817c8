"""The fused functions beyond their values: gradients, torch.compile, in-place rotation, and where no kernel can run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from gems_ops.fused import custom
from gems_ops.fused.gated import silu_and_mul, silu_and_mul_out
from gems_ops.fused.gelu_gate import gelu_and_mul
from gems_ops.fused.rms_norm import rms_norm
from gems_ops.fused.rotary import apply_rotary_pos_emb
from gems_ops.fused.skip_norm import add_rms_norm, fused_add_rms_norm, skip_layer_norm, skip_rms_norm
from gems_ops.op import find
from gems_ops.register import counts_of
from gems_runtime import device


NAMES = ("rms_norm", "silu_and_mul", "gelu_and_mul", "apply_rotary_pos_emb", "skip_layer_norm", "add_rms_norm")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device.torch_device())


def call_of(name: str) -> tuple[Callable[..., object], Callable[..., object], list[Tensor]]:
    """(ours, the formula, differentiable inputs)."""
    formula = find(f"gems::{name}")[0].reference
    if name == "rms_norm":
        return (lambda x, w: rms_norm(x, (10,), w, 1e-6)), (lambda x, w: formula(x, [10], w, 1e-6)), [random(3, 4, 10), random(10, seed=1)]
    if name == "silu_and_mul":
        return silu_and_mul, formula, [random(6, 10), random(6, 10, seed=1)]
    if name == "gelu_and_mul":
        return (lambda x, y: gelu_and_mul(x, y, "tanh")), (lambda x, y: formula(x, y, "tanh")), [random(6, 10), random(6, 10, seed=1)]
    x, residual, weight, bias = random(3, 4, 10), random(3, 4, 10, seed=1), random(10, seed=2), random(10, seed=3)
    if name == "skip_layer_norm":
        return (
            (lambda x, r, w, b: skip_layer_norm(x, r, (10,), w, b, 1e-6)),
            (lambda x, r, w, b: formula(x, r, [10], w, b, 1e-6)), [x, residual, weight, bias],
        )  # fmt: skip
    if name == "add_rms_norm":
        return (lambda x, r, w: add_rms_norm(x, r, w, 1e-6)), (lambda x, r, w: formula(x, r, w, 1e-6)), [x, residual, weight]
    angle = random(7, 4, seed=2)
    fixed = (angle.cos(), angle.sin(), torch.tensor([[0, 6, 2]], device=angle.device), True)
    return (lambda q, k: apply_rotary_pos_emb(q, k, *fixed)), (lambda q, k: formula(q, k, *fixed)), [random(1, 3, 2, 8), random(1, 3, 1, 8, seed=1)]


def gradients(function: Callable[..., object], inputs: list[Tensor], weighted: bool) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    # a plain sum() hands backward an expanded gradient
    loss = sum((o * random(*o.shape, seed=5 + i)).sum() if weighted else o.sum() for i, o in enumerate(outputs))
    return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_formula(name: str, weighted: bool) -> None:
    ours, formula, inputs = call_of(name)
    backward = counts_of(f"gems::{name}_backward" if name != "apply_rotary_pos_emb" else f"gems::{name}")
    served = backward.served
    got, want = gradients(ours, inputs, weighted), gradients(formula, inputs, weighted)
    assert backward.served > served
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name: str) -> None:
    ours, _, inputs = call_of(name)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ours(*inputs))
    torch.testing.assert_close(gradients(compiled, inputs, True), gradients(ours, inputs, True))


@pytest.mark.parametrize("name", NAMES)
def test_fake_and_schema_say_what_the_kernel_does(name: str) -> None:
    op = find(f"gems::{name}")[0]
    for sample in list(op.samples(torch.float32))[:3]:
        args = [a.to(device.torch_device()) if isinstance(a, Tensor) else a for a in sample.args]
        torch.library.opcheck(op.overload, args, sample.kwargs, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("grad", [False, True])
def test_rotation_in_place(grad: bool) -> None:
    _, formula, (q, k) = call_of("apply_rotary_pos_emb")
    angle = random(7, 4, seed=2)
    position = torch.tensor([[0, 6, 2]], device=q.device)
    want = formula(q, k)
    q = (q.requires_grad_() * 1) if grad else q.clone()
    k = k.clone()
    got = apply_rotary_pos_emb(q, k, angle.cos(), angle.sin(), position, True, inplace=True)
    assert got[0] is q and got[1] is k
    torch.testing.assert_close((q, k), want)


def test_two_dtypes_and_shapes_are_promoted_and_broadcast() -> None:
    a, b = random(3, 5).to(torch.bfloat16).requires_grad_(), random(5, seed=1).requires_grad_()
    got = silu_and_mul(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.nn.functional.silu(a.float()) * b)
    got.sum().backward()
    assert a.grad.shape == a.shape and b.grad.shape == b.shape and a.grad.dtype == torch.bfloat16


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="normalized_shape"):
        rms_norm(random(3, 10), (9,), random(9))
    with pytest.raises(ValueError, match="residual"):
        skip_layer_norm(random(3, 10), random(4, 10), (10,), random(10), random(10))
    with pytest.raises(ValueError, match="position_ids"):
        apply_rotary_pos_emb(random(1, 3, 2, 8), random(1, 3, 1, 8), random(2, 4), random(2, 4))


@pytest.mark.parametrize("sliced", [False, True])
def test_add_rms_norm_in_place(sliced: bool) -> None:
    x, residual, weight = random(3, 10), random(3, 10, seed=1), random(10, seed=2)
    y, total = find("gems::add_rms_norm")[0].reference(x, residual, weight)
    torch.testing.assert_close(skip_rms_norm(x, residual, (10,), weight), y)
    if sliced:  # rows that lie apart are written where they are; columns that do are copied
        x, residual = (torch.stack([t, t], d)[:, 0] if d == 1 else torch.stack([t, t], d)[..., 0] for d, t in ((1, x), (2, residual)))
    got = fused_add_rms_norm(x, residual, (10,), weight)
    assert got[0] is x and got[1] is residual
    torch.testing.assert_close((x, residual), (y, total))


def test_add_rms_norm_in_place_is_differentiable() -> None:
    leaves = [random(3, 10), random(3, 10, seed=1), random(10, seed=2)]

    def in_place(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return fused_add_rms_norm(x * 1, residual * 1, (10,), weight)

    torch.testing.assert_close(gradients(in_place, leaves, True), gradients(add_rms_norm, leaves, True))


class _Names(TorchDispatchMode):
    """The operators that reach a dispatch mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's own protocol
        self.seen.append(func._overloadpacket._qualified_op_name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_modes_tracers_and_fake_tensors_see_the_operator(name: str) -> None:
    ours, _, inputs = call_of(name)
    with torch.no_grad(), _Names() as names:
        ours(*inputs)
    assert f"gems::{name}" in names.seen
    graph = make_fx(ours)(*inputs).graph
    assert any(str(node.target).startswith(f"gems.{name}") for node in graph.nodes)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(t) for t in inputs]
    result = torch.utils._pytree.tree_leaves(ours(*fakes))
    assert all(isinstance(t, FakeTensor) for t in result)


def test_a_view_with_its_neg_bit_set_is_read_as_its_values() -> None:
    x, weight = torch.view_as_complex(random(3, 1, 2)), random(1, seed=1)
    with torch.no_grad():
        want = rms_norm(x.imag, (1,), weight)  # plans for tensors of these strides
        torch.testing.assert_close(rms_norm(x.conj().imag, (1,), weight), -want)


@pytest.mark.parametrize("name", NAMES)
def test_the_second_call_of_a_signature_makes_no_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _, inputs = call_of(name)
    planned, original = [], custom.on_device_of
    monkeypatch.setattr(custom, "on_device_of", lambda args, plan: planned.append(plan) or original(args, plan))
    padded = [torch.nn.functional.pad(t, (0, 1))[..., :-1] for t in inputs]  # strides that no other test has
    ours(*padded)
    ours(*padded)
    assert len(planned) == 1


WITHOUT_KERNELS = """
import torch
from gems_ops.fused.rms_norm import rms_norm
from gems_ops.register import counts_of
x, w = torch.randn(3, 10, requires_grad=True), torch.randn(10)
y = rms_norm(x, (10,), w)
torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (10,), w, 1e-5))
y.sum().backward()
assert x.grad is not None and counts_of("gems::rms_norm").declined == 1
"""


def test_cpu_tensors_without_the_interpreter_take_the_formula() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", WITHOUT_KERNELS], env=environment, check=True)


def test_silu_and_mul_out_fills_what_it_is_given() -> None:
    a, b = random(4, 6), random(4, 6, seed=1)
    out = torch.empty_like(a)
    assert silu_and_mul_out(a, b, out) is out
    torch.testing.assert_close(out, silu_and_mul(a, b))


def test_an_unknown_approximation_is_an_error() -> None:
    with pytest.raises(ValueError, match="'erf'"):
        gelu_and_mul(random(2), random(2), "erf")
