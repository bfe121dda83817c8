"""The zoo of generated launches: kernels, and for each the classes of values that its arguments are drawn from.

The kernels' bodies are all but empty: what reaches the driver matters, and they compile fast.
"""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest

import launch_values as v
import torch
import triton
import triton.language as tl
from launch_zoo import first_config
from triton.runtime.jit import KernelInterface

Pair = namedtuple("Pair", "a b")
Other = namedtuple("Other", "b a")
FACTOR = tl.constexpr(3)


@triton.jit
def plain(x_ptr, y_ptr, n, m, BLOCK: tl.constexpr):
    pass


@triton.jit
def optional(x_ptr, bias, scale=2.5, MODE: tl.constexpr = "a", n=16, WIDE: tl.constexpr = None, flag=False):
    pass


@triton.jit
def annotated(x_ptr, wide: tl.int64, narrow: tl.int32, byte: tl.uint8, half: tl.float16, brain: tl.bfloat16, double: tl.float64, single: tl.float32):
    pass


@triton.jit(do_not_specialize=["n", "x_ptr", 3], do_not_specialize_on_alignment=["y_ptr", "k"])
def unspecialised(x_ptr, y_ptr, n, m, k):
    pass


@triton.jit
def nested(x_ptr, pair, BLOCK: tl.constexpr, more=(1, 16)):
    pass


@triton.jit
def described(a, n, b=None, BLOCK: tl.constexpr = 16):
    pass


@triton.jit
def keywords(x_ptr, *, n, m=7, BLOCK: tl.constexpr = 8):
    pass


def _metadata(grid: object, metadata: object, args: Mapping[str, object]) -> dict[str, object]:
    return {"name": f"stored on {grid}", "bytes": args["n"], "warps": metadata.num_warps}


@triton.jit(launch_metadata=_metadata)
def stored(x_ptr, n, BLOCK: tl.constexpr):
    # Triton plans clusters by what a kernel stores.
    tl.store(x_ptr + tl.arange(0, BLOCK), FACTOR)


@triton.jit
def tuned(x_ptr, y_ptr, n, m, stride, BLOCK: tl.constexpr, EVEN: tl.constexpr, EXTRA: tl.constexpr = 4):
    pass


@triton.jit
def measured(x_ptr, n, SIZE: tl.constexpr, PARITY: tl.constexpr):
    pass


# What pre-run hooks of configs saw, for the runner to compare.
pre_hook_calls: list[Mapping[str, object]] = []


def _pre_hook(named: Mapping[str, object]) -> None:
    pre_hook_calls.append(dict(named))


def _tuned(hook: Callable | None, inside_out: bool) -> KernelInterface:
    configs = [triton.Config({"BLOCK": b}, num_warps=w, num_stages=2, pre_hook=hook) for b, w in ((64, 2), (128, 8), (32, 1))]
    heuristics = triton.heuristics({"EVEN": lambda args: args["m"] % (16 if inside_out else args["BLOCK"]) == 0})
    autotune = triton.autotune(configs, key=["n", "EXTRA"], do_bench=first_config, reset_to_zero=["y_ptr"], restore_value=["x_ptr"])
    return heuristics(autotune(tuned)) if inside_out else autotune(heuristics(tuned))


def _measured() -> KernelInterface:
    return triton.heuristics({"SIZE": lambda args: args["x_ptr"].numel(), "PARITY": lambda args: args["n"] % 2})(measured)


def _single() -> KernelInterface:
    configs = [triton.Config({"BLOCK": 16}, num_warps=8, pre_hook=_pre_hook)]
    return triton.autotune(configs, key=["n"])(triton.heuristics({"EVEN": lambda args: args["n"] > 9})(tuned))


