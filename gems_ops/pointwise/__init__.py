"""Pointwise operators: a scalar function each, one engine for all."""

from gems_ops.pointwise import activations, arithmetic, select  # noqa: F401  their declarations fill the registry
