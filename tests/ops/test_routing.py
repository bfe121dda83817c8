"""The native router beside the one in Python: what it tells apart, what it passes on, and what it counts."""

from __future__ import annotations

from array import array

import pytest
import torch
from torch import Tensor

from gems_ops import routing
from gems_ops.op import Declined

if routing.module() is None:
    pytest.skip("this machine has no C compiler, so routers are written in Python", allow_module_level=True)


class Recorder:
    """Stands for a route: remembers what it was asked, and decides for a plan that gives back its arguments."""

    def __init__(self, overload: torch._ops.OpOverload, keyed: frozenset[str] = frozenset()) -> None:
        self.asked: list[tuple] = []
        self.passed: list[tuple] = []
        self.cells = array("q", (0, 0))
        self.answer = lambda *values: values
        self.router = routing.native_router(overload._schema.arguments, keyed, self.decide, self.fallback, self.cells)

    def decide(self, values: tuple) -> tuple:
        self.asked.append(values)
        return self.answer, self.native, True

    def native(self, *args: object, **kwargs: object) -> str:
        return "native"

    def fallback(self, *args: object, **kwargs: object) -> str:
        self.passed.append((args, kwargs))
        return "fallback"


ADD = torch.ops.aten.add.Tensor
X = torch.zeros(4, 6)
# Calls of which each must have a decision of its own.
DIFFERENT = {
    "shape": X[:3], "transposed": torch.zeros(6, 4).t(), "strides": torch.zeros(4, 12)[:, ::2], "dtype": X.double(),
    "half": X.half(), "bfloat16": X.bfloat16(), "int8": X.to(torch.int8), "uint8": X.to(torch.uint8), "bool": X.bool(),
    "int32": X.int(), "complex": X.to(torch.complex64), "0-dim": X[0, 0], "1-dim": X[0], "float": 2.0, "int": 2, "switch": True,
    "stride of one index": torch.zeros(4, 6).as_strided((1, 6), (7, 1)), "another": torch.zeros(4, 6).as_strided((1, 6), (9, 1)),
    "expanded": X[:1].expand(4, 6), "float8": X.to(torch.float8_e4m3fn), "other float8": X.to(torch.float8_e5m2),
}  # fmt: skip


def test_every_difference_that_decides_has_its_own_decision() -> None:
    route = Recorder(ADD)
    for value in DIFFERENT.values():
        route.router(X, value)
    assert len(route.asked) == len(DIFFERENT)
    for value in DIFFERENT.values():
        assert route.router(X, value)[1] is value
    assert len(route.asked) == len(DIFFERENT) == route.router.decisions
    assert list(route.cells) == [2 * len(DIFFERENT), 0]


def test_values_of_numbers_and_addresses_do_not_decide() -> None:
    route = Recorder(ADD)
    for other, alpha in ((1.5, 1), (2.5, 3), (float("nan"), -1)):
        assert route.router(torch.ones(4, 6), other, alpha=alpha)[2] == alpha
    assert len(route.asked) == 1


def test_positions_names_and_defaults_make_one_key() -> None:
    route = Recorder(torch.ops.aten._softmax.default)
    assert route.router(X, 1, False) == route.router(X, dim=1, half_to_float=False) == (X, 1, False)
    route.router(X, 0, False)
    assert len(route.asked) == 2


def test_a_keyed_number_decides_by_its_value_and_type() -> None:
    route = Recorder(torch.ops.aten.pow.Tensor_Scalar, frozenset({"exponent"}))
    for exponent in (2, 2.0, 3, True, 0.0, -0.0, 2):
        route.router(X, exponent)
    assert len(route.asked) == 6


@pytest.mark.parametrize(
    "overload, args",
    [
        (ADD, (X.as_subclass(type("Own", (Tensor,), {})), X)),
        (torch.ops.aten.cat.default, ([X, X], X)),
        (torch.ops.aten.rand_like.default, (X, object())),
        (ADD, (X,)),
    ],
)
def test_what_it_cannot_read_goes_to_the_fallback(overload: torch._ops.OpOverload, args: tuple) -> None:
    route = Recorder(overload)
    assert route.router(*args) == "fallback"
    assert not route.asked


def test_lists_of_tensors_decide_by_each() -> None:
    route = Recorder(torch.ops.aten.cat.default)
    for tensors in ([X], [X, X], [X, X[:2]], (X, X), [X, X.double()]):
        route.router(tensors, 0)
    assert len(route.asked) == 4
    route = Recorder(torch.ops.aten.index.Tensor)
    for indices in ([X], [None, X], [X, None]):
        route.router(X, indices)
    assert len(route.asked) == 3


def test_a_declined_call_and_a_busy_thread_go_to_the_native_kernel() -> None:
    def decline(*values: object) -> object:
        raise Declined("this once")

    route = Recorder(ADD)
    route.answer = decline
    assert route.router(X, X) == "native"
    route = Recorder(ADD)
    routing.state().busy = True
    try:
        assert route.router(X, X) == "fallback" and not route.asked  # a plan would not be used
    finally:
        routing.state().busy = False
    assert route.router(X, X) == (X, X, 1)
    routing.state().busy = True
    try:
        assert route.router(X, X) == "native"
    finally:
        routing.state().busy = False
    assert list(route.cells) == [1, 1]


def test_the_table_starts_over_at_its_limit() -> None:
    route = Recorder(torch.ops.aten.select.int)
    for index in range(routing.TABLE_LIMIT + 10):
        route.router(X, 0, index)
    assert route.router.decisions == 10


def test_a_fallback_may_put_another_in_its_place() -> None:
    route, seen = Recorder(ADD), []

    def late(*args: object) -> str:
        seen.append("late")
        route.router.fallback = lambda *args: seen.append("written") or "written"
        return route.router.fallback(*args)

    route.router.fallback = late
    del late
    for _ in range(2):
        assert route.router(object(), X) == "written"
    assert seen == ["late", "written", "written"]
