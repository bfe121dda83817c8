"""Fused functions of language models, as custom operators: rms_norm, silu_and_mul, apply_rotary_pos_emb."""

from gems_ops.fused import gated, rms_norm, rotary  # noqa: F401  their declarations fill the registry
