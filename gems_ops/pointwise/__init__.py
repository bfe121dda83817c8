"""Pointwise operators: a scalar function each, one engine for all.

tiling, walk, convert, codegen, engine, brief, declare, cases and dynamic are the engine; the other modules declare operators.
"""

from gems_ops.pointwise import (  # noqa: F401  their declarations fill the registry
    activations,
    arithmetic,
    bits,
    bounds,
    comparison,
    functions,
    gradients,
    halves,
    logarithms,
    moves,
    outer,
    rounding,
    select,
    signs,
    triangle,
)
