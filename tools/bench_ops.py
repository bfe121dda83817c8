"""tools/bench ops: every declared operator against ATen, on its declared workloads."""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import flag_gems
from gems_ops.calls import decode
from gems_ops.op import Op, Sample, all_ops
from gems_ops.register import counts_of
from gems_ops.tolerance import bounds, largest_error, reduction_length
from gems_ops.warming import jobs_for
from gems_ops.workloads import Workload, tensor_bytes
from gems_runtime import device, settings
from gems_runtime.errors import UsageError
from tools import measure
from tools.figures import ROOT
from tools.measure import Side
from tools.report import Column, finish, print_table

Function = Callable[..., object]
HOST_ELEMENTS = 64 * 64
HOST_SHAPES = {"aten::mm": "64x64x64", "aten::addmm": "64x64x64", "aten::bmm": "4x64x64x64"}


@dataclass(frozen=True)
class Row:
    """One workload of one operator."""

    operator: str
    form: str
    dtype: str
    shape: str
    aten_gpu_us: float
    gems_gpu_us: float
    ratio: float  # ATen's GPU time over ours: above 1 we are faster
    share: float  # of the ceiling named next
    share_of: str  # "copy": the measured copy rate; "cublas": cuBLAS at 8192^3 in this dtype
    host_shape: str
    aten_host_us: float
    gems_host_us: float
    correct: bool


COLUMNS = (
    Column("operator", "operator"),
    Column("dtype", "dtype"),
    Column("shape", "shape"),
    Column("ATen us", "aten_gpu_us", ".1f"),
    Column("ours us", "gems_gpu_us", ".1f"),
    Column("ratio", "ratio", ".2f"),
    Column("share", "share", ".0%"),
    Column("of", "share_of"),
    Column("ATen host us", "aten_host_us", ".1f"),
    Column("ours host us", "gems_host_us", ".1f"),
    Column("correct", "correct"),
)


def native_function(op: Op) -> Function:
    """What we are compared with: the overload on ATen's kernels, or the reference of an operator ATen does not have."""
    return op.reference or op.overload


def our_function(op: Op) -> Function:
    """The overload, which our kernel serves while enabled; a custom operator is called itself."""
    return op.overload if op.name.startswith("aten::") else op.fn


def scope(op: Op) -> measure.Scope:
    return lambda: flag_gems.use_gems(include=[op.name])


def widened(value: object) -> object:
    """Arguments with floating point as float64, on the same device."""

    def widen(v: object) -> object:
        if isinstance(v, Tensor) and v.is_floating_point():
            return v.double()
        return torch.float64 if isinstance(v, torch.dtype) and v.is_floating_point else v

    return tree_map(widen, value)


def is_correct(op: Op, args: tuple, kwargs: dict, flops: float = 0.0) -> bool:
    """True if our answer is as near to ATen's float64 answer as its dtype allows, or as ATen's own is.

    `flops` of the call, if it is a matrix product: the sizes of its tensors do not tell how many products it sums up.
    """
    with scope(op)():  # cloned: an operator that only writes out= returns the same tensor to ATen's call next
        got = [t.clone() for t in measure.tensors(our_function(op)(*args, **kwargs))]
    native = measure.tensors(native_function(op)(*args, **kwargs))
    if op.random:
        return _draws_the_same(op, args, kwargs)
    truth = measure.tensors(native_function(op)(*widened(args), **widened(kwargs)))
    if op.any_of_equal:
        return _stand_in_their_places(op, args, kwargs, *got) and _near(got[0], native[0], truth[0], 1)
    inputs = measure.tensors(args)
    lengths = [max(reduction_length(inputs, g), int(flops / 2 / max(g.numel(), 1))) for g in got]
    return all(_near(*results) for results in zip(got, native, truth, lengths, strict=True))


def _stand_in_their_places(op: Op, args: tuple, kwargs: dict, found: Tensor, indices: Tensor) -> bool:
    """True if the indices along dim are distinct, and what stands there is what was found."""
    named = {**dict(zip((a.name for a in op.overload._schema.arguments), args, strict=False)), **kwargs}
    x, dim = named["self"], named.get("dim", -1)
    if found.dim() < x.dim():
        found, indices = found.unsqueeze(dim), indices.unsqueeze(dim)
    there = x.gather(dim, indices)
    same = (there == found) | (there.isnan() & found.isnan())
    return bool(same.all() & (indices.sort(dim).values.diff(dim=dim) != 0).all())


