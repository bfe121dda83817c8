"""Operators that normalise rows: softmax and log_softmax, forward and backward."""

from gems_ops.rows import softmax, softmax_backward  # noqa: F401
