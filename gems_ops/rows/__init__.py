"""Operators that normalise rows or channels: softmax, log_softmax and the norms, forward and backward."""

from gems_ops.rows import batch_norm, group_norm, layer_norm, softmax, softmax_backward, weight_norm  # noqa: F401
