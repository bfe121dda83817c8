"""Writes planned calls as straight lines: allocate, launch, return, with everything decided bound beforehand.

Texts recur with other numbers, so each is compiled once and the numbers are bound to it: a plan of a known text costs
some 20 us, compiling one 300 (EPYC, Python 3.11), and a model that generates text makes new plans at every token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gems_ops.layout import contiguous_strides
from gems_runtime import LibEntry

Planned = Callable[..., object]


class Code(str):
    """An expression of a plan's text, where other values are bound."""


class Plan:
    """The steps of one closure. It takes `parameters`, then the tensors of out= if there is one, all by position."""

    def __init__(self, *parameters: str, out: Tensor | tuple[Tensor, ...] | None = None) -> None:
        self.outs = () if out is None else out if isinstance(out, tuple) else (out,)
        self._parameters = [*parameters, *(f"out{i}" for i in range(len(self.outs)))]
        self._lines: list[str] = []
        self._values: list[object] = []
        self._models: dict[tuple[object, ...], tuple[str, torch.dtype]] = {}

    def bind(self, value: object) -> Code:
        """The text of a value: Code as it is, None and switches literally, anything else under a name of its own."""
        if isinstance(value, Code):
            return value
        if value is None or isinstance(value, bool):
            return Code(value)
        self._values.append(value)
        return Code(f"_{len(self._values) - 1}")

    def do(self, line: str, **values: object) -> None:
        """Add a statement; `{name}` in it stands for a value."""
        self._lines.append(line.format(**{name: self.bind(value) for name, value in values.items()}))

    def empty(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, strides: Sequence[int] | None = None
    ) -> Code:
        """Allocate a tensor, contiguous unless strides are given; like one that the plan has, if it has one of this shape and layout.

        empty_strided with a known device takes 1.0 us, torch.empty 2.5; where the former takes 1.5, empty_like takes 1.1, of
        another dtype 1.3 (EPYC, Python 3.11, torch 2.13).
        """
        strides = contiguous_strides(shape) if strides is None else tuple(strides)
        model = self._models.get((tuple(shape), strides, device))
        if model is not None:
            values = {"like": torch.empty_like, "model": Code(model[0])} | ({} if model[1] == dtype else {"dtype": dtype})
            self.do(name + " = {like}({model}" + (", dtype={dtype})" if "dtype" in values else ")"), **values)
            return Code(name)
        self._keep(name, shape, strides, dtype, device)
        self.do(
            name + " = {allocate}({shape}, {strides}, dtype={dtype}, device={device})",
            allocate=torch.empty_strided, shape=tuple(shape), strides=strides, dtype=dtype, device=device,
        )  # fmt: skip
        return Code(name)

    def has(self, name: str, t: Tensor) -> None:
        """Say that a parameter, which the plan binds to nothing else, is like t."""
        self._keep(name, t.shape, t.stride(), t.dtype, t.device)

    def _keep(self, name: str, shape: Sequence[int], strides: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        # of a layout with gaps or overlaps empty_like makes another
        if torch.empty_like(torch.empty_strided(shape, strides, device="meta")).stride() == strides:
            self._models[tuple(shape), strides, device] = name, dtype

    def result(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, i: int = 0) -> Code:
        """Result number i: the given out= tensor, which fits (see `result_buffer`), or a new contiguous one."""
        return Code(f"out{i}") if self.outs else self.empty(f"out{i}", shape, dtype, device)

    def launch(self, kernel: LibEntry, grid: object, *args: object, when: Code | None = None, **options: object) -> None:
        """Launch a kernel; constants by position, which costs less than by name, launch options by name.

        `when` is a condition of each call.
        """
        passed = [self.bind(a) for a in args] + [f"{name}={self.bind(value)}" for name, value in options.items()]
        # `kernel[grid]` is looked up in each call: the one of now may be replaced when the kernel is compiled again
        condition = f"if {when}: " if when else ""
        self._lines.append(f"{condition}{self.bind(kernel)}[{self.bind(grid)}]({', '.join(passed)})")

    def build(self, result: str) -> Planned:
        """The closure, which returns the expression `result`."""
        names = ", ".join(f"_{i}" for i in range(len(self._values)))
        body = "".join(f"        {line}\n" for line in [*self._lines, f"return {result}"])
        text = f"def make({names}):\n    def run({', '.join(self._parameters)}):\n{body}    return run\n"
        return _compiled(text)(*self._values)


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> Callable[..., Planned]:
    scope: dict[str, Callable[..., Planned]] = {}
    exec(compile(text, "<plan>", "exec"), scope)  # noqa: S102  our own text; every value is bound
    return scope["make"]


def call(plan: Callable[..., Planned], *args: object, out: Tensor | tuple[Tensor, ...] | None = None) -> object:
    """Plan one call and make it."""
    if out is None:
        return plan(*args)(*args)
    return plan(*args, out=out)(*args, *(out if isinstance(out, tuple) else (out,)))
