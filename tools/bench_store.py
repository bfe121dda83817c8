"""tools/bench store: import time, first and later reads among 10,000 entries, and what a second process does."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gems_runtime import device, store
from gems_runtime.records import Decision, digest
from tools import bench_tuning
from tools.report import Column, finish, print_table

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = 10_000
RUNS = 5


@dataclass(frozen=True)
class Row:
    """One figure, with the bound it is held to if there is one."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    correct: bool = True

    @property
    def passes(self) -> bool:
        return self.correct and (self.bound is None or self.value <= self.bound)


COLUMNS = (
    Column("what", "what"),
    Column("value", "value", ".3f"),
    Column("unit", "unit"),
    Column("at most", "bound", ".3g"),
    Column("correct", "correct"),
)

IMPORTS = """
import json, time
import torch, triton, triton.language
started = time.perf_counter()
import flag_gems
imported = time.perf_counter()
flag_gems.enable()
print(json.dumps({"import": imported - started, "enable": time.perf_counter() - imported}))
"""

READS = """
import json, statistics, sys, time
from pathlib import Path
from gems_runtime import store
keys = json.loads(Path(sys.argv[2]).read_text())
started = time.perf_counter()
opened = store.open(Path(sys.argv[1]))
first = opened.decision(keys[0])
assert first is not None, "the entries are not on disk"
first_s = time.perf_counter() - started
later = []
for key in keys[1:1001]:
    started = time.perf_counter()
    found = opened.decision(key)
    later.append(time.perf_counter() - started)
    assert found.key == key
print(json.dumps({"first": first_s, "later": statistics.median(later), "found": first.key == keys[0]}))
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


def python(code: str, *arguments: str, **environment: str) -> dict[str, object]:
    """Run code in a new process and read the JSON it prints last."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def decision(i: int) -> Decision:
    """An entry of the size that a tuned matrix product has."""
    config = {"kwargs": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "GROUP": 8}, "num_warps": 8, "num_stages": 3}
    problem = {"key": {"M": i, "N": 4096, "K": 4096}, "arguments": {}, "constants": {}}
    fields = {"problem": problem, "kernel": {"source": "0" * 1200}, "device": {"name": "any", "arch": "cuda:90"}}
    top = [[config, 10.0 + rank] for rank in range(5)]
    return Decision(digest(fields), "bench.kernel", config, fields, top, {"ok": 5})


def reading(folder: Path) -> Iterator[Row]:
    """Open + first hit, and later hits, in new processes."""
    print(f"-- writing {ENTRIES} entries", flush=True)
    filled, keys = store.open(folder / "store"), []
    for i in range(ENTRIES):
        record = decision(i)
        filled.publish(record)
        keys.append(record.key)
    (folder / "keys.json").write_text(json.dumps(keys[::-1]))
    runs = [python(READS, str(folder / "store"), str(folder / "keys.json")) for _ in range(RUNS)]
    found = all(run["found"] for run in runs)
    yield Row(f"open and first hit, {ENTRIES} entries", median(runs, "first") * 1e3, "ms", correct=found)
    yield Row(f"a hit on disk, {ENTRIES} entries", median(runs, "later") * 1e6, "us", correct=found)


def median(runs: list[dict[str, object]], name: str) -> float:
    return statistics.median(float(run[name]) for run in runs)


def importing() -> Iterator[Row]:
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
    yield Row("first call in a second process", warm["seconds"], "s", None, warm["correct"])
    yield Row("benchmarks the second process ran", warm["benchmark"], "", 0)
    yield Row("compiles the second process ran", warm["compile"], "", 0)


def compiled_elsewhere(folder: Path) -> Iterator[Row]:
    """A process that sees no GPU compiles for this one; then a first call here."""
    where = {"GEMS_CACHE_DIR": str(folder / "gems2"), "TRITON_CACHE_DIR": str(folder / "triton2")}
    target = device.identity().arch
    warm = [sys.executable, "-m", "gems_runtime", "warm", "mm", "--shape", "1024x1024x1024", "--target", target]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    subprocess.run(warm, env={**os.environ, **where, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}, check=True)
    cold = python(FIRST_CALL, **where)
    yield Row("first call of a cold mm compiled with no GPU", cold["seconds"], "s", None, cold["correct"])
    yield Row("compiles it ran", cold["compile"], "", 0)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench store", description=__doc__)
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [*importing(), *reading(Path(scratch))]
        if torch.cuda.is_available():
            rows += [*first_calls(Path(scratch)), *compiled_elsewhere(Path(scratch)), *(Row(*row) for row in bench_tuning.choosing())]
        else:
            print("left out, no CUDA device: first call of a cold mm, second process, kernels compiled elsewhere, regret of tuning")
    print_table(COLUMNS, [asdict(r) for r in rows])
    finish(options.json, "store", [asdict(r) for r in rows])
    return 0 if all(r.passes for r in rows) else 1
