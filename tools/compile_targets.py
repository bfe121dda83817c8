"""tools/compile_all: every declared operator's kernels, compiled for real targets on a machine that has none of them.

Operators are called with meta tensors, in the shapes and layouts of their test samples, while Triton compiles for the
target; what is launched goes nowhere. The interpreter that runs the tests accepts code that a compiler rejects.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from gems_ops.calls import Call, encode
from gems_ops.op import Op, all_ops, find
from gems_ops.variants import forms
from gems_runtime.target import compiling_for

TARGETS = ("cuda:80", "cuda:90", "hip:gfx942")
# All samples of float32 are compiled for this target, and every sixth for the other dtypes and targets, whose kernels
# come from the same text; --thorough leaves nothing out.
MAIN_TARGET, MAIN_DTYPE, STEP = "cuda:90", torch.float32, 6
# One dtype of each kind that is compiled differently.
KINDS = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


@dataclass(frozen=True)
class Outcome:
    """One operator on one target."""

    operator: str
    target: str
    launches: int
    errors: tuple[str, ...]  # of samples that did not compile; the first lines of at most three

    @property
    def text(self) -> str:
        return "ok" if self.launches and not self.errors else "failed" if self.errors else "no kernel"


class CountingLauncher:
    """What Triton calls to launch; counts, and launches nothing."""

    launches = 0

    def __init__(self, source: object, metadata: object) -> None:
        """Triton's own signature."""

    def __call__(self, *arguments: object) -> None:
        CountingLauncher.launches += 1


def compile_operator(name: str, target: str, thorough: bool) -> Outcome:
    """Run one operator's samples for one target."""
    (op,) = (o for o in all_ops() if o.name == name)
    before, errors = CountingLauncher.launches, []
    with compiling_for(target) as driver:
        driver.launcher_cls = CountingLauncher
        for dtype in sorted(op.dtypes if thorough else op.dtypes & set(KINDS) or op.dtypes, key=str):
            full = thorough or (target == MAIN_TARGET and dtype == MAIN_DTYPE)
            errors += compile_dtype(op, dtype, 1 if full else STEP)
    return Outcome(name, target, CountingLauncher.launches - before, tuple(errors[:3]))


def compile_dtype(op: Op, dtype: torch.dtype, step: int) -> list[str]:
    """Call an operator on every step-th distinct sample of a dtype; what went wrong."""
    form = forms(op)[0]
    samples = (({"args": encode(s.args), "kwargs": {n: encode(v) for n, v in s.kwargs.items()}}) for s in op.samples(dtype))
    distinct = {json.dumps(record, sort_keys=True): Call(op, form, record) for record in samples}
    errors = []
    for call in list(distinct.values())[::step]:
        # Any failure is a finding here: Triton raises its own errors, ptxas's, and Python's own from a kernel's body.
        try:
            call.run()
        except Exception as error:
            lines = str(error).strip().splitlines()
            errors.append(f"{call.label}: {type(error).__name__}: {lines[-1] if lines else ''}")
    return errors


def work(task: tuple[str, str, bool]) -> Outcome:
    return compile_operator(*task)


def compile_all(names: Iterable[str], targets: Iterable[str], thorough: bool, processes: int) -> list[Outcome]:
    """Every operator for every target, over worker processes, with a line of progress for each."""
    tasks = [(name, target, thorough) for target in targets for name in names]
    found, started = [], time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for outcome in pool.imap_unordered(work, tasks):
            found.append(outcome)
            spent = time.perf_counter() - started
            print(f"[{len(found)}/{len(tasks)}] {spent:5.0f} s  {outcome.operator} for {outcome.target}: {outcome.text}", flush=True)
    return found


def print_outcomes(found: list[Outcome], targets: list[str]) -> None:
    """The table operator x target, then what went wrong."""
    by_place = {(o.operator, o.target): o for o in found}
    names = sorted({o.operator for o in found})
    width = max(map(len, names))
    print(f"\n{'operator':{width}}  " + "  ".join(f"{t:>10}" for t in targets))
    for name in names:
        print(f"{name:{width}}  " + "  ".join(f"{by_place[name, t].text:>10}" for t in targets))
    for outcome in found:
        for error in outcome.errors:
            print(f"{outcome.operator} for {outcome.target}: {error}")
    good = sum(o.text == "ok" for o in found)
    print(f"{good} of {len(found)} operator and target pairs compile")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/compile_all", description=__doc__)
    parser.add_argument("operators", nargs="*", help="schema names; default: every declared operator")
    parser.add_argument("--target", action="append", help=f"default: {', '.join(TARGETS)}")
    parser.add_argument("--thorough", action="store_true", help="every sample of every declared dtype")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    names = [o.name for o in all_ops()]
    if options.operators:
        unknown = [name for name in options.operators if not find(name)]
        if unknown:
            parser.error(f"no operator is called {unknown[0]!r}; docs/operators.md lists them")
        names = [o.name for name in options.operators for o in find(name)]
    targets = options.target or list(TARGETS)
    found = compile_all(names, targets, options.thorough, options.processes)
    print_outcomes(found, targets)
    return 0 if all(o.text == "ok" for o in found) else 1


if __name__ == "__main__":
    sys.exit(main())
