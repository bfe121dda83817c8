"""Losses, forward and backward: of classes, and element by element."""

from gems_ops.loss import cross_entropy, elementwise, nll  # noqa: F401
