"""tools/bench store: import time, many entries, many processes, what a second process does, how well tuning chooses."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from gems_runtime import device
from tools import bench_entries, bench_tuning
from tools.figures import COLUMNS, ROOT, Row, median, python
from tools.report import finish, print_table

RUNS = 5

IMPORTS = """
import json, time
import torch, triton, triton.language
started = time.perf_counter()
import flag_gems
imported = time.perf_counter()
flag_gems.enable()
print(json.dumps({"import": imported - started, "enable": time.perf_counter() - imported}))
"""

FIRST_CALL = """
import json, time
import torch, flag_gems
from gems_runtime import stats
from gems_ops.register import counters
a, b = (torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16) for _ in range(2))
want = a @ b
flag_gems.enable()
torch.cuda.synchronize()
started = time.perf_counter()
got = a @ b
torch.cuda.synchronize()
seconds = time.perf_counter() - started
served = counters()["aten::mm"].served
flag_gems.disable()
correct = served == 1 and bool((got - want).float().norm() < 1e-2 * want.float().norm())
print(json.dumps({"seconds": seconds, "correct": correct, **stats.snapshot()}))
"""


# The command itself finds operators by entry points, which a copied tree has not.
COMPILE = """
from gems_ops import warming
from gems_runtime import cli, jobs
jobs.providers = lambda: (warming,)
raise SystemExit(cli.main(["warm", "mm", "--shape", "1024x1024x1024", "--target", sys.argv[1], "--json"]))
"""


def importing(folder: Path) -> Iterator[Row]:
    """What importing flag_gems costs above torch and triton, and what switching it on costs then."""
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    runs = [python(IMPORTS, **interpret) for _ in range(RUNS)]
    yield Row("import flag_gems after torch and triton", median(runs, "import"), "s", 0.3)
    yield Row("the first enable(): declarations, registration", median(runs, "enable"), "s")


def first_calls(folder: Path) -> Iterator[Row]:
    """A cold matrix product, then the same in a second process with the store and Triton's cache as the first left them."""
    where = {"GEMS_CACHE_DIR": str(folder / "gems"), "TRITON_CACHE_DIR": str(folder / "triton")}
    cold, warm = python(FIRST_CALL, **where), python(FIRST_CALL, **where)
    yield Row("first call of a cold mm, 1024^3 bf16", cold["seconds"], "s", 5.0, cold["correct"])
    yield Row("benchmarks it ran", cold["benchmark"], "")
    yield Row("first call in a second process", warm["seconds"], "s", 0.05, warm["correct"])
    yield Row("benchmarks the second process ran", warm["benchmark"], "", 0)
    yield Row("compiles the second process ran", warm["compile"], "", 0)


def compiled_elsewhere(folder: Path) -> Iterator[Row]:
    """A process that sees no GPU compiles for this one; then a first call here."""
    where = {"GEMS_CACHE_DIR": str(folder / "gems2"), "TRITON_CACHE_DIR": str(folder / "triton2")}
    target = device.identity().arch
    python(COMPILE, target, CUDA_VISIBLE_DEVICES="", **where)
    cold = python(FIRST_CALL, **where)
    yield Row("first call of a cold mm compiled with no GPU", cold["seconds"], "s", None, cold["correct"])
    yield Row("compiles it ran", cold["compile"], "", 0)


def tuning(folder: Path) -> Iterator[Row]:
    """How well the tuner chooses."""
    return (Row(*row) for row in bench_tuning.choosing())


def devices(folder: Path) -> Iterator[Row]:
    """Warming with every GPU of the host; nothing where there is one."""
    return (Row(*row) for row in (bench_tuning.warming(folder) if torch.cuda.device_count() > 1 else ()))


# name -> what measures it, and whether that needs a GPU
PARTS = {
    "import": (importing, False),
    "reading": (bench_entries.reading, False),
    "packaged": (bench_entries.packaged, False),
    "together": (bench_entries.together, False),
    "many": (bench_entries.many, False),
    "first": (first_calls, True),
    "elsewhere": (compiled_elsewhere, True),
    "tuning": (tuning, True),
    "devices": (devices, True),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench store", description=__doc__)
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeatable")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.part or PARTS:
            measure, needs_gpu = PARTS[name]
            if needs_gpu and not torch.cuda.is_available():
                print(f"left out, no CUDA device: {name}")
            else:
                rows += measure(Path(scratch))
    print_table(COLUMNS, [asdict(r) for r in rows])
    finish(options.json, "store", [asdict(r) for r in rows])
    return 0 if all(r.passes for r in rows) else 1
