"""Generated calls of a family: how the arguments are passed, on which grid and stream, with which hooks, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from launch_families import Family
from launch_values import LEFT_OUT, Class
from triton.tools.tensor_descriptor import TensorDescriptor

Seen = list[tuple[object, ...]]


@dataclass(frozen=True, repr=False)
class Call:
    """One call of a kernel and what it is made under."""

    grid: object  # a grid, or a function from a list of what was seen to a grid that adds to it
    args: tuple[object, ...]
    kwargs: dict[str, object]
    stream: int
    device: int
    hooks: bool  # launch hooks are installed
    pre_run: bool  # the kernel has a pre-run hook
    mistake: str

    def __repr__(self) -> str:
        passed = [show(a) for a in self.args] + [f"{n}={show(a)}" for n, a in self.kwargs.items()]
        around = f"stream {self.stream}, device {self.device}" + ", launch hooks" * self.hooks + ", pre-run hook" * self.pre_run
        return f"[{show(self.grid)}]({', '.join(map(str, passed))}) on {around}"


def show(value: object) -> object:
    """A value as something that equal values share and that reads well."""
    if isinstance(value, torch.Tensor):
        return f"{type(value).__name__}({value.dtype}, {tuple(value.shape)} at {value.data_ptr() if value.device.type == 'cpu' else 0:#x})"
    if isinstance(value, TensorDescriptor):
        return ("descriptor", show(value.base), *map(str, (value.shape, value.strides, value.block_shape, value.padding)))
    if isinstance(value, dict):
        return {name: show(v) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value).__name__, *map(show, value)
    return type(value).__name__, getattr(value, "__qualname__", repr(value))


def _noting(seen: Seen) -> Callable:
    def grid(meta: dict[str, object]) -> tuple[int, int]:
        seen.append(("grid", show(dict(meta))))
        return len(meta) + 1, 2

    return grid


def _listing(seen: Seen) -> Callable:
    return lambda meta: [3, len(seen) + 1]


_good = st.one_of(
    st.tuples(st.integers(1, 2**20)),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(1, 9), st.integers(1, 99), st.integers(1, 99)),
    st.lists(st.integers(1, 46000), min_size=1, max_size=2),
)
# What stock Triton launches nothing for, reads in a way of its own, or refuses. Not what it gets wrong: see
# test_stock_defects.
_strange = st.sampled_from(
    [(0,), (3, 0), (1, 1, 0), (-1,), (2, -3), (2**31 - 1,), (2**31,), (-(2**40),), (), ("a",), (2.0,), (True, 2), (2, 3, 4, 9), (1, 2, 3, "a")]
    + [torch.Size([3]), torch.Size([3, 2]), None, 5, {0: 3}, "12", (None,), lambda meta: (), lambda meta: None, lambda meta: ("a",), lambda meta: (0, 2)]
)


def _grids(family: Family) -> st.SearchStrategy[object]:
    own = [st.sampled_from(family.grids)] * 3 if family.grids else []
    return st.one_of(_good, _good, _good, *own, st.sampled_from((_noting, _listing)), _strange)


@st.composite
def calls(draw: st.DrawFn, family: Family, combination: dict[str, Class]) -> Call:
    """A call with values of these classes."""
    values = {name: draw(strategy) for name, strategy in combination.items()}
    passed = {name: value for name, value in values.items() if value is not LEFT_OUT}
    names = [n for n in passed if n in family.classes]
    positional = next((i for i, n in enumerate(family.classes) if n not in passed or n in family.by_keyword), len(names))
    split = positional if draw(st.booleans()) else draw(st.integers(0, positional))
    args = tuple(passed.pop(name) for name in names[:split])
    kwargs = dict(draw(st.permutations(list(passed.items()))) if draw(st.booleans()) else passed)
    mistake = draw(st.sampled_from([""] * 40 + ["one left out", "one twice", "one too many", "one unknown"]))
    args, kwargs = _with_mistake(family, mistake, names, args, kwargs)
    rarely = st.integers(0, 19).map(lambda n: n == 0)
    return Call(
        grid=draw(_grids(family)),
        args=args,
        kwargs=kwargs,
        stream=draw(st.sampled_from((0, 0, 7, 2**47 + 64))),
        device=draw(st.sampled_from((0, 0, 0, 0, 1))) if family.name == "plain" else 0,
        hooks=draw(rarely),
        pre_run=draw(rarely),
        mistake=mistake,
    )


def _with_mistake(family: Family, mistake: str, names: list[str], args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple, dict]:
    if mistake == "one left out":
        return args[:-1], kwargs
    if mistake == "one twice" and args:
        return args, {**kwargs, names[0]: args[0]}
    if mistake == "one too many":
        return (*args, *[3] * (len(family.classes) + 1)), kwargs
    return args, {**kwargs, "unknown": 1} if mistake == "one unknown" else kwargs
