"""Fused functions of language models, as custom operators: norms of sums, gated activations, rotary embedding."""

from gems_ops.fused import gated, gelu_gate, rms_norm, rotary, skip_norm  # noqa: F401  their declarations fill the registry
