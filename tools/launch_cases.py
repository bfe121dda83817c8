"""The kernels and calls whose launches are timed. The kernels do nothing, so that a GPU keeps up with their launches."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface
from triton.tools.tensor_descriptor import TensorDescriptor

# On a GPU short enough that the launch queue (about 1000 deep) never fills before the synchronisation between bursts.
# Without one short enough that among many some are disturbed by nothing.
BURST = 250 if torch.cuda.is_available() else 50


def first_config(kernel_call: Callable[[], object], quantiles: object) -> list[float]:
    """A benchmark that times nothing: which config wins does not matter here."""
    kernel_call()
    return [1.0, 1.0, 1.0]


@triton.autotune(
    configs=[triton.Config({"BLOCK_M": m, "BLOCK_N": 64, "BLOCK_K": 32}) for m in (64, 128)],
    key=["M", "N", "K"],
    do_bench=first_config,
)
@triton.heuristics({"EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0})
@triton.jit
def _mm_like(
    a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """The signature of a matrix product."""


@triton.jit
def _described(a, b, c, n):
    """Three tiles by tensor descriptor."""


@dataclass(frozen=True)
class Case:
    """One kernel and one call of it."""

    name: str
    kernel: KernelInterface
    grid: str  # source text, evaluated at each call, as a caller's would be
    args: tuple[object, ...]
    constants: dict[str, object]

    def burst(self, kernel: object) -> Callable[[], object]:
        """A function that makes BURST calls written out as a caller writes them."""
        names = [f"a{i}" for i in range(len(self.args))]
        constants = [f"{name}={value!r}" for name, value in self.constants.items()]
        call = f"kernel[{self.grid}]({', '.join(names + constants)})"
        text = f"def make({', '.join(['kernel', *names])}):\n    def burst():\n        for _ in range({BURST}):\n            out = {call}\n        return out\n    return burst\n"
        scope: dict[str, object] = {"triton": triton}
        exec(text, scope)
        return scope["make"](kernel, *self.args)


def wide(folder: Path, name: str, tensors: int, ints: int, constants: int, grid: str = "(1,)") -> Case:
    """A kernel of that many arguments; Triton wants its source in a file."""
    runtime = [f"p{i}" for i in range(tensors)] + [f"n{i}" for i in range(ints)]
    constexprs = [f"C{i}" for i in range(constants)]
    signature = ", ".join(runtime + [f"{c}: tl.constexpr" for c in constexprs])
    path = folder / f"wide_{tensors}_{ints}_{constants}.py"
    path.write_text(f"import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef wide({signature}):\n    pass\n")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    args = (*_tensors(tensors), *[1000 + 17 * i for i in range(ints)])
    return Case(name, module.wide, grid, args, {c: 64 + i for i, c in enumerate(constexprs)})


def _tensors(n: int, *shape: int) -> list[torch.Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [torch.zeros(shape or 64, dtype=torch.float16 if shape else torch.float32, device=device) for _ in range(n)]


FOUR, EIGHT, TUNED = "3 tensors + 1 int", "3 tensors + 4 ints + constexpr", "17 arguments, autotune + heuristics, callable grid"
# Python makes a dict of more than 15 keyword arguments at each call, which takes 0.6 us of the call with 18 (EPYC, 3.11).
MOST = "58 arguments, all by position"


def cases(folder: Path) -> Iterator[Case]:
    yield wide(folder, "0 arguments", 0, 0, 0)
    yield wide(folder, FOUR, 3, 1, 0)
    yield wide(folder, "5 arguments", 3, 1, 1)
    yield wide(folder, EIGHT, 3, 4, 1)
    yield wide(folder, f"{EIGHT}, callable grid", 3, 4, 1, 'lambda meta: (triton.cdiv(meta["n0"], meta["C0"]),)')
    sizes = (64, 64, 32, 32, 1, 64, 1, 64, 1)
    tiles = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 8, "EVEN_K": True}
    yield Case("17 arguments", _mm_like.fn.fn, "(1,)", (*_tensors(3), *sizes), tiles)
    grid = 'lambda meta: (triton.cdiv(meta["M"], meta["BLOCK_M"]) * triton.cdiv(meta["N"], meta["BLOCK_N"]),)'
    yield Case(TUNED, _mm_like, grid, (*_tensors(3), *sizes), {"GROUP": 8})
    yield wide(folder, "19 arguments", 5, 9, 5)
    most = wide(folder, "58 arguments", 14, 26, 18)
    yield most
    yield replace(most, name=MOST, args=(*most.args, *most.constants.values()), constants={})
    described = [TensorDescriptor.from_tensor(t, [16, 16]) for t in _tensors(3, 64, 64)]
    yield Case("3 tensor descriptors + 1 int", _described, "(1,)", (*described, 1000), {})
