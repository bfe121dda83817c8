"""Reductions over any dimensions: one engine, one row of arithmetic each.

Top to bottom: products, norms, moments, extrema, sums (operators), cases (their samples), engine, kernels, folds, geometry.
"""

import gems_ops.reduce.extrema
import gems_ops.reduce.moments
import gems_ops.reduce.norms
import gems_ops.reduce.products
import gems_ops.reduce.sums  # noqa: F401