@dataclass(frozen=True)
class Family:
    """One kernel with the classes of values for what a caller passes, in the kernel's order."""

    name: str
    make: Callable[[], KernelInterface]  # a new wrapping of the same jitted function
    classes: Mapping[str, Sequence[v.Class]]
    options: Mapping[str, Sequence[v.Class]] = field(default_factory=dict)
    by_keyword: frozenset[str] = frozenset()
    grids: tuple[Callable, ...] = ()
    fast: bool = True  # most calls are for the fastest tier

    @cache
    def combinations(self) -> list[dict[str, v.Class]]:
        """Combinations of classes: the first classes, those that differ from them in one, and a dozen or more at random.

        Those that differ in one show what a key leaves out, and the others what it takes together.
        """
        slots = {**self.classes, **self.options}
        first = {name: choices[0] for name, choices in slots.items()}
        longest = max(map(len, slots.values()))
        near = [{**first, name: choices[i]} for i in range(1, longest) for name, choices in slots.items() if i < len(choices)]
        pick = random.Random(self.name)
        orders = {name: pick.sample(list(choices), len(choices)) for name, choices in slots.items()}
        # Each round through an argument's classes begins one further on, so that the same ones do not meet again.
        far = [{name: order[(i + i // len(order)) % len(order)] for name, order in orders.items()} for i in range(max(12, longest))]
        mixed = (combination for pair in zip_longest(near, far) for combination in pair)
        return [first, *filter(None, mixed)]

    def __hash__(self) -> int:
        return hash(self.name)


def _wide(count: int) -> Family:
    """A kernel of that many arguments; Triton wants its source in a file."""
    import wide_kernels

    classes = [v.aligned(), v.i32, v.floats, v.i32_16, v.bools, v.shifted()]
    arguments = {f"a{i}": [classes[i % len(classes)], classes[i * i % len(classes)]] for i in range(count)}
    return Family(f"wide_{count}", lambda: getattr(wide_kernels, f"wide_{count}"), arguments or {}, {"num_warps": v.each(v.LEFT_OUT, 2)})


_OPTIONS = {"num_warps": v.each(v.LEFT_OUT, 1, 8), "num_stages": v.each(v.LEFT_OUT, 2)}
_tiles = lambda meta: (triton.cdiv(meta["n"], 64) if meta["n"] > 0 else 1, 2)

FAMILIES = [
    Family("plain", lambda: plain, {"x_ptr": v.tensors, "y_ptr": v.tensors[::3] + [v.none], "n": v.ints, "m": [*v.ints, v.bools, v.floats], "BLOCK": v.constants}, grids=(_tiles,)),
    Family(
        "optional",
        lambda: optional,
        {
            "x_ptr": [v.aligned(), v.shifted(torch.int8)],
            "bias": [v.none, v.aligned(), v.small, v.none, v.floats, v.shifted()],
            "scale": [v.left_out, v.floats, v.none, v.i32, v.one, v.bools],
            "MODE": [v.left_out, *v.each("a", "b", 1, True, None)],
            "n": [v.left_out, v.i32_16, v.one, v.none, v.aligned()],
            "WIDE": [v.left_out, *v.each(tl.float32, tl.int64, False, None, (1,))],
            "flag": [v.left_out, v.bools],
        },
        options=_OPTIONS,
    ),
    Family(
        "annotated",
        lambda: annotated,
        {
            "x_ptr": [v.aligned()],
            "wide": [v.i32, v.one, v.i64, v.i32_16],
            "narrow": [v.i32, v.one, v.i32_16],
            "byte": [v.integers(0, 255, False), v.one, v.i32],
            "half": [v.halves, v.small],
            "brain": [v.floats, v.small],
            "double": [v.floats, v.small, v.i64],
            "single": [v.floats, v.i32, v.one],
        },
        fast=False,
    ),
    Family("unspecialised", lambda: unspecialised, {"x_ptr": v.tensors[:4], "y_ptr": v.tensors[:5], "n": [*v.ints, v.bools], "m": v.ints, "k": v.ints}),
    Family(
        "nested",
        lambda: nested,
        {
            "x_ptr": [v.aligned(), v.shifted()],
            "pair": [
                v.st.tuples(v.aligned(), v.small), v.st.tuples(v.shifted(), v.i32_16, v.one), v.st.builds(Pair, v.aligned(), v.small),
                v.st.builds(Other, v.aligned(), v.small), v.st.just(()), v.st.tuples(v.st.tuples(v.i32, v.none), v.floats, v.bools),
                v.st.tuples(v.st.builds(Pair, v.none, v.i64)), v.st.tuples(v.st.just("text")),
            ],
            "BLOCK": v.each(16, (1, 2), Pair(1, 2.0), (1, True)),
            "more": [v.left_out, v.st.tuples(v.small, v.one), v.none],
        },
        fast=False,
    ),  # fmt: skip
    Family(
        "described",
        lambda: described,
        {
            "a": [
                v.descriptors(torch.float32, (16, 16)), v.descriptors(torch.float16, (16, 16)), v.descriptors(torch.bfloat16, (16, 16)), v.aligned(),
                v.descriptors(torch.float32, (8, 64)), v.descriptors(torch.float32, (8, 8, 8)), v.descriptors(torch.int8, (32,)),
                v.descriptors(torch.float32, (16, 16), "nan"), v.descriptors(torch.float32, (16, 16), wrong=True),
            ],
            "n": [v.small, v.one, v.small_16],
            "b": [v.left_out, v.descriptors(torch.float32, (16, 32)), v.none],
            "BLOCK": [v.left_out, v.st.just(32)],
        },
        fast=False,
    ),  # fmt: skip
    Family("keywords", lambda: keywords, {"x_ptr": [v.aligned()], "n": [v.small, v.one], "m": [v.left_out, v.i64], "BLOCK": [v.left_out, *v.each(8, 2.0)]}, by_keyword=frozenset({"n", "m", "BLOCK"}), fast=False),
    Family(
        "stored",
        lambda: stored,
        {"x_ptr": [v.aligned(), v.shifted()], "n": [v.small, v.small_16, v.one], "BLOCK": v.each(32, 64)},
        options={
            **_OPTIONS,
            "num_ctas": v.each(v.LEFT_OUT, v.LEFT_OUT, 2, 1, 4, 16),
            "launch_cooperative_grid": v.each(v.LEFT_OUT, v.LEFT_OUT, True, False, v.LEFT_OUT, v.LEFT_OUT, True),
            "launch_pdl": v.each(v.LEFT_OUT, True, v.LEFT_OUT, False),
            "maxnreg": v.each(v.LEFT_OUT, v.LEFT_OUT, 64, None),
            "enable_fp_fusion": v.each(v.LEFT_OUT, False, True),
            "debug": v.each(v.LEFT_OUT, v.LEFT_OUT, True, False),
            "extern_libs": v.each(*[v.LEFT_OUT] * 8, {}, ()),
            "no_such_option": v.each(*[v.LEFT_OUT] * 8, 3),
        },
    ),
    *(
        Family(
            name,
            make,
            {"x_ptr": [v.aligned(), v.shifted()], "y_ptr": [v.aligned()], "n": [v.small, v.small_16, v.one], "m": [v.small, v.small_16], "stride": [v.one, v.small], "EXTRA": [v.left_out, *v.each(4, 8.0)]},
            by_keyword=frozenset({"EXTRA"}),
            grids=(lambda meta: (triton.cdiv(abs(meta["n"]) + 1, meta["BLOCK"]),), lambda meta: (meta["BLOCK"], meta["EVEN"] + 1)),
            fast=fast,
        )
        for name, make, fast in (
            ("tuned", lambda: _tuned(None, False), True),
            ("tuned inside heuristics", lambda: _tuned(None, True), True),
            ("tuned with hooks", lambda: _tuned(_pre_hook, False), False),
            ("one config", _single, False),
        )
    ),
    Family("measured", _measured, {"x_ptr": [v.aligned(), v.shifted()], "n": [v.small, v.small_16]}, fast=False),
    Family("odd", lambda: plain, {"x_ptr": [*v.odd, v.aligned()], "y_ptr": [v.aligned()], "n": [*v.odd, v.small], "m": [v.small], "BLOCK": [v.st.just(16), *(o for o in v.odd if o is not v.too_wide)]}, fast=False),
    _wide(0),
    _wide(19),
    _wide(58),
]  # fmt: skip
