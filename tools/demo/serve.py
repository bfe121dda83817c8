"""Runs the demonstration model twice, on plain ATen and with flag_gems enabled, and reports as JSON what happened."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import flag_gems
from gems_ops.op import Op, all_ops
from gems_ops.register import counters
from gems_ops.variants import forms
from gems_runtime import device, stats
from tools.demo import llama


@dataclass(frozen=True)
class Served:
    """One overload that the model reached."""

    overload: str
    kernel: str
    served: int
    declined: int


@dataclass(frozen=True)
class Report:
    """What the table of the demonstration is made of."""

    device: str
    tokens: list[int]
    same_tokens: bool
    logit_error: float  # largest difference of a logit, over the spread of ATen's logits
    operators: list[Served]
    counts: dict[str, int]
    seconds: dict[str, float]


def served_operators() -> list[Served]:
    """Every overload that a router or a plain function counted."""
    owner: dict[str, Op] = {form.name: op for op in all_ops() for form in forms(op)}
    return [
        Served(name, f"{owner[name].fn.__module__}.{owner[name].fn.__name__}", count.served, count.declined)
        for name, count in sorted(counters().items())
    ]


def serve(config: Path, text: Path, seq: int, decode: int) -> Report:
    """Prefill `seq` bytes of a text and decode greedily, on ATen and on our kernels."""
    where = device.torch_device()
    model = llama.build(llama.read_config(config), torch.float32, where)
    prompt = llama.byte_tokens(text, seq)
    started = time.perf_counter()
    plain = llama.run(model, prompt, decode, keep=1)
    between = time.perf_counter()
    with flag_gems.use_gems():
        ours = llama.run(model, prompt, decode, keep=1)
    ended = time.perf_counter()
    error = (ours.logits - plain.logits).abs().max() / plain.logits.std()
    return Report(
        device=str(where),
        tokens=ours.tokens,
        same_tokens=ours.tokens == plain.tokens,
        logit_error=float(error),
        operators=served_operators(),
        counts=stats.snapshot(),
        seconds={"aten": between - started, "gems": ended - between},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seq", type=int, required=True)
    parser.add_argument("--decode", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    report = serve(options.config, options.text, options.seq, options.decode)
    options.report.write_text(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
