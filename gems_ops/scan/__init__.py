"""Cumulative operators along any dimension: one engine, one row of arithmetic each.

Top to bottom: cumulative (operators), engine, kernels, steps.
"""

import gems_ops.scan.cumulative  # noqa: F401
