"""Llama models with random weights: building one, prefill, and decoding with a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

# The shape of Llama-2-7b, from its published description.
LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Run:
    """What a model made of a prompt: the logits of every position, and the tokens it chose, one row a sequence."""

    logits: Tensor  # [positions, vocabulary], float32 on the CPU
    tokens: list[int]


def build(config: LlamaConfig, dtype: torch.dtype, device: torch.device, attention: str = "eager") -> LlamaForCausalLM:
    """A model with random weights (seed 0), made on the device. "eager" attention is plain matrix products and softmax."""
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def read_config(path: Path) -> LlamaConfig:
    """A configuration file of transformers."""
    return LlamaConfig.from_json_file(path)


def byte_tokens(path: Path, n: int) -> list[int]:
    """The first n bytes of a text as tokens of a vocabulary of 256."""
    return list(path.read_bytes()[:n])


@torch.no_grad()
def run(model: LlamaForCausalLM, prompt: list[int], steps: int, forced: list[int] | None = None, keep: int = 0) -> Run:
    """Prefill the prompt, then decode `steps` tokens greedily, or along `forced` tokens whatever the logits say.

    The prompt's last `keep` positions get logits; all of them if 0.
    """
    device = model.device
    out = model(input_ids=torch.tensor([prompt], device=device), use_cache=True, logits_to_keep=keep)
    rows, tokens = [out.logits[0]], []
    for step in range(steps):
        tokens.append(int(rows[-1][-1].argmax()) if forced is None else forced[step])
        out = model(input_ids=torch.tensor([tokens[-1:]], device=device), past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0])
    return Run(torch.cat(rows).float().cpu(), tokens)
