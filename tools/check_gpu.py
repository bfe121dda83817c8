"""tools/gpu_check: the tests marked gpu, then every benchmark; results as JSON and one Markdown page.

Runs in a copied tree too: it needs python3 with torch, triton and this project's dependencies, and no installation.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tools import bench_launch, bench_models, bench_ops, bench_store, measure
from tools.report import Column, markdown_table, text_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BENCHMARKS: dict[str, Sequence[Column]] = {
    "launch": bench_launch.COLUMNS,
    "store": bench_store.COLUMNS,
    "models": bench_models.COLUMNS,
    "ops": bench_ops.COLUMNS,
}
QUICK = {"ops", "models"}  # those that know --quick


@dataclass(frozen=True)
class Step:
    """One part of the check, and how it ended."""

    name: str
    command: str
    ok: bool
    seconds: float


STEP_COLUMNS = (
    Column("step", "name"),
    Column("ok", "ok"),
    Column("seconds", "seconds", ".0f"),
    Column("command", "command"),
)


def run(name: str, arguments: list[str], log: Path | None = None) -> Step:
    """Run `python -m ...` and show its output as it comes; keep it in `log` too."""
    print(f"== {name}", flush=True)
    command, started = [sys.executable, "-m", *arguments], time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if log is not None:
        log.write_text("".join(lines))
    shown = " ".join(["python", "-m", *arguments])
    return Step(name, shown, process.returncode == 0, time.perf_counter() - started)


def gpu_test_files() -> list[str]:
    """Test files that have tests marked gpu; the others need packages a GPU machine may lack."""
    return [str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text()]


def default_out() -> Path:
    """A directory named after the device."""
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def page(out: Path, steps: list[Step]) -> str:
    """The Markdown page of one check."""
    where = {**measure.machine(), "command": " ".join(["tools/gpu_check", *sys.argv[1:]])}
    parts = [f"# {where['device']}, {where['date']}\n", *(f"- {name}: {value}" for name, value in where.items()), ""]
    parts.append(markdown_table(STEP_COLUMNS, [vars(step) for step in steps]))
    for name, columns in BENCHMARKS.items():
        path = out / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            parts += [f"## {name}\n", f"`{result['command']}`\n", markdown_table(columns, result["rows"])]
            facts = {k: v for k, v in result.items() if isinstance(v, float)}
            parts += [f"{k}: {v:.4g}\n" for k, v in facts.items()]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, help="directory of the results; default: docs/results/DEVICE")
    parser.add_argument("--quick", action="store_true", help="one workload of each operator, one round of the model")
    parser.add_argument("--only", choices=("tests", *BENCHMARKS), action="append", help="only these parts; repeatable")
    parser.add_argument("--operators", action="store_true", help="also run tests/ops on the GPU")
    options = parser.parse_args()
    measure.require_gpu("tools/gpu_check")
    out = (options.out or default_out()).resolve()
    out.mkdir(parents=True, exist_ok=True)
    wanted = options.only or ("tests", *BENCHMARKS)
    steps = []
    if "tests" in wanted:
        steps.append(run("tests", ["pytest", "-m", "gpu", "-s", *gpu_test_files()], out / "tests.txt"))
    if options.operators:
        steps.append(run("operators", ["pytest", "-n", "8", "tests/ops"], out / "operators.txt"))
    for name in (n for n in BENCHMARKS if n in wanted):
        result = out / f"{name}.json"
        result.unlink(missing_ok=True)
        quick = ["--quick"] if options.quick and name in QUICK else []
        steps.append(run(name, ["tools.bench_main", name, "--json", str(result), *quick]))
    (out / "README.md").write_text(page(out, steps))
    print(f"\nresults in {out}\n" + text_table(STEP_COLUMNS, [vars(step) for step in steps]))
    return 0 if all(step.ok for step in steps) else 1


if __name__ == "__main__":
    raise SystemExit(main())
