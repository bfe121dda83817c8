"""tools/bench models: tokens per second of a Llama-2-7b-size model in bfloat16, ATen and ours side by side."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import flag_gems
from gems_ops.register import counters, reset_counters
from gems_runtime import stats
from tools import measure
from tools.demo import llama, quality
from tools.report import Column, finish, print_table

PREFILL, DECODE = 512, 64


@dataclass(frozen=True)
class Row:
    """One phase of one model."""

    model: str
    attention: str  # of transformers: "sdpa" is its default, "eager" is matrix products and softmax
    phase: str
    tokens: int
    aten_tokens_per_s: float
    gems_tokens_per_s: float
    ratio: float
    correct: bool  # the logits of both agree within bfloat16 rounding


COLUMNS = (
    Column("model", "model"),
    Column("attention", "attention"),
    Column("phase", "phase"),
    Column("tokens", "tokens"),
    Column("ATen tokens/s", "aten_tokens_per_s", ".0f"),
    Column("ours tokens/s", "gems_tokens_per_s", ".0f"),
    Column("ratio", "ratio", ".2f"),
    Column("correct", "correct"),
)


@torch.no_grad()
def prefill_seconds(model: LlamaForCausalLM, prompt: torch.Tensor) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    model(input_ids=prompt, use_cache=True)
    torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def decode_seconds(model: LlamaForCausalLM, prompt: torch.Tensor, steps: int) -> float:
    """Greedy decoding; the argmax stays on the GPU, so that nothing waits within a step."""
    out = model(input_ids=prompt, use_cache=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def agree(model: LlamaForCausalLM, prompt: torch.Tensor) -> bool:
    """True if both give the same logits within bfloat16 rounding; tests/gpu measures both against float32."""
    with torch.no_grad():
        plain = model(input_ids=prompt).logits
        with flag_gems.use_gems():
            ours = model(input_ids=prompt).logits
    # Two roundings to 2**-9 a layer, independent of each other and of the layers before.
    layers = model.config.num_hidden_layers
    return quality.relative_error(ours, plain) < 2 * 2**-9 * layers**0.5 * 2


def rows(attention: str, rounds: int) -> Iterator[Row]:
    """Prefill and decoding under one kind of attention, in interleaved rounds."""
    config = LlamaConfig(**llama.LLAMA_2_7B)
    model = llama.build(config, torch.bfloat16, torch.device("cuda"), attention)
    prompt = torch.randint(0, config.vocab_size, (1, PREFILL), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    correct = agree(model, prompt)
    phases = {"prefill": (PREFILL, prefill_seconds, ()), "decode": (DECODE, decode_seconds, (DECODE,))}
    for phase, (tokens, seconds, extra) in phases.items():
        taken: dict[str, list[float]] = {"aten": [], "gems": []}
        for round_ in range(rounds + 1):
            for side, scope in (("aten", nullcontext), ("gems", flag_gems.use_gems)):
                with scope():
                    spent = seconds(model, prompt, *extra)
                if round_:  # the first tunes and compiles
                    taken[side].append(spent)
        aten, gems = (tokens / statistics.median(taken[side]) for side in ("aten", "gems"))
        yield Row("Llama-2-7b size, bf16", attention, phase, tokens, aten, gems, gems / aten, correct)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench models", description=__doc__)
    parser.add_argument("--attention", choices=("sdpa", "eager"), action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args(argv)
    measure.require_gpu("tools/bench models")
    reset_counters()
    found = []
    for attention in options.attention or ("sdpa", "eager"):
        print(f"-- {attention} attention", flush=True)
        found += list(rows(attention, 1 if options.quick else options.rounds))
        torch.cuda.empty_cache()
    print_table(COLUMNS, [asdict(r) for r in found])
    reached = {name: [c.served, c.declined] for name, c in counters().items()}
    if not any(served for served, _ in reached.values()):
        raise RuntimeError("no operator was served by our kernels: both sides were ATen")
    finish(options.json, "models", [asdict(r) for r in found], {"served_declined": reached, "counts": stats.snapshot()})
    return 0 if all(r.correct for r in found) else 1
