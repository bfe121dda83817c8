"""Reductions: sum, mean, amax."""

import gems_ops.reduce.sums  # noqa: F401