def _draws_the_same(op: Op, args: tuple, kwargs: dict) -> bool:
    """True if both draw the same numbers from one seed."""
    drawn = []
    for enter in (nullcontext, scope(op)):
        torch.manual_seed(0)
        with enter():
            drawn.append([t.clone() for t in measure.tensors(native_function(op)(*args, **kwargs))])
    return all(map(torch.equal, *drawn))


def _near(got: Tensor, native: Tensor, truth: Tensor, length: int) -> bool:
    rtol, atol = bounds(got.dtype, length)
    if torch.allclose(got.to(truth.dtype), truth, rtol=rtol, atol=atol, equal_nan=True):
        return True
    # As in the test suite: inputs are rounded too, so being no worse than ATen by more than its own spread will do.
    same_special = torch.equal(got.isnan(), native.isnan()) and torch.equal(got.isinf(), native.isinf())
    return got.is_floating_point() and same_special and largest_error(got, truth) <= 1.5 * largest_error(native, truth)


def was_served(op: Op, run: Callable[[], object]) -> object:
    """Run, and insist that our kernel served it: timing ATen against itself would flatter everybody."""
    counts = counts_of(op.name)
    served, declined = counts.served, counts.declined
    result = run()
    if counts.served == served or counts.declined != declined:
        raise RuntimeError(f"{op.name} was not served by our kernel in its own benchmark: {dict(counts.reasons)}")
    return result


def sides(op: Op, sets: list[tuple[tuple, dict]]) -> list[Side]:
    """ATen and ours on the same data."""
    native, ours = native_function(op), our_function(op)
    return [
        Side([lambda a=a, k=k: native(*a, **k) for a, k in sets]),
        Side([lambda a=a, k=k: ours(*a, **k) for a, k in sets], scope(op)),
    ]


def host_sample(op: Op, dtype: torch.dtype) -> Sample:
    """A call of 64 x 64 tensors, or where shapes must differ the test sample nearest in size, that our kernel serves."""
    here = device.torch_device()
    dense = [s for s in op.samples(dtype) if all(t.is_contiguous() and t.numel() for t in measure.tensors(s.args))]
    dense.sort(key=lambda s: abs(sum(t.numel() for t in measure.tensors(s.args)) - HOST_ELEMENTS))
    square = square_call(op, dtype)
    candidates = [square] * (square is not None) + [Sample(placed(s.args), {**placed(s.kwargs), **op.placement}) for s in dense]
    counts = counts_of(op.name)
    for sample in candidates:
        served = counts.served
        with scope(op)(), suppress(ValueError):  # sizes that this operator's own arguments do not allow
            our_function(op)(*sample.args, **sample.kwargs)
        if counts.served > served:
            return sample
    raise RuntimeError(f"{op.name} {dtype} on {here}: no dense sample is served by our kernel")


def square_call(op: Op, dtype: torch.dtype) -> Sample | None:
    """The operator's call for 64 x 64, as `gems-cache warm` would build it; None if its tensors have different shapes."""
    try:
        (call,) = jobs_for(op.name, HOST_SHAPES.get(op.name, "64x64"), str(dtype).removeprefix("torch."))
        here = device.torch_device()
        named = {n: decode(a, here) for n, a in call.record["kwargs"].items()}
        sample = Sample(tuple(decode(a, here) for a in call.record["args"]), named)
        native_function(op)(*sample.args, **sample.kwargs)
    except (UsageError, IndexError, ValueError, RuntimeError):  # sizes and dimensions of the first sample that do not fit 64 x 64
        return None
    return sample


def placed(value: object) -> object:
    """Arguments on the device."""
    return tree_map(lambda v: v.to(device.torch_device()) if isinstance(v, Tensor) else v, value)


def shape_text(args: tuple) -> str:
    return ", ".join("x".join(map(str, t.shape)) or "scalar" for t in measure.tensors(args))


