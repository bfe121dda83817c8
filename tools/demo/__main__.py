"""The quickstart: warm a small Llama model's kernels with gems-cache, run it on them, and say what served it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "tools" / "demo" / "config.json"
TEXT = ROOT / "README.md"
# The interpreter takes about 14 ms a launch, and a forward pass of two layers has about 120.
SEQ, DECODE = 32, 6
# float32 rounding, grown over two layers; a wrong kernel is off by about 1.
LOGIT_TOLERANCE = 1e-4
# A counter's name in the report of `gems-cache warm`.
WARM_NAMES = {"store_hit": "store_hits", "benchmark": "benchmarks", "compile": "compiles"}


def has_gpu() -> bool:
    """Asked in a process of its own: the answer must not start a GPU context here."""
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def warm() -> dict[str, object]:
    """Tune (or with no GPU compile) every kernel the model needs; gems-cache's own report."""
    gems_cache = Path(sys.executable).with_name("gems-cache")
    command = [str(gems_cache), "warm", "--model", str(CONFIG), "--batch", "1"]
    command += ["--seq", str(SEQ), "--decode", str(DECODE), "--dtype", "fp32", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"quickstart: gems-cache warm ended with exit code {done.returncode}; its message is above.")
    return json.loads(done.stdout)


def serve(interpret: bool) -> dict[str, object]:
    """Run the model in a new process, as a server would after warming."""
    env = {**os.environ, "TRITON_INTERPRET": "1"} if interpret else dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "tools.demo.serve", "--config", str(CONFIG), "--text", str(TEXT)]
        command += ["--seq", str(SEQ), "--decode", str(DECODE), "--report", str(report)]
        if subprocess.run(command, env=env, check=False).returncode:
            sys.exit("quickstart: the model did not run; the error is above.")
        return json.loads(report.read_text())


def print_operators(operators: list[dict[str, object]]) -> None:
    """Which kernel served which operator, and how often."""
    width = max(len(o["overload"]) for o in operators)
    print(f"\n  {'operator':{width}}  {'hits':>5}  {'declined':>8}  served by")
    for o in operators:
        print(f"  {o['overload']:{width}}  {o['served']:5}  {o['declined']:8}  {o['kernel'] if o['served'] else 'ATen'}")


def main() -> int:
    gpu = has_gpu()
    print(f"-- warming the model's kernels {'on the GPU' if gpu else 'for cuda:90, with no GPU'}", flush=True)
    started = time.perf_counter()
    warmed = warm()
    warm_s = time.perf_counter() - started
    print(f"-- running the model: prefill {SEQ} bytes of README.md, decode {DECODE} tokens", flush=True)
    report = serve(interpret=not gpu)
    print_operators(report["operators"])

    def total(counter: str) -> int:
        return warmed[WARM_NAMES[counter]] + report["counts"][counter]

    print(f"\n  {total('store_hit')} store hits, {total('benchmark')} benchmarks, {total('compile')} compiles")
    seconds = report["seconds"]
    print(f"  warm {warm_s:.1f} s; model on ATen {seconds['aten']:.2f} s, on these kernels {seconds['gems']:.2f} s"
          + ("" if gpu else " (interpreted: says nothing about speed)"))
    right = report["same_tokens"] and report["logit_error"] < LOGIT_TOLERANCE
    print(f"  tokens {report['tokens']} {'equal' if report['same_tokens'] else 'DIFFER FROM'} ATen's; "
          f"largest logit error {report['logit_error']:.1e} of the logits' spread")
    served = sum(o["served"] for o in report["operators"])
    if not served:
        print("  no operator was served by this project's kernels")
    return 0 if right and served else 1


if __name__ == "__main__":
    raise SystemExit(main())
