"""tools/bench first: what the first call of an operator costs in a process, cold and with its kernels compiled before.

Each operator is called on its first sample in float32, everything switched on, after others have run: what the process
pays once is not in it. Two processes, the second with what the first has compiled. Without a GPU the launches go to a
stand-in for the driver, so the times are the host's alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator

from tools.figures import python
from tools.report import Column, finish, print_table

COLUMNS = (
    Column("operator", "operator"),
    Column("cold ms", "cold_ms", ".1f"),
    Column("compiled before ms", "warm_ms", ".2f"),
    Column("second call us", "second_us", ".1f"),
    Column("compiles", "compiles"),
)
BOUND_COLUMNS = (Column("bound", "what"), Column("at most", "bound", ".0f"), Column("median", "median", ".2f"), Column("largest", "largest", ".2f"), Column("holds", "holds"))
BOUNDS = (("cold_ms", 300.0), ("warm_ms", 5.0))

CALLS = """
import contextlib, gc, json, sys, time
import torch
import flag_gems
from gems_ops.op import all_ops
from gems_ops.register import counts_of
from gems_runtime import device, settings, stats
from tools import fake_cuda, measure
from torch.utils._pytree import tree_map

has_gpu, families = torch.cuda.is_available(), sys.argv[1].split(",")
with contextlib.ExitStack() as stack:
    if not has_gpu:
        fake = stack.enter_context(fake_cuda.active())
        stack.enter_context(fake.unrecorded())
    stack.enter_context(settings.override(tune=settings.Mode.OFF))
    stack.enter_context(torch.no_grad())
    where = device.torch_device()
    ops = [o for o in all_ops() if o.family in families and torch.float32 in o.dtypes and o.name.startswith("aten::")]
    samples = {}
    for op in ops:
        sample = next(iter(op.samples(torch.float32)))
        samples[op] = tree_map(lambda v: v.to(where) if isinstance(v, torch.Tensor) else v, (sample.args, {**sample.kwargs, **op.placement}))
    x = torch.ones(1000, device=where)
    flag_gems.enable()
    for _ in range(3):  # what the process pays once
        torch.ops.aten.mul(x, x), torch.ops.aten.neg(x)
    rows = []
    gc.disable()  # 0.15 s, whenever Python happens to look through all that torch and Triton hold
    for op in ops:
        args, kwargs = samples[op]
        before, served = stats.snapshot()["compile"], counts_of(op.name).served
        started = time.perf_counter()
        op.overload(*args, **kwargs)
        first = time.perf_counter()
        op.overload(*args, **kwargs)
        second = time.perf_counter()
        if counts_of(op.name).served != served:  # else ATen's kernel has served it
            compiled = stats.snapshot()["compile"] - before
            rows.append({"operator": op.name, "first": first - started, "second": second - first, "compiles": compiled})
print(json.dumps(rows))
"""


def rows(families: str) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"GEMS_CACHE_DIR": f"{folder}/gems", "TRITON_CACHE_DIR": f"{folder}/triton"}
        cold, warm = (python(CALLS, families, **environment) for _ in range(2))
    assert [r["operator"] for r in cold] == [r["operator"] for r in warm]
    for a, b in zip(cold, warm, strict=True):
        if b["compiles"]:
            raise SystemExit(f"tools/bench first: the second process compiled {b['compiles']} kernels for {b['operator']}")
        yield {"operator": a["operator"], "cold_ms": a["first"] * 1e3, "warm_ms": b["first"] * 1e3, "second_us": b["second"] * 1e6, "compiles": a["compiles"]}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench first", description=__doc__)
    parser.add_argument("--family", default="pointwise", help="operators of these families, for example pointwise,reduce")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    found = sorted(rows(options.family), key=lambda row: -row["warm_ms"])
    print_table(COLUMNS, found)
    held = []
    for field, bound in BOUNDS:
        times = [row[field] for row in found]
        held.append({"what": field, "bound": bound, "median": statistics.median(times), "largest": max(times), "holds": "yes" if max(times) <= bound else "NO"})
    print_table(BOUND_COLUMNS, held)
    finish(options.json, "first", found, {"bounds": held})
    return 0 if all(row["holds"] == "yes" for row in held) else 1