def bench(op: Op, workload: Workload, dtype: torch.dtype, host: tuple[str, float, float]) -> Row:
    """One row: the answer is checked first, then both are timed."""
    torch.manual_seed(0)
    sets = list(measure.fresh_sets(lambda: workload.make(dtype, device.torch_device())))
    args, kwargs = sets[0]
    correct = bool(was_served(op, lambda: is_correct(op, args, kwargs, workload.flops(args) if workload.flops else 0.0)))
    timed = measure.stream_times if op.random or op.waits else measure.gpu_times
    aten_us, gems_us = was_served(op, lambda: timed(sides(op, sets)))
    share, of = ceiling_share(op, workload, args, kwargs, dtype, gems_us)
    name = str(dtype).removeprefix("torch.")
    return Row(op.name, "functional", name, workload.label, aten_us, gems_us, aten_us / gems_us, share, of, *host, correct)


def ceiling_share(
    op: Op, workload: Workload, args: tuple, kwargs: dict, dtype: torch.dtype, us: float
) -> tuple[float, str]:
    """How near our time is to what the machine can do, and which ceiling that is."""
    if workload.flops is not None:
        return workload.flops(args) / us * 1e6 / measure.matmul_rate(dtype), "cublas"
    moved = tensor_bytes(*measure.tensors(args)) + tensor_bytes(*measure.tensors(native_function(op)(*args, **kwargs)))
    return moved / us * 1e6 / measure.copy_rate(), "copy"


@lru_cache
def host(op: Op, dtype: torch.dtype) -> tuple[str, float, float]:
    """(shape, ATen's, ours): host time of a small call through the dispatcher."""
    sample = host_sample(op, dtype)
    aten_us, gems_us = measure.host_times(sides(op, [(sample.args, sample.kwargs)]))
    return shape_text(sample.args), aten_us, gems_us


def timed_calls(op: Op, quick: bool) -> Iterator[tuple[Workload, torch.dtype]]:
    """Every workload in every dtype; the first in its last dtype if quick."""
    for workload in op.bench[:1] if quick else op.bench:
        dtypes = [d for d in workload.dtypes if d in op.dtypes]
        for dtype in dtypes[-1:] if quick else dtypes:
            yield workload, dtype


def rows(ops: list[Op], quick: bool, failed: list[str]) -> Iterator[Row]:
    """One for each timed call. What cannot run is named; what breaks the device ends it."""
    for i, op in enumerate(ops):
        print(f"[{i + 1}/{len(ops)}] {op.name}", flush=True)
        for workload, dtype in timed_calls(op, quick):
            try:
                row = bench(op, workload, dtype, host(op, dtype))
                print(f"    {row.dtype} {row.shape}: GPU {row.ratio:.2f} x, host {row.gems_host_us / row.aten_host_us:.2f}")
                yield row
            except Exception as error:  # of any kind: the other operators are still timed
                print(f"{op.name} {workload.label} {dtype}: {type(error).__name__}: {error}", flush=True)
                failed.append(op.name)
                if device_is_lost():
                    return
            free_memory()


def free_memory() -> None:
    """Give back what torch keeps, once that is much: freeing and allocating it again for each row would take half of the time."""
    if torch.cuda.memory_reserved() > torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory // 3:
        torch.cuda.empty_cache()


def device_is_lost() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"the device is lost, nothing more is timed: {error}", flush=True)
        return True
    return False


def compile_calls(ops: list[Op], quick: bool) -> None:
    """Call everything that is timed once, untuned, so that its kernels lie in Triton's cache."""
    with settings.override(tune=settings.Mode.OFF):
        for op in ops:
            for workload, dtype in timed_calls(op, quick):
                with suppress(Exception):  # the timed run names it
                    args, kwargs = workload.make(dtype, device.torch_device())
                    with scope(op)():
                        our_function(op)(*args, **kwargs)
                    host_sample(op, dtype)
                torch.cuda.empty_cache()
    torch.cuda.synchronize()


def compile_in_parallel(jobs: int, argv: list[str]) -> None:
    """As many processes, each with its share of the calls."""
    command = [sys.executable, "-m", "tools.bench_main", "ops", *argv, "--share"]
    shares = [subprocess.Popen([*command, f"{i}/{jobs}"], cwd=ROOT) for i in range(jobs)]
    for share in shares:
        share.wait()


