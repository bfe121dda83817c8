"""Runs a model without weights, to see which operator calls it makes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gems_runtime.errors import UsageError


def config_from(path: Path) -> object:
    """The transformers configuration in a JSON file (its "model_type" says which class)."""
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        raise UsageError("--model needs transformers: pip install 'gems-runtime[demo]'") from None
    try:
        fields = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable as a model configuration: {error}") from None
    kind = fields.pop("model_type", None) if isinstance(fields, dict) else None
    if kind not in CONFIG_MAPPING:
        raise UsageError(f"{path} names the model_type {kind!r}, which transformers does not know")
    return CONFIG_MAPPING[kind](**fields)


def generate_on_meta(path: Path, batch: int, seq: int, decode: int, dtype: torch.dtype) -> None:
    """Prefill `seq` tokens and decode `decode` more with a model that has shapes but no data."""
    from transformers import AutoModelForCausalLM

    config = config_from(path)
    with torch.device("meta"), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
        tokens, past = torch.zeros((batch, seq), dtype=torch.int64), None
        for _ in range(decode + 1):
            out = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
            tokens, past = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
