"""Operators that normalise rows: softmax and log_softmax, layer norm and RMS norm, forward and backward."""

from gems_ops.rows import layer_norm, softmax, softmax_backward  # noqa: F401
