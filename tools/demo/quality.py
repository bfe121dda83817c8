"""How far a model in a narrow dtype is from the same model in float32: logits, and gradients of a training step."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import LlamaForCausalLM


def relative_error(got: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth, computed in float32 on the truth's device."""
    gap = (got.to(truth.device, torch.float32) - truth.float()).norm()
    return float(gap / truth.float().norm())


def gradients(model: LlamaForCausalLM, tokens: Tensor, scope: AbstractContextManager[object]) -> dict[str, Tensor]:
    """Gradients of the next-token loss by parameter name, float32, on the CPU. Leaves the model without gradients."""
    with scope:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    found = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def widen(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model itself with its weights, already rounded to their dtype, as float32."""
    return model.to(torch.float32)
