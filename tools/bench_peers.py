"""tools/bench peers: our row operators beside ATen's and Liger's kernels (PyPI liger-kernel), forward and with backward."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import flag_gems
from tools import measure
from tools.measure import Side
from tools.report import Column, finish, print_table

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """One call on all three."""

    operator: str
    direction: str
    dtype: str
    shape: str
    aten_us: float
    liger_us: float
    ours_us: float
    over_aten: float  # their time over ours: above 1 we are faster
    over_liger: float


COLUMNS = (
    Column("operator", "operator"),
    Column("direction", "direction"),
    Column("dtype", "dtype"),
    Column("shape", "shape"),
    Column("ATen us", "aten_us", ".1f"),
    Column("Liger us", "liger_us", ".1f"),
    Column("ours us", "ours_us", ".1f"),
    Column("over ATen", "over_aten", ".2f"),
    Column("over Liger", "over_liger", ".2f"),
)


@dataclass(frozen=True)
class Case:
    """One operator: ATen's function, Liger's and ours of the same arguments, of which the first `leaves` are differentiated."""

    name: str
    aten: Function
    liger: Function
    ours: Function
    leaves: int
    shapes: tuple[tuple[int, int], ...]

    def arguments(self, shape: tuple[int, int], dtype: torch.dtype) -> tuple:
        x = torch.randn(shape, dtype=dtype, device="cuda")
        if self.name == "cross_entropy":
            return x, torch.randint(0, shape[1], shape[:1], device="cuda")
        return x, *(torch.randn(shape[1], dtype=dtype, device="cuda") for _ in range(self.leaves - 1))


def cases() -> list[Case]:
    from liger_kernel.transformers import functional as liger

    rows = ((16384, 1024), (16384, 4096), (8192, 8192), (2048, 32768))
    longest = (1024, 65536)  # that Liger's softmax takes
    return [
        Case("rms_norm", lambda x, w: F.rms_norm(x, w.shape, w, 1e-5), lambda x, w: liger.liger_rms_norm(x, w, 1e-5),
             lambda x, w: flag_gems.rms_norm(x, w.shape, w, 1e-5), 2, rows),
        Case("layer_norm", lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-5),
             lambda x, w, b: liger.liger_layer_norm(x, w, b, 1e-5),
             lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-5), 3, rows),
        Case("softmax", lambda x: x.softmax(-1), liger.liger_softmax, lambda x: x.softmax(-1), 1, (*rows, longest)),
        Case("cross_entropy", F.cross_entropy, liger.liger_cross_entropy, flag_gems.cross_entropy_loss, 1,
             ((8192, 32000), (8192, 128256))),
    ]  # fmt: skip


def directions(function: Function, case: Case, sets: list[tuple]) -> dict[str, list[measure.Call]]:
    """Calls without and with gradients, on tensors of the function's own: Liger's write over logits and gradients."""

    def both(args: tuple, grad: Tensor) -> None:
        leaves = [a.detach().requires_grad_() for a in args[: case.leaves]]
        result = function(*leaves, *args[case.leaves :])
        torch.autograd.grad(result, leaves, grad if result.dim() else torch.ones_like(result))

    own = [tuple(a.clone() for a in args) for args in sets]
    return {
        "forward": [lambda a=a: function(*a) for a in own],
        "forward and backward": [lambda a=a, g=torch.randn_like(a[0]): both(a, g) for a in own],
    }


def rows(quick: bool) -> Iterator[Row]:
    for case in cases():
        for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float32):
            for shape in case.shapes[1:2] if quick else case.shapes:
                yield from compare(case, shape, dtype)
                torch.cuda.empty_cache()


def compare(case: Case, shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Row]:
    sets = [made for made, _ in measure.fresh_sets(lambda: (case.arguments(shape, dtype), {}), 2)]
    functions = (case.aten, case.liger, case.ours)
    by_function = [directions(f, case, sets) for f in functions]
    for direction in by_function[0]:
        scopes = (nullcontext, nullcontext, flag_gems.use_gems)
        sides = [Side(calls[direction], scope) for calls, scope in zip(by_function, scopes, strict=True)]
        aten, liger, ours = measure.gpu_times(sides)
        name = str(dtype).removeprefix("torch.")
        yield Row(case.name, direction, name, f"{shape[0]}x{shape[1]}", aten, liger, ours, aten / ours, liger / ours)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape and dtype per operator")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    measure.require_gpu("tools/bench peers")
    try:
        found = list(rows(options.quick))
    except ImportError as error:
        sys.exit(f"tools/bench peers: {error}; pip install liger-kernel")
    print_table(COLUMNS, [asdict(r) for r in found])
    slower = [r for r in found if r.over_liger < 1]
    print(f"faster than Liger on {len(found) - len(slower)} of {len(found)}")
    finish(options.json, "peers", [asdict(r) for r in found], {"copy_bytes_per_s": measure.copy_rate()})
    return 0