def geomean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


FAMILY_COLUMNS = (
    Column("family", "family"),
    Column("rows", "rows"),
    Column("GPU, ATen / ours", "gpu", ".2f"),
    Column("worst", "gpu_worst", ".2f"),
    Column("of", "gpu_worst_row"),
    Column("host, ours / ATen", "host", ".2f"),
    Column("worst", "host_worst", ".2f"),
    Column("of", "host_worst_row"),
)


def by_family(found: list[Row]) -> list[dict[str, object]]:
    """Geometric means and worst rows of every family."""
    family_of = {o.name: o.family for o in all_ops()}
    return [_family(name, [r for r in found if family_of[r.operator] == name]) for name in sorted({family_of[r.operator] for r in found})]


def _family(name: str, rows: list[Row]) -> dict[str, object]:
    def host(row: Row) -> float:
        return row.gems_host_us / row.aten_host_us

    slow, late = min(rows, key=lambda r: r.ratio), max(rows, key=host)
    return {
        "family": name, "rows": len(rows),
        "gpu": geomean([r.ratio for r in rows]), "gpu_worst": slow.ratio, "gpu_worst_row": f"{slow.operator} {slow.dtype} {slow.shape}",
        "host": geomean([host(r) for r in rows]), "host_worst": host(late), "host_worst_row": f"{late.operator} {late.dtype}",
    }  # fmt: skip


def summary(found: list[Row]) -> str:
    """The geometric means of a table, and its worst row."""
    host = geomean([r.gems_host_us / r.aten_host_us for r in found])
    ratio, worst = geomean([r.ratio for r in found]), min(r.ratio for r in found)
    return f"GPU time, ATen over ours: geomean {ratio:.2f}, worst {worst:.2f}; host time, ours over ATen: geomean {host:.2f}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench ops", description=__doc__)
    parser.add_argument("--family", help="only operators of these families, for example create,shape")
    parser.add_argument("--op", help="only these operators, by schema name, with commas between")
    parser.add_argument("--quick", action="store_true", help="one workload and dtype per operator")
    parser.add_argument("--jobs", type=int, default=0, help="first compile in this many processes; default: while timing")
    parser.add_argument("--share", help=argparse.SUPPRESS)  # i/n: compile this share of the calls, time nothing
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    measure.require_gpu("tools/bench ops")
    families = options.family.split(",") if options.family else sorted({o.family for o in all_ops()})
    wanted = options.op.split(",") if options.op else None
    declared = [o for o in all_ops() if o.family in families and (wanted is None or o.name in wanted)]
    unknown = set(wanted or ()) - {o.name for o in declared}
    if unknown:
        parser.error(f"not declared, or of another family: {', '.join(sorted(unknown))}")
    if not declared:
        families = ", ".join(sorted({o.family for o in all_ops()}))
        parser.error(f"no declared operator matches; the families are {families}")
    timed = [o for o in declared if o.bench]
    if options.share:
        i, n = map(int, options.share.split("/"))
        compile_calls(timed[i::n], options.quick)
        return 0
    if options.jobs:
        compile_in_parallel(options.jobs, argv)
    failed: list[str] = []
    found: list[Row] = []
    try:
        found.extend(rows(timed, options.quick, failed))
    except KeyboardInterrupt:  # what was timed until then is printed and written
        failed.append("stopped")
    print_table(COLUMNS, [asdict(r) for r in found])
    print_table(FAMILY_COLUMNS, by_family(found))
    for name in sorted(o.name for o in declared if not o.bench):
        print(f"not timed, no workload declared: {name}")
    for kind, prefix in (("ATen operators", "aten::"), ("custom operators, beside their formula in torch operators", "gems::")):
        some = [r for r in found if r.operator.startswith(prefix)]
        if some:
            print(f"{kind}: {summary(some)}")
    ceilings = {"copy_bytes_per_s": measure.copy_rate()}
    finish(options.json, "ops", [asdict(r) for r in found], ceilings)
    return 0 if all(r.correct for r in found) and not failed else 1
